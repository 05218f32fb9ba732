"""Does the step fit a TPU? python -m launch.tpu_check --topology=v5e:4x4 --recipe=cifar10_tutorial -- FLAGS

Lowers the real train step for as many replicas as the topology has cores (python -m trainer.lowering: optimizer, moving
averages, dropout, batch statistics over all replicas, as trained), compiles it for that topology with the TPU's own
compiler, with no TPU there, and prints memory a core against the chip's, the collectives, the estimated time of a step.
The step is two programs, gradients and update, and where the run has summaries the two of a step with summaries. Distortions
and decoding are the host's work, so none of this. It proves graph, collectives and memory; it runs nothing.

Needs .venv-tpu (make tpu-check makes it: 1.1 GB). The data set's files are not needed. Exit codes: 0 it fits; 1 it does
not fit, or does not compile; 2 a wrong flag.
"""
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from input_pipeline.rules import UserError, one_line, shown
from launch import chips, lowered, network, spec
from trainer.config import option

ROOT = lowered.ROOT
COMPILER = pathlib.Path(__file__).with_name("tpu_compile.py")
MIB, GIB = 2**20, 2**30
FORMS = {"step": "step", "summaries": "step with summaries"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
    """What launch.tpu_check is told."""

    topology: str = option("v5e:2x2", "chip and sides, such as v3:4x4, v4:2x2x1, v5e:4x4")
    recipe: str = option("digits", "the recipe whose step is compiled", pattern="[a-z0-9_]+",
                         form="a recipe's name, such as digits")
    summaries: bool = option(True, "compile also the step with summaries, which gives back every layer's output")
    tpu_python: str = option("", "the Python that has jax and libtpu (default: .venv-tpu/bin/python in the checkout)",
                             kind="path")
    json: bool = option(False, "print one JSON object instead of lines")
    trainer_flags: tuple[str, ...] = ()

    @property
    def compiler_python(self) -> str:
        """The Python that compiles. UserError if there is none."""
        path = pathlib.Path(self.tpu_python).expanduser() if self.tpu_python else ROOT / ".venv-tpu/bin/python"
        if not os.access(path, os.X_OK):
            raise UserError(f"--tpu_python={shown(path)} is no program; make tpu-check makes .venv-tpu, or give the "
                            "Python of an environment with requirements-tpu-check.txt")
        return str(path)


def run(check: Check) -> int:
    """Lowers, compiles, prints. Returns 0 if everything fits, else 1."""
    try:
        chip, sides = chips.topology(check.topology)
    except ValueError as error:
        raise UserError(f"--topology={shown(check.topology)} {error}") from None
    python, replicas = check.compiler_python, chips.cores(chip, sides)
    with tempfile.TemporaryDirectory() as folder:
        try:
            step = lowered.lower(replicas, folder, [f"--recipe={check.recipe}", *check.trainer_flags])
        except lowered.DoesNotLower as error:
            print(f"launch.tpu_check: {error}", file=sys.stderr)
            return 1
        wanted = [p["name"] for p in step["programs"] if p["form"] == "step" or check.summaries]
        # The update of a step with summaries is that of any step.
        wanted = [name for name in wanted if name != "update_summaries"]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
                       "TPU_LOAD_LIBRARY": "1"}  # no TPU is used, so several compilations may go on at once
        done = subprocess.run([python, str(COMPILER), check.topology, folder, *wanted], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, env=environment)
    if done.returncode:
        print(f"launch.tpu_check: {one_line(lowered.last_line(done.stderr))}", file=sys.stderr)
        return 1
    result = judged(check.topology, step, [json.loads(line) for line in done.stdout.splitlines()])
    print(json.dumps(result) if check.json else text(result))
    return 0 if result["fits"] else 1


