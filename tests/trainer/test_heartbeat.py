"""The lines between the workers, on loopback: what arrives, what is refused, what an end looks like.

Mutations: the token is not looked at; a second line takes a worker's place; garbage is kept; a full line blocks the sender.
"""
import json
import socket
import time

import pytest

from trainer import heartbeat

TOKEN = [1, 2, 3, 4]
HELLO = {"token": TOKEN, "worker": 1, "facts": {}}


@pytest.fixture
def chief():
    made = heartbeat.Chief("127.0.0.1", workers=3, token=TOKEN)
    yield made
    made.close()


def member(chief, worker=1, token=TOKEN) -> heartbeat.Member:
    return heartbeat.Member("127.0.0.1", chief.port, token=token, worker=worker, facts={"a": "b"})


def heard(links, count: int) -> list:
    """What came, at least so much."""
    found, end = [], time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < end, found
        found += links.poll(0.05)
    return found


def closed(connection: socket.socket, chief) -> bool:
    """Whether the chief ends the connection."""
    connection.settimeout(0.05)
    end = time.monotonic() + 20
    while time.monotonic() < end:
        chief.poll(0.01)
        try:
            return connection.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionResetError:
            return True
    return False


def test_what_is_sent_arrives_on_both_sides(chief):
    one, two = member(chief, 1), member(chief, 2)
    one.send({"step": 7})
    assert sorted(heard(chief, 3), key=str) == [
        (1, {"step": 7}), (1, {**HELLO, "facts": {"a": "b"}}), (2, {**HELLO, "worker": 2, "facts": {"a": "b"}})]
    chief.send({"verdict": "x"})
    assert heard(one, 1) == heard(two, 1) == [(0, {"verdict": "x"})]


def test_an_end_is_seen_after_the_last_word(chief):
    one = member(chief)
    one.send({"bye": 0})
    one.close()
    assert heard(chief, 2)[1] == (1, {"bye": 0})
    while not chief.gone:
        chief.poll(0.01)
    assert chief.gone == {1} and chief.lines == {}


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\n\r\n", b"\x00\xff\n", b"[1, 2]\n", b"null\n", b"[" * 100_000 + b"\n",
    json.dumps({**HELLO, "token": [1, 2, 3, 5]}).encode() + b"\n", json.dumps({**HELLO, "token": None}).encode() + b"\n",
    json.dumps({"worker": 1}).encode() + b"\n", *(json.dumps({**HELLO, "worker": worker}).encode() + b"\n"
                                                  for worker in (0, 3, -1, True, "1", 1e9))])
def test_garbage_and_strangers_are_refused(chief, data):
    one = member(chief, 2)
    heard(chief, 1)
    with socket.create_connection(("127.0.0.1", chief.port)) as stranger:
        stranger.sendall(data)
        assert closed(stranger, chief)
    assert set(chief.lines) == {2} and chief.gone == set()
    one.close()


def test_nobody_takes_anothers_place(chief):
    one = member(chief)
    heard(chief, 1)
    with socket.create_connection(("127.0.0.1", chief.port)) as second:
        second.sendall(json.dumps(HELLO).encode() + b"\n")
        assert closed(second, chief)
    one.send({"step": 1})
    assert heard(chief, 1) == [(1, {"step": 1})]


def test_endless_lines_are_refused(chief):
    with socket.create_connection(("127.0.0.1", chief.port)) as stranger:
        stranger.setblocking(False)
        end = time.monotonic() + 60
        with pytest.raises(OSError):
            while time.monotonic() < end:
                try:
                    stranger.send(b"x" * 65536)
                except BlockingIOError:
                    pass
                chief.poll(0)
    assert chief.lines == {}


def test_many_strangers_do_not_fill_the_chief(chief):
    strangers = [socket.create_connection(("127.0.0.1", chief.port)) for _ in range(3)]
    for _ in range(heartbeat.MOST_STRANGERS):
        strangers.append(socket.create_connection(("127.0.0.1", chief.port)))
        chief.poll(0.01)
    assert closed(strangers[0], chief)
    one = member(chief)
    assert heard(chief, 1)[0][0] == 1
    one.close()
    for stranger in strangers:
        stranger.close()


def test_a_peer_that_takes_nothing_does_not_hold_up_the_sender(chief):
    one = member(chief)
    heard(chief, 1)
    start = time.monotonic()
    for _ in range(200):
        chief.send({"text": "x" * 200_000})
    assert time.monotonic() - start < 20
    assert len(chief.lines[1]._out) <= heartbeat.MOST_WAITING + 200_100
    one.close()
