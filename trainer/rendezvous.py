"""All workers are there, before TensorFlow is asked to connect them: it waits for ever, and lets no thread of Python run meanwhile.

    rendezvous.wait(plan, timeout=300)

Until TensorFlow's server does, a worker itself answers at its address in TF_CONFIG: it takes a connection and ends it. So whoever
tries the address sees that the worker is there, before and after.
"""
import contextlib
import socket
import time

from input_pipeline.rules import NotYet, UserError
from trainer.devices import Plan, host_and_port

AGAIN_SECS = 0.2
TRY_SECS = 2  # for one connection


class Absent(NotYet):
    """Workers that did not come."""


def wait(plan: Plan, *, timeout: float, clock=time.monotonic) -> None:
    """Comes back when every worker's address has answered once. Absent after `timeout` seconds, with those that have not."""
    end = clock() + timeout
    with _answering(plan.addresses[plan.worker]) as turn_away:
        silent = {worker: "" for worker in range(plan.workers) if worker != plan.worker}
        while silent:
            for worker in list(silent):
                turn_away()
                try:
                    socket.create_connection(host_and_port(plan.addresses[worker]), timeout=TRY_SECS).close()
                    del silent[worker]
                except OSError as error:
                    silent[worker] = error.strerror or str(error)
            if silent and clock() > end:
                named = ", ".join(f"worker {worker} at {plan.addresses[worker]} ({why})"
                                  for worker, why in list(silent.items())[:3])
                more = f" and {len(silent) - 3} more" if len(silent) > 3 else ""
                raise Absent(f"within {timeout:g} s (--hang_timeout_secs) nobody answered for {named}{more}; start all "
                             f"{plan.workers} workers with the same TF_CONFIG, and open their ports to each other")
            if silent:
                time.sleep(AGAIN_SECS)
        turn_away()


@contextlib.contextmanager
def _answering(address: str):
    """Listens at the address; gives the function that ends the connections that came, after the other side has."""
    host, port = host_and_port(address)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024)
    except OSError:  # the address is not this machine's, as behind a translation of addresses
        try:
            listener = socket.create_server(("", port), backlog=1024)
        except OSError as error:
            raise UserError(f"TF_CONFIG gives this worker the port {port}, which it cannot have: {error.strerror}; give another, "
                            "or end who has it") from error
    with listener:
        listener.setblocking(False)

        def turn_away():
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()

        yield turn_away
