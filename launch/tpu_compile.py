"""Compiles lowered programs for a TPU topology, with no TPU there; run by launch.tpu_check in an environment with libtpu.

    JAX_PLATFORMS=cpu TPU_SKIP_MDS_QUERY=1 .venv-tpu/bin/python launch/tpu_compile.py v5e:4x4 FOLDER NAME...

Reads FOLDER/lowering.json and FOLDER/NAME.mlirbc, as trainer.lowering writes them. One JSON object a program on standard
output: what the compiler says of its memory, its operations and its collectives, or why it did not compile. Uses internals
of jax, so requirements-tpu-check.txt pins the versions. Reads and prints: nothing is run.
"""
import json
import math
import os
import pathlib
import re
import sys
import time

# jaxlib 0.10.2 cannot read back the asynchronous operations of these chips' programs: libtpu writes them to a folder.
WRITTEN = ("v5p", "v6e")
BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16, "s32": 32, "u32": 32,
        "f32": 32, "s64": 64, "u64": 64, "f64": 64}
COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
SHAPE = re.compile(r"\b(" + "|".join(BITS) + r")\[([0-9,]*)\](?:\{([0-9,]*)(?::T\(([0-9,]+)\))?)?")


def load(context, path: pathlib.Path):
    """The StableHLO module of a file, in the form that jax compiles: what TensorFlow says of variables that are updated in
    place as attributes of arguments, and without the copies that it adds at their end."""
    from jaxlib.mlir import ir
    from jaxlib.mlir.dialects import stablehlo
    module = stablehlo.deserialize_portable_artifact(context, path.read_bytes())
    copies = []

    def visit(operation):
        if operation.operation.name == "mhlo.copy":
            copies.append(operation.operation)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    for copy in copies:
        copy.results[0].replace_all_uses_with(copy.operands[0])
        copy.erase()
    main = next(f for f in module.body.operations if ir.StringAttr(f.attributes["sym_name"]).value == "main")
    attributes = [{} for _ in main.arguments]
    if "mhlo.input_output_alias" in module.operation.attributes:
        for alias in map(str, module.operation.attributes["mhlo.input_output_alias"]):
            parameter = int(re.search(r"parameter_number = (\d+)", alias)[1])
            output = int(re.search(r"output_index = array<i64: (\d+)>", alias)[1])
            attributes[parameter]["tf.aliasing_output"] = ir.IntegerAttr.get(ir.IntegerType.get_signless(32), output)
    main.attributes["arg_attrs"] = ir.ArrayAttr.get([ir.DictAttr.get(a) for a in attributes])
    return module


def padded_bytes(kind: str, sizes: str, order: str | None, tile: str | None) -> int:
    """Bytes of an array as it lies in a TPU's memory, where the most minor dimensions fill whole tiles."""
    dimensions = [int(size) for size in sizes.split(",") if size]
    if order and tile:
        minor = [int(k) for k in order.split(",")]
        for k, size in zip(minor, reversed([int(size) for size in tile.split(",")])):
            dimensions[k] = -(-dimensions[k] // size) * size
    elif tile:  # a scalar
        dimensions = [int(size) for size in tile.split(",")]
    return -(-math.prod(dimensions) * BITS[kind] // 8)


def parameters(hlo: str) -> list[int]:
    """Bytes of each argument, in order, from the module's first line."""
    layout = hlo.split("entry_computation_layout={(", 1)[1].split(")->", 1)[0]
    return [padded_bytes(*match.groups()) for match in SHAPE.finditer(re.sub(r"/\*.*?\*/", "", layout))]


def collectives(hlo: str) -> list[list]:
    """[kind, bytes of the result] of each collective operation of the compiled program."""
    found = []
    for line in hlo.splitlines():
        match = re.search(r" = (.*?)\s(" + "|".join(COLLECTIVES) + r")(-start)?\(", line)
        if match:
            sizes = [padded_bytes(kind, sizes, None, None) for kind, sizes, *_ in SHAPE.findall(match[1])]
            found.append([match[2], sum(sizes)])
    return found


def compiled(devices, replicas: int, module, dump: pathlib.Path | None) -> dict:
    """What the compiler says of `module` for so many replicas. dump: where libtpu writes the program that it made."""
    from jax._src import compiler
    from jax._src.lib import xla_client
    started = time.monotonic()
    try:
        executable = devices[0].client.compile(
            module, xla_client.DeviceList(tuple(devices[:replicas])),
            compiler.get_compile_options(num_replicas=replicas, num_partitions=1))
    except Exception as error:  # jaxlib raises one kind for all
        return {"error": " ".join(str(error).split())}
    # cost's optimal_seconds is left out: libtpu 0.0.52 gives negative ones.
    memory, cost = executable.get_compiled_memory_stats(), executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    if dump:
        hlo = max(dump.glob("*TLP-hlo.txt"), key=lambda path: path.stat().st_mtime_ns).read_text()
        for path in dump.iterdir():
            path.unlink()
    else:
        hlo = executable.hlo_modules()[0].to_string()
    return {"seconds": time.monotonic() - started, "argument_bytes": memory.argument_size_in_bytes,
            "output_bytes": memory.output_size_in_bytes, "alias_bytes": memory.alias_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes, "code_bytes": memory.generated_code_size_in_bytes,
            "flops": cost.get("flops", 0.0), "bytes_accessed": cost.get("bytes accessed", 0.0),
            "parameters": parameters(hlo),
            "collectives": collectives(hlo)}


def main(argv: list[str]) -> int:
    """Compiles; returns 0, also where a program does not compile, which its line says. 1: no such topology."""
    topology, folder, names = argv[1], pathlib.Path(argv[2]), argv[3:]
    lowered = json.loads((folder / "lowering.json").read_text())
    dump = folder / "dump" if topology.split(":")[0] in WRITTEN else None
    if dump:
        dump.mkdir()
        os.environ["LIBTPU_INIT_ARGS"] = f"--xla_jf_dump_to={dump} --xla_jf_dump_hlo_text=true --xla_jf_dump_llo_text=false"
    from jax._src.interpreters import mlir
    from jax.experimental import topologies
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:
        print(f"libtpu knows no topology {topology}: {' '.join(str(error).split())[:300]}", file=sys.stderr)
        return 1
    if len(devices) != lowered["replicas"]:
        print(f"{topology} has {len(devices)} cores for libtpu, the step was lowered for {lowered['replicas']}",
              file=sys.stderr)
        return 1
    context = mlir.make_ir_context()
    context.allow_unregistered_dialects = True
    for name in names:
        with context:
            module = load(context, folder / f"{name}.mlirbc")
        print(json.dumps({"name": name, **compiled(devices, lowered["replicas"], module, dump)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
