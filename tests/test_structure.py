"""The picture in WORKSPACE.md, kept true: who imports whom, what needs no TensorFlow, docstrings, recipes."""
import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("models", "input_pipeline", "trainer", "launch")

# The trainer's layers, lowest first. A module imports only from its own layer and from lower ones.
LAYERS = (
    ("names", "signals", "quiet", "stopwatch"),
    ("config", "places", "lease", "files", "growing", "writers"),
    ("cadence", "reading", "capacity"),
    ("recipes", "devices", "flags", "manifest", "recorded", "tpu"),
    ("checks", "transfer"),
    ("resolve", "heartbeat", "rendezvous", "whereabouts"),
    ("watchdog",),
    ("workers",),
    ("classification", "reconstruction", "forecasting"),
    ("watch", "checkpoint", "task", "schedules", "optimizers", "distribution", "events", "image_files", "replica_programs",
     "muon_sgd", "momentum", "adaptive"),
    ("state", "summaries", "evaluate"),
    ("backward",),
    ("step",),
    ("inner_loop", "report"),
    ("experiment",),
    ("start", "restored", "inline", "stopping", "telling"),
    ("train",),
    ("main", "evaluator", "predict", "export", "fast_dev_run", "lowering"),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
MAY_IMPORT = {"models": {"models"}, "input_pipeline": {"input_pipeline"},
              "trainer": {"models", "input_pipeline", "trainer"}, "launch": {"launch"}}
# These start or measure trainers from inside.
LAUNCH_INSIDE = {"bench"}
# The trainer's command line, which a launcher reads before anything is started.
COMMAND_LINE = {"trainer.flags", "trainer.recipes", "trainer.config", "input_pipeline.command_line", "input_pipeline.flag_files",
                "input_pipeline.rules"}
# What a wrong command reads: it must fail before TensorFlow is imported.
PLAIN = ("trainer.main", "trainer.evaluator", "trainer.resolve", "trainer.watch", "models.registry",
         "input_pipeline.datasets", "input_pipeline.augment", "input_pipeline.prepare")


# Folders inside a package: what is measured, which may look at anything, and peers, which share only how they answer.
INNER = ("launch/benches", "launch/peers")


def modules():
    return [path for package in (*PACKAGES, *INNER) for path in sorted((ROOT / package).glob("*.py"))]


def imports(tree: ast.AST) -> set[str]:
    """The project's modules that a module imports anywhere, as package.module."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {".".join(name.split(".")[:2]) for name in names if name.split(".")[0] in (*PACKAGES, "tests")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_imports_go_downwards(path):
    package, name = path.parent.name, path.stem
    for imported in imports(ast.parse(path.read_text())):
        other, module = imported.split(".") if "." in imported else (imported, "")
        if package == "launch" and name in LAUNCH_INSIDE or package == "benches":
            continue
        if package == "peers":
            assert imported.startswith("launch.benches"), f"peers/{name}.py imports {imported}"
            continue
        allowed = other in MAY_IMPORT[package] or package == "launch" and imported in COMMAND_LINE
        assert allowed, f"{package}/{name}.py imports {imported}"
        if package == other == "trainer" and name != "__init__":
            assert name in RANK, f"trainer/{name}.py has no place in LAYERS"
            assert RANK[module] <= RANK[name], f"trainer/{name}.py imports {module}, which is above it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_every_public_name_has_a_docstring(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path} has no docstring"
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{path}: {node.name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: f"{p.parent.name}/{p.name}")
def test_no_file_is_too_long(path):
    assert len(path.read_text().splitlines()) <= 310


def test_a_wrong_command_needs_no_tensorflow():
    program = f"import sys; import {', '.join(PLAIN)}; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_every_recipe_resolves():
    """Each recipe's values pass every check, with its data set's facts and without its files."""
    program = """
import sys
from trainer import recipes, resolve
for name, recipe in recipes.RECIPES.items():
    assert recipe.__doc__ and "python -m trainer.main" in recipe.__doc__, name
    run = resolve.resolve({"recipe": name, "model_dir": "/nonexistent/m", "download": True, "data_dir": "/nonexistent/d"})
    assert run.config.train_steps > 0 and run.config.precision != "auto"
    assert (run.config.classes > 1) == bool(run.info.classes)
print(len(recipes.RECIPES))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
