"""Results kept from run to run, one file a kind of machine, and what got slower since.

    before = stored.read(path)                         # {"digits_loop": {...}, ...}
    for line in stored.slower(before, results): ...
    stored.write(path, results)

A figure got slower where it is on the wrong side of all that was measured before: then the ranges of the two do not touch,
and the difference is more than both runs' noise.
"""
import json
import os
import pathlib
import platform
import re

MORE_IS_WORSE = ("seconds", "steps", "collectives a step")  # units
VECTORS = ("amx_bf16", "avx512_bf16", "avx512_vnni", "avx512f", "avx2")  # instructions, the fastest first
LEAST_MORE = 0.02  # of the earlier figure: ranges of few values are too narrow


def machine_kind(cpuinfo: str = "/proc/cpuinfo") -> str:
    """The processor, its cores that may be used, the packages that decide the speed: equal where figures may be compared.

    A virtual machine may hide the processor's name, but not its family, model and vector instructions.
    """
    from importlib import metadata
    try:
        text = pathlib.Path(cpuinfo).read_text()
    except OSError:
        text = ""
    facts = dict(re.findall(r"^([a-z ]+?)\s*:\s*(.*)$", text, re.MULTILINE))
    widest = next((name for name in VECTORS if name in facts.get("flags", "").split()), "no AVX2")
    processor = f"{facts.get('model name', platform.machine())} {facts.get('cpu family', '')}.{facts.get('model', '')} {widest}"
    return f"{processor}, {len(os.sched_getaffinity(0))} cores, TensorFlow {metadata.version('tensorflow')}"


def path_of(kind: str, *, short: bool) -> pathlib.Path:
    """Where the results of this kind of machine lie, below XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = re.sub(r"[^A-Za-z0-9.]+", "-", kind).strip("-").lower()
    return pathlib.Path(cache, "lockstep", "bench", f"{name}{'-short' if short else ''}.json")


def read(path: pathlib.Path) -> dict[str, dict]:
    """The last results by what they are of; none where there is no file. ValueError: it is none of ours."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, dict) and "median" in value for value in found.values()):
        raise ValueError(f"{path} holds no results; delete it")
    return found


def write(path: pathlib.Path, results: list[dict]) -> None:
    """Keeps these results beside those of other rows; whole or not at all."""
    kept = read(path) | {result["what"]: result for result in results if "median" in result}
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(json.dumps(kept, indent=1) + "\n")
    os.replace(new, path)


def slower(before: dict[str, dict], results: list[dict]) -> list[str]:
    """A line for every result that is worse than before by more than the noise."""
    lines = []
    for result in results:
        old = before.get(result["what"])
        if not old or "median" not in result:
            continue
        worse = result["unit"] in MORE_IS_WORSE or result.get("target", "").startswith("at most")
        beyond = result["minimum"] > old["maximum"] if worse else result["maximum"] < old["minimum"]
        if beyond and abs(result["median"] - old["median"]) > LEAST_MORE * abs(old["median"]):
            lines.append(f"{result['what']}: {_shown(result)} {result['unit']}, was {_shown(old)}")
    return lines


def _shown(result: dict) -> str:
    return f"{result['median']:g} ({result['minimum']:g} to {result['maximum']:g}, n = {result['n']})"
