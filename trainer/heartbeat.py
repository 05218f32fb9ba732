"""Heartbeats: every worker tells the chief where it is, and the chief tells them that it is there. Lines of JSON over TCP.

    chief = heartbeat.Chief("10.0.0.1", workers=4)            # chief.port, chief.token: to be told to the others
    member = heartbeat.Member("10.0.0.1", port, token, worker=2, facts={...})
    member.send({"step": 7})
    for worker, message in chief.poll(seconds=0.05): ...      # (2, {"step": 7})
    chief.gone                                                # workers whose connection ended

What is heard is shown and compared, never run. The chief listens on its own address in TF_CONFIG, and ends whatever connection
does not begin with the run's token, which only travels inside the workers' own all-reduce.
"""
import json
import selectors
import socket

LONGEST_LINE = 1 << 20  # bytes
MOST_WAITING = 1 << 24  # bytes that a peer has not taken: it is stopped, and its silence is what counts
TOKEN_PARTS, PART_BITS = 4, 30  # a token is a few numbers that fit into int32
MOST_STRANGERS = 64  # connections that have not said who they are; the oldest goes first
CONNECT_SECS = 20


class Line:
    """One connection: what came as whole lines of JSON objects, what still has to go."""

    def __init__(self, connection: socket.socket):
        connection.setblocking(False)
        self.socket, self.open = connection, True
        self._in = self._out = b""

    def receive(self) -> list[dict]:
        """What came since the last call. Garbage, and the end of the connection, close it."""
        try:
            while self.open and (data := self.socket.recv(1 << 16)):
                self._in += data
                if len(self._in) > LONGEST_LINE:
                    self.close()
            self.close()  # the end
        except BlockingIOError:
            pass
        except OSError:  # reset by the other side, which says no more than an end does
            self.close()
        *lines, self._in = self._in.split(b"\n")
        found = []
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self.close()
                break
            found.append(message)
        return found

    def send(self, message: dict) -> None:
        """Sends as much as goes now; the rest with later calls."""
        if self.open and len(self._out) < MOST_WAITING:
            self._out += json.dumps(message).encode() + b"\n"
        self.flush()

    def flush(self) -> None:
        """Sends what waits."""
        try:
            while self.open and self._out:
                self._out = self._out[self.socket.send(self._out):]
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def close(self) -> None:
        """Ends the connection."""
        self.open = False
        self.socket.close()


class Links:
    """A worker's lines to others, by their number. gone: those whose line ended."""

    def __init__(self):
        self.lines: dict[int, Line] = {}
        self.gone: set[int] = set()
        self._selector = selectors.DefaultSelector()

    def poll(self, seconds: float) -> list[tuple[int, dict]]:
        """Waits at most so long; what came, with the number of who sent it."""
        self._selector.select(seconds)
        found = []
        for worker, line in list(self.lines.items()):
            line.flush()
            found += [(worker, message) for message in line.receive()]
            if not line.open:
                del self.lines[worker]
                self.gone.add(worker)
                self._forget(line)
        return found

    def send(self, message: dict) -> None:
        """To everybody."""
        for line in self.lines.values():
            line.send(message)

    def close(self) -> None:
        """Ends everything."""
        for line in self.lines.values():
            line.close()
        self._selector.close()

    def _forget(self, line: Line) -> None:
        known = [key for key in self._selector.get_map().values() if key.fileobj is line.socket]
        for key in known:
            self._selector.unregister(key.fd)


class Chief(Links):
    """Worker 0: listens on `host`, its own address (where that is not this machine's, as behind a translation of addresses, on
    all). token: numbers below 2^30."""

    def __init__(self, host: str, *, workers: int, token: list[int]):
        super().__init__()
        self.token, self._workers = token, workers
        self._new: list[Line] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, 0), family=family, backlog=workers)
        except OSError:
            self._listener = socket.create_server(("", 0), backlog=workers)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._selector.register(self._listener, selectors.EVENT_READ)

    def poll(self, seconds: float) -> list[tuple[int, dict]]:
        found = super().poll(seconds)
        try:
            while True:
                line = Line(self._listener.accept()[0])
                self._new.append(line)
                self._selector.register(line.socket, selectors.EVENT_READ)
        except BlockingIOError:
            pass
        for line in self._new[:-MOST_STRANGERS]:
            line.close()
        for line in self._new[:]:
            messages = line.receive()
            first = messages[0] if messages else {}
            worker = first.get("worker")
            if messages and first.get("token") == self.token and type(worker) is int and 0 < worker < self._workers \
                    and worker not in self.lines:
                self._new.remove(line)
                self.lines[worker] = line
                found += [(worker, message) for message in messages]
            elif messages or not line.open:
                line.close()
                self._new.remove(line)
                self._forget(line)
        return found

    def close(self) -> None:
        super().close()
        self._listener.close()


class Member(Links):
    """Any other worker: one line, to the chief. OSError if it cannot be reached."""

    def __init__(self, host: str, port: int, *, token: list[int], worker: int, facts: dict):
        super().__init__()
        connection = socket.create_connection((host, port), timeout=CONNECT_SECS)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lines[0] = Line(connection)
        self._selector.register(connection, selectors.EVENT_READ)
        self.send({"token": token, "worker": worker, "facts": facts})