def judged(topology: str, step: dict, programs: list[dict]) -> dict:
    """Memory, collectives and time of each program, and whether all of them fit the topology's cores.

    A program's peak is what it takes (arguments, results that are not written over arguments, temporary values, code) and
    the variables that lie beside it: those of the model, averages and optimizer that are not among its arguments.
    """
    chip, sides = chips.topology(topology)
    arguments = {p["name"]: p["arguments"] for p in step["programs"]}
    collective = network.torus(chip, sides)
    sizes = {name: _bytes(*variable) for name, variable in step["variables"].items()}
    for program in programs:  # as they lie in the TPU's memory, where that is known
        if len(program.get("parameters", ())) == len(arguments[program["name"]]):
            sizes |= {name: size for name, size in zip(arguments[program["name"]], program["parameters"]) if name in sizes}
    found = []
    for program in programs:
        entry = {"name": program["name"], "form": "summaries" if program["name"].endswith("_summaries") else "step"}
        if "error" in program:
            found.append({**entry, "error": program["error"], "fits": False})
            continue
        beside = sum(size for name, size in sizes.items() if name not in arguments[program["name"]])
        peak = beside + (program["argument_bytes"] + program["output_bytes"] - program["alias_bytes"]
                         + program["temporary_bytes"] + program["code_bytes"])
        all_reduce = sum(collective(size) for _, size in program["collectives"])
        roofline = max(program["flops"] / chip.core_flops, program["bytes_accessed"] / chip.core_bandwidth)
        found.append({**entry, "fits": peak <= chip.core_memory, "peak_bytes": peak, "beside_bytes": beside,
                      "collectives": len(program["collectives"]),
                      "collective_bytes": sum(size for _, size in program["collectives"]),
                      "collectives_asked": len(next(p["collectives"] for p in step["programs"]
                                                    if p["name"] == program["name"])),
                      "flops": program["flops"], "bytes_accessed": program["bytes_accessed"],
                      "roofline_seconds": roofline,
                      "all_reduce_seconds": all_reduce, "compile_seconds": program["seconds"]})
    return {"topology": topology, "chip": chip.name, "cores": chips.cores(chip, sides), "recipe": step["recipe"],
            "model": step["model"], "precision": step["precision"], "optimizer": step["optimizer"],
            "parameters": step["parameters"], "global_batch_size": step["global_batch_size"],
            "rows": step["rows"], "core_memory": chip.core_memory, "fits": all(p["fits"] for p in found),
            "programs": found, **_step(found)}


def _step(programs: list[dict]) -> dict:
    """The plain step's totals, where both of its programs compiled."""
    step = [p for p in programs if p["form"] == "step"]
    if any("error" in p for p in step):
        return {}
    total = {name: sum(p[name] for p in step) for name in (
        "collectives", "collective_bytes", "flops", "bytes_accessed", "roofline_seconds", "all_reduce_seconds",
        "compile_seconds")}
    return {"step": {**total, "peak_bytes": max(p["peak_bytes"] for p in step),
                     "seconds": total["roofline_seconds"] + total["all_reduce_seconds"]}}


def _bytes(shape: list[int], dtype: str) -> int:
    size = {"float64": 8, "int64": 8, "uint64": 8, "bfloat16": 2, "float16": 2, "bool": 1, "int8": 1, "uint8": 1}.get(dtype, 4)
    for side in shape:
        size *= side
    return size


def text(result: dict) -> str:
    """The result for a person."""
    lines = [f"{result['recipe']} ({result['model']}, {result['parameters']:,} parameters, {result['optimizer']}, "
             f"{result['precision']}) on {result['topology']}: {result['cores']} cores, batch {result['global_batch_size']} "
             f"= {result['cores']} x {result['rows']}"]
    for program in result["programs"]:
        if "error" in program:
            lines.append(f"  {program['name']}: does not compile: {one_line(program['error'])}")
            continue
        lines.append(
            f"  {program['name']}: {_size(program['peak_bytes'])} of {_size(result['core_memory'])} a core"
            f"{'' if program['fits'] else ' - DOES NOT FIT'}; {program['collectives']} collectives of "
            f"{_size(program['collective_bytes'])} together ({program['collectives_asked']} were asked for); "
            f"{program['flops'] / 1e9:.3g} GFLOP, {_size(program['bytes_accessed'])} of memory traffic; compiled in "
            f"{program['compile_seconds']:.0f} s")
    if "step" in result:
        step = result["step"]
        lines.append(f"  a step: {step['seconds'] * 1e3:.3g} ms = roofline {step['roofline_seconds'] * 1e3:.3g} ms (the larger "
                     f"of operations / peak and bytes / bandwidth, by the compiler's counts) + all-reduce "
                     f"{step['all_reduce_seconds'] * 1e3:.3g} ms (ring or torus, see launch/network.py)")
    lines.append("  it fits" if result["fits"] else "  it does not fit: more cores, a smaller --global_batch_size, or "
                 "--grad_accum_steps after --" if not any("error" in p for p in result["programs"])
                 else "  it does not compile")
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB else f"{count / MIB:.3g} MiB"


if __name__ == "__main__":
    sys.exit(spec.command(sys.argv, Check, run, name="launch.tpu_check", doc=__doc__))
