"""launch.tpu_check: what it concludes, what it exits with, and, where libtpu is installed, a real compilation."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from launch import chips, network, tpu_check

ROOT = pathlib.Path(tpu_check.__file__).parents[1]
GIB = 2**30
LOWERED = {
    "replicas": 4, "recipe": "digits", "model": "digits_cnn", "precision": "bfloat16", "optimizer": "sgd", "rows": 8,
    "global_batch_size": 32, "parameters": 100, "variables": {"model/w": [[10, 10], "float32"], "ema/w": [[10, 10], "float32"],
                                                              "optimizer/iterations": [[], "int64"]},
    "programs": [{"name": "gradients", "form": "step", "arguments": ["0/input", "model/w"], "collectives": [404, 8]},
                 {"name": "update", "form": "step", "arguments": ["0", "model/w", "ema/w", "optimizer/iterations"],
                  "collectives": []}]}
GRADIENTS = {"name": "gradients", "seconds": 1.0, "argument_bytes": 5000, "output_bytes": 600, "alias_bytes": 100,
             "temporary_bytes": 70, "code_bytes": 3, "flops": 197e9, "bytes_accessed": 1e6, "parameters": [4000, 1000],
             "collectives": [["all-reduce", 4_000_000]]}
UPDATE = {"name": "update", "seconds": 1.0, "argument_bytes": 4000, "output_bytes": 2000, "alias_bytes": 2000,
          "temporary_bytes": 0, "code_bytes": 1, "flops": 1e3, "bytes_accessed": 819e6,
          "parameters": [400, 1000, 1500, 512], "collectives": []}


def test_memory_is_the_program_and_the_variables_beside_it():
    result = tpu_check.judged("v5e:2x2", LOWERED, [GRADIENTS, UPDATE])
    gradients, update = result["programs"]
    assert gradients["beside_bytes"] == 1500 + 512  # as they are laid out for the update: neither is its argument
    assert gradients["peak_bytes"] == 1500 + 512 + 5000 + 600 - 100 + 70 + 3
    assert update["beside_bytes"] == 0 and update["peak_bytes"] == 4001
    assert result["step"]["peak_bytes"] == gradients["peak_bytes"] and result["fits"]
    assert gradients["collectives_asked"] == 2 and gradients["collectives"] == 1


def test_time_is_a_roofline_and_the_sum_over_cores():
    result = tpu_check.judged("v5e:2x2", LOWERED, [GRADIENTS, UPDATE])
    all_reduce = network.torus(chips.TPUS["v5e"], (2, 2))(4e6)
    assert result["programs"][0]["roofline_seconds"] == pytest.approx(1e-3)  # 197 GFLOP at 197 TFLOPS
    assert result["programs"][1]["roofline_seconds"] == pytest.approx(1e-3)  # 819 MB at 819 GB/s
    assert result["step"]["seconds"] == pytest.approx(2e-3 + all_reduce)
    assert "it fits" in tpu_check.text(result) and "2 were asked for" in tpu_check.text(result)


def test_what_does_not_fit_or_compile_is_said():
    large = tpu_check.judged("v5e:2x2", LOWERED, [{**GRADIENTS, "temporary_bytes": 17 * GIB}, UPDATE])
    assert not large["fits"] and "DOES NOT FIT" in tpu_check.text(large)
    broken = tpu_check.judged("v5e:2x2", LOWERED, [{"name": "gradients", "error": "Ran out of memory"}, UPDATE])
    assert not broken["fits"] and "step" not in broken and "does not compile: Ran out" in tpu_check.text(broken)


def run(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "launch.tpu_check", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("arguments, words", [
    (["--topology=v5e:4x4x4"], "--topology=v5e:4x4x4 v5e has 2 axes"),
    (["--topology=h100:8"], "chips: v2"),
    (["--recipe=No such"], "--recipe=No such must be a recipe's name"),
    (["--recipe=resnet"], "--recipe=resnet must be one of"),
    (["--", "--global_batch_size=126"], "124 or 128"),
    (["--", "--learning_rate=-1"], "--learning_rate=-1"),
    (["--tpu_python=/nonexistent/python"], "make tpu-check"),
    (["--chips=4"], "is not a flag"),
])
def test_wrong_commands_are_one_line_and_code_2(arguments, words):
    given = arguments if any(a.startswith("--tpu_python") for a in arguments) else [f"--tpu_python={sys.executable}", *arguments]
    start = os.times()
    done = run(*given)
    spent = os.times()
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and words in done.stderr, done.stderr
    assert done.stdout == ""
    busy = (spent.children_user - start.children_user) + (spent.children_system - start.children_system)
    assert busy < 2, "seconds of processor time"


def test_exit_codes_with_a_compiler_that_says_so(tmp_path):
    """The whole command, lowering included, with a program in libtpu's place: fits 0, does not fit 1, fails 1."""
    compiler = tmp_path / "python"
    for extra, code in (({}, 0), ({"temporary_bytes": 100 * GIB}, 1), (None, 1)):
        lines = [] if extra is None else [json.dumps({**GRADIENTS, **extra, "parameters": []}),
                                          json.dumps({**UPDATE, "parameters": []})]
        compiler.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines)
                            + ("echo libtpu is broken >&2; exit 1\n" if extra is None else ""))
        compiler.chmod(0o700)
        done = run(f"--tpu_python={compiler}", "--topology=v5e:2x2", "--nosummaries", "--json", "--",
                   "--global_batch_size=16", "--summary_steps=0", "--histogram_steps=0")
        assert done.returncode == code, done.stderr
        if extra is None:
            assert "libtpu is broken" in done.stderr
        else:
            assert json.loads(done.stdout)["fits"] == (code == 0)


@pytest.mark.slow
def test_a_real_compilation():
    """The digits' step on four v5e cores, by libtpu: one all-reduce, some megabytes."""
    python = os.environ.get("LOCKSTEP_TPU_PYTHON") or str(ROOT / ".venv-tpu/bin/python")
    if not os.access(python, os.X_OK):
        pytest.skip("make tpu-check makes .venv-tpu, or set LOCKSTEP_TPU_PYTHON to a Python with jax and libtpu")
    done = run(f"--tpu_python={python}", "--topology=v5e:2x2", "--json", "--nosummaries", "--", "--global_batch_size=128")
    assert done.returncode == 0, done.stderr
    step = json.loads(done.stdout)["step"]
    assert step["collectives"] == 1 and 45_162 * 4 < step["collective_bytes"] < 50_000 * 4
    assert 2**20 < step["peak_bytes"] < 2**26
