"""Who imports whom: the plan of the package, checked in its syntax trees."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

pytestmark = pytest.mark.backend_free

PACKAGE = Path(__file__).parents[1] / "kerasdl"
PATHS = sorted(PACKAGE.rglob("*.py"))
# Anyone may import these.
LEAVES = {
    "_version",
    "absent",
    "checks",
    "errors",
    "files",
    "installed",
    "lock",
    "machine",
    "quiet",
    "signals",
    "untrusted",
}
ALLOWED = {  # module or folder -> kerasdl modules it may import besides the leaves
    **{leaf: set() for leaf in LEAVES},
    "backend": {"cluster", "roll_call"},
    "bench": {
        *("backend", "callbacks", "data", "epochs", "fit", "phases", "precision"),
        *("recipe", "runs"),
    },
    "roll_call": {"cluster"},
    "checkpoint": {"backend", "manifest"},
    "cluster": set(),
    "data": set(),
    "evaluate": set(),
    "guard": set(),
    "initializers": set(),
    "launching": set(),
    "past": {"runs"},
    "foreign": {"manifest", "weights"},
    "precision": {"backend", "recipe"},
    "recipe": {"optimizers"},
    "runs": {"cluster", "manifest", "recipe"},
    "schedules": set(),
    "torch_weights": set(),
    "layers": {"backend", "initializers"},
    "optimizers": {"backend", "schedules"},
    "rematerialisation": {"backend"},
    "steps": {"backend"},
    "rate_finder": {"backend", "checkpoint", "data", "optimizers", "schedules"},
    "tasks": {"backend", "optimizers"},
    "blocks": {"initializers", "layers"},
    "models": {"blocks", "initializers", "layers", "tasks"},
    "callbacks": {
        *("backend", "checkpoint", "data", "distribution", "optimizers", "runs"),
    },
    "report": {"evaluate"},
    "predict": {"backend", "data", "evaluate"},
    "manifest": set(),
    "weights": set(),
    "spec": {"data", "manifest", "predict", "weights"},
    "bundle": {
        *("data", "layers", "manifest", "precision", "predict", "spec", "weights"),
    },
    "explain": {"data", "evaluate", "layers", "predict"},
    "heatmaps": {"backend", "layers", "predict"},
    "augment": {"data", "layers", "tasks"},
    "doctor": {"data", "report"},
    "logistic": {"evaluate"},
    # Its list of backbones is the list of what can be opened.
    "pretrained": {
        *("bundle", "data", "foreign", "layers", "manifest", "models"),
        "torch_weights",
    },
    "heads": {"data", "logistic", "predict", "pretrained", "recipe"},
    "counting": {"data", "layers", "predict", "recipe"},
    "distribution": {"backend", "cluster", "steps"},
    "epochs": {
        *("backend", "callbacks", "data", "distribution", "phases", "recipe", "steps"),
    },
    "fit": {
        *("augment", "backend", "counting", "data", "distribution", "epochs"),
        *(
            "optimizers",
            "phases",
            "precision",
            "predict",
            "recipe",
            "rematerialisation",
            "schedules",
            "steps",
        ),
    },
    "finetuning": {
        *("augment", "backend", "callbacks", "checkpoint", "data", "distribution"),
        *(
            "epochs",
            "fit",
            "heads",
            "optimizers",
            "phases",
            "precision",
            "predict",
            "pretrained",
        ),
        *("recipe", "runs", "schedules", "steps", "tasks"),
    },
    "phases": {"callbacks", "checkpoint", "data", "distribution"},
    "results": {
        *("augment", "bundle", "data", "explain", "fit", "heatmaps", "predict"),
        *("recipe", "report", "runs"),
    },
    "training": {
        *("backend", "callbacks", "data", "distribution", "doctor", "evaluate"),
        *(
            "finetuning",
            "fit",
            "phases",
            "precision",
            "rate_finder",
            "recipe",
            "results",
            "runs",
        ),
    },
}
FOREIGN = ("jax", "tensorflow", "torch", "keras.src")


def imported(path: Path):
    """Yield dotted names as `kerasdl.<unit>[.<module>]`, relative imports resolved."""
    package = ("kerasdl", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def units_of(path: Path) -> set[str]:
    """Return the modules and folders of kerasdl that a file imports."""
    names = [
        name.split(".")[1] for name in imported(path) if name.startswith("kerasdl.")
    ]
    return {name for name in names if name in ALLOWED}


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_the_plan_names_every_module():
    assert {unit(path) for path in PATHS} == {*ALLOWED, "__init__"}


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path):
    allowed = ALLOWED.get(unit(path), LEAVES)
    assert units_of(path) - {unit(path)} <= allowed | LEAVES


def test_models_do_not_import_each_other():
    for path in (PACKAGE / "models").glob("*.py"):
        assert not [n for n in imported(path) if n.startswith("kerasdl.models")]


def test_there_are_no_cycles():
    graph = {}
    for path in PATHS:
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        files = {
            name: PACKAGE.parent.joinpath(*name.split(".")).with_suffix(".py")
            for found in imported(path)
            for name in (found, found.rpartition(".")[0])
        }
        graph[module] = {name for name, file in files.items() if file.exists()}
    assert sum(map(len, graph.values())) > len(PATHS)  # the imports were found
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("path", PATHS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_backend_knows_the_backends(path):
    found = [
        name
        for name in imported(path)
        if any(name == other or name.startswith(f"{other}.") for other in FOREIGN)
    ]
    assert unit(path) == "backend" or not found


@pytest.mark.parametrize("module", ["kerasdl", "kerasdl.recipe", "kerasdl_apps.cli"])
def test_import_needs_no_backend(module):
    code = f"import sys, {module}; print(*sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(process.stdout.split())
    assert module in loaded
    assert not loaded & {"keras", "jax", "tensorflow", "torch", "sklearn", "scipy"}
