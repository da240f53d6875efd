"""The house plan: who may import whom, what stays out of the base install, how long a file may be."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import expertc

PACKAGE = Path(expertc.__file__).parent

# Top to bottom; a room never knows one above it, nor another on its own line.
ORDER = [
    ("__main__",),
    ("cli",),
    ("deploy",),
    ("serve", "package"),  # a deployment installs its unit
    ("bench",),
    ("evaluate",),
    ("training",),
    ("export",),
    ("zoo",),
    ("hierarchy",),
    ("compiler",),
    ("speedup",),
    ("plan", "earlier"),
    ("audit",),
    ("precise", "forms", "driven"),
    ("sensitivity",),
    ("manifest",),
    ("verify",),
    ("runtime",),
    ("engines",),
    ("machine", "device"),
    ("observe", "gain", "contest"),
    ("backends",),
    ("pages",),
    ("source", "releases"),
    ("bundle",),
    ("atomic", "instructions"),
    ("exit_instructions",),
    ("trtexec",),
    ("measure",),
    ("lint",),
    ("finish",),
    ("limits",),
    ("surgery",),
    ("graph",),
    ("jetson",),
    ("targets",),
    ("sets",),
    ("card",),
    ("exit_rule",),
    ("controls", "routes", "exits"),
    ("preprocessing",),
    ("labels",),
    ("selection",),
    ("taxonomy",),
    ("strict_yaml",),
    ("text",),
    ("intervals",),
    ("stages",),
    ("errors",),
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

# Modules at the top that are the package's face: they may name any room, lazily.
FACES = {"__init__"}

HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "tensorrt",
    "cuda",
    "pycuda",
    "safetensors",
    "onnxscript",
    "onnx_ir",
    "accelerate",
    "uvicorn",
    "starlette",
    "anyio",
    "prometheus_client",
    "orjson",
}
EXTRAS = ("zoo", "training", "export", "backends/tensorrt", "serve")
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, absolute, and whether at module level. Type-checking blocks count too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    package = ["expertc", *path.relative_to(PACKAGE).with_suffix("").parts]
    package = package[:-1]  # what a relative import starts from: the folder, also for an __init__
    inside = {
        id(child)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, id(node) not in inside
            # ``from .. import card`` names a room, ``from ..card import Card`` something in it.
            yield from ((f"{module}.{alias.name}", id(node) not in inside) for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    parts = [module.split(".") for module, _ in imported(path)]
    return {part[1] for part in parts if part[0] == "expertc" and len(part) > 1 and part[1] in LEVEL}


def test_there_is_something_to_check() -> None:
    assert len(MODULES) > 40
    assert {"surgery", "graph"} <= rooms_imported(PACKAGE / "surgery" / "prune.py") | {"surgery"}
    assert ("expertc.graph", True) in set(imported(PACKAGE / "surgery" / "prune.py"))
    assert ("expertc.graph", True) in set(imported(PACKAGE / "surgery" / "rules" / "layout.py"))


def test_every_module_belongs_to_a_room() -> None:
    assert {room_of(path) for path in MODULES} - LEVEL.keys() <= FACES


def test_no_room_imports_a_room_above_it() -> None:
    above = {
        f"{name_of(path)} imports {other}"
        for path in MODULES
        if (room := room_of(path)) not in FACES
        for other in rooms_imported(path) - {room}
        if LEVEL[other] <= LEVEL[room]
    }
    assert not above


def test_torch_and_its_like_stay_in_the_extras() -> None:
    """A command may import them when it runs, nothing else does; no file outside the extras does so at module level."""
    strays = {
        f"{name_of(path)} imports {module}"
        for path in MODULES
        for module, top in imported(path)
        if module.partition(".")[0] in HEAVY
        and not name_of(path).startswith(EXTRAS)
        and (top or room_of(path) != "cli")
    }
    assert not strays


def test_files_are_of_one_idea() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: length for name, length in lengths.items() if length > 400}


def test_what_is_public_says_what_it_is() -> None:
    """Every module, and every public class, function and method in it; magic methods are the language's."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

    def silent(body: list[ast.stmt]) -> Iterator[str]:
        for node in body:
            if isinstance(node, kinds) and not node.name.startswith("_"):
                if not ast.get_docstring(node):
                    yield node.name
                if isinstance(node, ast.ClassDef):
                    yield from silent(node.body)

    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    assert not [name for name, tree in trees.items() if not ast.get_docstring(tree)]
    assert not [f"{name}: {found}" for name, tree in trees.items() for found in silent(tree.body)]


FORBIDDEN = {"numpy", "onnx", "onnxruntime", "onnx_graphsurgeon", "torch", "timm", "PIL"}


@pytest.mark.parametrize("module", ["expertc", "expertc.cli", "expertc.errors"])
def test_a_cold_start_loads_nothing_heavy(module: str) -> None:
    """``expertc --help`` answers at once, and on a machine where half of it is not installed."""
    program = f"import sys, {module}; print(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not FORBIDDEN & set(done.stdout.split())
