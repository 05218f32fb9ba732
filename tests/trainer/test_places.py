"""A run's files at gs://: whole or absent whatever request a process dies at; locks; files that grow."""
import json
import os
import subprocess
import sys
import threading
import time

import pytest
import runs
from test_checkpoint import state

from input_pipeline import bucket, storage
from trainer import checkpoint, events, files, growing, lease, manifest, watch, writers
from trainer.config import UserError
from trainer.places import place

RUN = "gs://bucket/run"


class Crash(BaseException):
    """A kill."""


@pytest.fixture
def kill(monkeypatch):
    """kill(n): the n-th request from now on is never made."""
    left, send = [10**9], bucket.call

    def call(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Crash
        return send(*arguments, **options)

    def after(requests):
        left[0] = requests

    monkeypatch.setattr(bucket, "call", call)
    return after


def whole(folder) -> list[int]:
    steps = manifest.published(folder)
    assert all(manifest.damage(folder, step) == "" for step in steps), steps
    return steps


def test_a_path_is_taken_apart_and_put_together_as_one_of_this_machine():
    address = place("gs://bucket/run/", "checkpoints") / "ckpt-1.json"
    assert str(address) == os.fspath(address) == "gs://bucket/run/checkpoints/ckpt-1.json"
    assert (address.name, str(address.parent), address.with_suffix(".index").name) == (
        "ckpt-1.json", "gs://bucket/run/checkpoints", "ckpt-1.index")
    assert address == place("gs://bucket/run/checkpoints/ckpt-1.json") and len({address, place(str(address))}) == 1
    assert isinstance(place("runs/digits"), os.PathLike) and str(place("runs/digits", "a")) == "runs/digits/a"


@pytest.mark.slow
def test_a_save_that_dies_at_any_request_leaves_whole_checkpoints_only(store, kill):
    """Saves and retirements. The next save works, also of the same step. Mutations: the manifest before the data; the data
    deleted before the manifest; what a kill left is not replaced."""
    folder = place(RUN, "checkpoints")
    keep = checkpoint.Checkpointer(folder, state(1.0), keep=1, protected=lambda old: set())
    keep.save(2), keep.wait()
    before = len(store.requests)
    keep.save(3), keep.wait()
    total = len(store.requests) - before
    assert total >= 12 and whole(folder) == [3]
    for limit in range(total):
        kill(limit)
        with pytest.raises(Crash):
            checkpoint.publish(folder, 100 + limit, keep._checkpoint)
            keep._retire()
            raise Crash
        kill(10**9)
        left = whole(folder)
        assert left and left[-1] >= 3, (limit, left)
    checkpoint.publish(folder, 100, keep._checkpoint)  # the first save that died
    keep.save(1000), keep.wait()
    assert whole(folder) == [1000] and len(store.names()) == 3
    other = state(5.0)
    checkpoint.restore(folder, 1000, other)
    assert float(other["model"]["a.Sb/c"]) == 1.0


def test_nobody_writes_over_a_checkpoint_that_another_trainer_published(store):
    """Mutation: the manifest is written whatever lies there."""
    folder, variables = place(RUN, "checkpoints"), checkpoint._trackable(state(1.0))
    checkpoint.publish(folder, 1, variables)
    before = store.read("run/checkpoints/ckpt-00000001.json")
    store.write("run/checkpoints/ckpt-00000001.json", before + b" ")
    with pytest.raises(UserError, match="written by another process"):
        checkpoint.publish(folder, 1, variables)
    assert store.read("run/checkpoints/ckpt-00000001.json") == before + b" "


@pytest.mark.parametrize("damage", ["cut", "flip", "delete", "manifest"])
def test_damage_is_seen_without_reading_the_data_and_set_aside(damage, store):
    """Mutation: only sizes are compared."""
    folder, variables = place(RUN, "checkpoints"), checkpoint._trackable(state(1.0))
    checkpoint.publish(folder, 1, variables)
    checkpoint.publish(folder, 2, variables)
    name = "run/checkpoints/ckpt-00000002.data-00000-of-00001"
    content = store.read(name)
    if damage == "delete":
        store.delete(name)
    elif damage == "manifest":
        store.write("run/checkpoints/ckpt-00000002.json", b"{")
    else:
        store.write(name, content[:-1] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    store.requests.clear()
    step, notes = manifest.newest_whole(folder)
    assert step == 1 and notes[0].startswith("checkpoint 2 is damaged: ckpt-00000002.")
    assert not [path for method, path in store.requests if "/download/" in path and "data-" in path]
    manifest.set_aside(folder, 2)
    assert manifest.published(folder) == [1] and any(name.endswith(".json.damaged") for name in store.names())
    manifest.delete(folder, 2)
    assert not [name for name in store.names() if "00000002" in name]


def test_a_storage_that_does_not_answer_is_no_damage(store, monkeypatch):
    """Mutation: an error in reading counts as damage, so that whole checkpoints are set aside."""
    folder = place(RUN, "checkpoints")
    checkpoint.publish(folder, 1, checkpoint._trackable(state(1.0)))
    store.refuse(503)
    monkeypatch.setattr(bucket, "RANGES_SECS", 1)
    monkeypatch.setattr(bucket.call, "__kwdefaults__", {"timeout": 1})
    for look in (manifest.published, manifest.newest_whole, lambda folder: manifest.damage(folder, 1),
                 lambda folder: watch.done(RUN), lambda folder: writers.JsonLines(folder / "a").exists()):
        with pytest.raises(files.Unreachable, match="does not answer") as caught:
            look(folder)
        assert caught.value.exit_code == 1
    store.refuse(403)
    with pytest.raises(files.Unreachable, match="does not permit") as caught:
        files.write_whole(place(RUN, "DONE"), "{}")
    assert caught.value.exit_code == 2


def test_one_of_many_gets_a_lock_and_a_living_holder_keeps_it(store, monkeypatch):
    """Mutations: no ifGenerationMatch; no renewal."""
    monkeypatch.setattr(lease, "RENEW_SECS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECS", 3)
    monkeypatch.setattr(lease, "LOOK_SECS", 0.05)
    path, won, go = place(RUN, "train", ".lock"), [], threading.Barrier(6)

    def compete(number):
        go.wait()
        try:
            with files.exclusive(path, "another trainer", patience=0):
                won.append(number)
                over.wait()
        except lease.Held:
            pass

    over = threading.Event()
    threads = [threading.Thread(target=compete, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    runs.wait_for(lambda: sum(not thread.is_alive() for thread in threads) == 5, seconds=60)
    assert len(won) == 1 and files.held(path)
    with pytest.raises(lease.Held, match=rf"another trainer \(process {os.getpid()} on .*\); wait for it"):
        with files.exclusive(path, "another trainer", patience=0.2):
            pass
    time.sleep(4)  # longer than an unrenewed lock counts
    assert files.held(path)
    over.set()
    [thread.join() for thread in threads]
    assert store.names() == [] and not files.held(path)


def test_the_lock_of_a_dead_process_comes_free(store, monkeypatch, capsys):
    """Of one of this machine at once, of any other when it is old. Mutations: a lock never ages; any process number counts."""
    path, name = place(RUN, "train", ".lock"), "run/train/.lock"
    program = "import json, sys; from trainer import lease; print(json.dumps(lease._identity()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=runs.ROOT)
    store.write(name, json.dumps({"holder": "1 on here", **json.loads(done.stdout)}).encode())
    assert not files.held(path)
    begun = time.monotonic()
    with files.exclusive(path, "another trainer", patience=0):
        assert time.monotonic() - begun < 2
    monkeypatch.setattr(lease, "LEASE_SECS", 2)
    store.write(name, json.dumps({"holder": "1 on there", "machine": "another", "process": os.getpid()}).encode())
    assert files.held(path)
    begun = time.monotonic()
    with files.exclusive(path, "another trainer", patience=0.1):
        assert 1 <= time.monotonic() - begun < 10
    assert "which may be dead: up to 2 s will tell" in capsys.readouterr().err
    store.write(name, b"\xff not ours")  # whatever it holds, it ages
    with files.exclusive(path, "another trainer", patience=0.1):
        pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the stand-in for os._exit
def test_who_lost_its_lock_ends(store, monkeypatch, capsys):
    """Mutation: a refused renewal is tried again."""
    monkeypatch.setattr(lease, "RENEW_SECS", 0.1)
    ended = threading.Event()
    codes = []
    monkeypatch.setattr(os, "_exit", lambda code: codes.append(code) or ended.set() or sys.exit())
    with files.exclusive(place(RUN, "train", ".lock"), "another trainer"):
        store.write("run/train/.lock", b"{}")
        assert ended.wait(20)
    assert codes == [lease.LOST] and "another process took it; this process ends" in capsys.readouterr().err
    assert store.read("run/train/.lock") == b"{}"  # not given back: it is another one's


def test_lines_are_whole_and_stay_in_order(store, monkeypatch):
    """Small and joined on the server; others see them after flush(); a restart drops those beyond its step. Mutations: a tail
    is written over; drop_after forgets what waits."""
    monkeypatch.setattr(growing, "WHOLE_BYTES", 200)
    path = place(RUN, "train", "metrics.jsonl")
    lines = writers.JsonLines(path, flush_secs=1000)
    assert not lines.exists() and lines.drop_after(0) == 0
    for step in range(1, 8):
        lines.append({"step": step, "loss": 1 / step})
    assert store.names() == []  # they wait
    lines.flush()
    assert [line["step"] for line in writers.JsonLines.read(path)] == list(range(1, 8))
    for step in range(8, 40):
        lines.append({"step": step, "loss": float("nan") if step == 9 else 0.5})
        if step % 4 == 0:
            lines.flush()
            assert [line["step"] for line in writers.JsonLines.read(path)] == list(range(1, step + 1))
    assert any("/compose" in path for _, path in store.requests) and store.names() == ["run/train/metrics.jsonl"]
    restarted = writers.JsonLines(path)
    assert restarted.drop_after(20) == 16
    restarted.append({"step": 21, "loss": 0.5})  # every append is seen at once
    assert [line["step"] for line in writers.JsonLines.read(path)] == list(range(1, 22))


def test_two_that_append_one_after_the_other_lose_nothing(store):
    """Mutation: what the object held is remembered."""
    one, two = (writers.JsonLines(place(RUN, "eval", "a.jsonl"), shared=True) for _ in range(2))
    for step in range(6):
        (one if step % 2 else two).append({"step": step})
    assert [line["step"] for line in writers.JsonLines.read(one.path)] == list(range(6))


def test_events_are_readable_at_any_moment_and_a_flush_sends_the_end_alone(store, tmp_path, monkeypatch):
    monkeypatch.setattr(growing, "WHOLE_BYTES", 5000)
    written = events.Events(f"{RUN}/train", flush_secs=1000)
    written.restart(0)
    for step in range(1, 200):
        written.scalars(step, {"loss": step / 2})
        if step % 50 == 0:
            written.flush()  # not due
            written.settle()
            found = runs.scalars(store.get_folder("run/train", tmp_path / str(step)))
            assert found["loss"] == [(k, k / 2) for k in range(1, step + 1)]
    assert any("/compose" in path for _, path in store.requests)
    written.close()
    second = events.Events(f"{RUN}/train")
    second.restart(100)
    second.scalars(101, {"loss": -1.0})
    second.close()
    found = runs.scalars(store.get_folder("run/train", tmp_path / "after"))
    assert found["loss"] == [(k, k / 2) for k in range(1, 101)] + [(101, -1.0)]


def test_the_ledger_settles_a_step_once(store):
    ledger = watch.Ledger(RUN, "test", best="precision_at_1")
    result = {"ema": {"examples": 10, "loss": 1.0, "precision_at_1": 0.5}}
    with ledger.lock():
        assert ledger.pending([1, 2]) == [1, 2]
        assert ledger.record(1, result) and not ledger.record(1, result)
        ledger.skip(2, "it is gone")
    assert ledger.pending([1, 2, 3]) == [3] and ledger.best()["step"] == 1
    assert [found.folder for found in watch.ledgers(RUN)] == [place(RUN, "eval", "test")]
    assert store.names() == ["run/eval/test/best.json", "run/eval/test/metrics.jsonl", "run/eval/test/skipped.jsonl"]


def test_small_files_are_read_with_suspicion(store):
    store.write("run/a.json", b"[" * 100_000)
    store.write("run/b.json", b" " * (files.LARGEST_BYTES + 1))
    for name, words in (("a", "nested without end"), ("b", "more than")):
        with pytest.raises(ValueError, match=words):
            files.read_json(f"{RUN}/{name}.json")
    with pytest.raises(FileNotFoundError):
        files.read_json(f"{RUN}/none.json")
    assert storage.children(place(RUN)) == ([], ["a.json", "b.json"])
