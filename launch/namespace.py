"""A network of the run's own: TensorFlow's gRPC servers listen on all addresses and execute what they are sent.

    problem = namespace.isolate()      # "", or why it cannot be had here

From then on this process and those that it starts see one network interface, loopback, and nobody else sees it. Linux:
as root, or where users may make namespaces.
"""
import ctypes
import fcntl
import os
import socket
import struct

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def isolate() -> str:
    """Moves this process, which must have one thread, into a network namespace. Returns why not, "" if it is done."""
    problem = _probe()
    if not problem:
        _enter()
    return problem


def _probe() -> str:
    """Tries it in a process of its own, so that a half-done attempt changes nothing here."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        try:
            _enter()
            os.write(write_end, b"!")
        except OSError as error:
            os.write(write_end, f"!{error}".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        answer = pipe.read().decode()
    os.waitpid(child, 0)
    return answer.removeprefix("!") if answer else "the attempt failed"


def _enter() -> None:
    """OSError where the system does not allow it."""
    try:
        _unshare(CLONE_NEWNET)
    except PermissionError:  # not root: root of a user namespace then, in which this user keeps its number
        user, group = os.getuid(), os.getgid()
        _unshare(CLONE_NEWUSER | CLONE_NEWNET)
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", IFF_UP | IFF_RUNNING))


def _unshare(flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system has no namespaces")
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
