"""The fakes have what their releases have, and our sources use nothing else unasked.

Everything here is simulated but the contract, which was dumped from the real bindings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_tensorrt import CONTRACT, RELEASES, Scene, Segfault, fake, names, unplayed

import expertc
from expertc.backends.tensorrt.library import has, version

SOURCES = sorted((Path(expertc.__file__).parent / "backends" / "tensorrt").glob("*.py"))

# Attributes that only some releases have, on whatever object: to be used where the release was asked for them. Names
# that Python's containers or our own classes have too cannot be told apart.
OWN = {each.name for path in SOURCES for each in ast.walk(ast.parse(path.read_text("utf-8")))
       if isinstance(each, ast.FunctionDef)}  # fmt: skip
CORE = {name for found in CONTRACT["core"].values() for name in found} | {*dir(dict), *dir(set)} | OWN
GATED = {name for found in CONTRACT["gated"].values() for name in found} - CORE


def strays(source: str) -> Iterator[str]:
    """What a source takes from TensorRT that not all releases have, and that its function does not ask ``has`` for.

    That is ``trt.Class``, ``trt.Class.name``, and a gated name as attribute of an object. ``getattr`` on the module
    would escape, so there must be none.
    """
    for function in _functions(ast.parse(source)):
        asked = {
            str(call.args[1].value)
            for call in ast.walk(function)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "has"
            and len(call.args) == 2 and isinstance(call.args[1], ast.Constant)
        }  # fmt: skip
        asked |= {part for name in asked for part in (name.partition(".")[0], name.rpartition(".")[2])}
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                if "trt" in {name.id for name in ast.walk(node.args[0]) if isinstance(name, ast.Name)}:
                    yield f"getattr({ast.unparse(node.args[0])}, ...)"
            elif isinstance(node, ast.Attribute):
                yield from _stray(node, asked)


def _functions(tree: ast.AST) -> list[ast.AST]:
    """The outermost functions, and the module for what stands outside of them."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    tops = [node for node in ast.iter_child_nodes(tree) if isinstance(node, kinds)]
    methods = [
        node for each in ast.iter_child_nodes(tree) if isinstance(each, ast.ClassDef)
        for node in each.body if isinstance(node, kinds)
    ]  # fmt: skip
    return [*tops, *methods]


def _stray(node: ast.Attribute, asked: set[str]) -> Iterator[str]:
    text = ast.unparse(node)
    kind, _, name = text.removeprefix("trt.").partition(".")
    if not re.fullmatch(r"trt(\.\w+){1,2}", text):
        everywhere = node.attr not in GATED or node.attr in asked
    elif not name:
        everywhere = kind == "__version__" or kind in CONTRACT["core"] or kind in asked
    else:
        everywhere = name.startswith("__") or name in CONTRACT["core"].get(kind, ()) or f"{kind}.{name}" in asked
    if not everywhere:
        yield text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_only_what_all_releases_have_is_used_without_asking(path: Path) -> None:
    assert list(strays(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("trt.BuilderFlag.TF32", []),
        ("trt.BuilderFlag.FP16", ["trt.BuilderFlag.FP16"]),
        ("trt.BuilderFlag.FP16 if has(trt, 'BuilderFlag.FP16') else None", []),
        ("trt.BuilderFlag.FP16 if has(trt, 'BuilderFlag.INT8') else None", ["trt.BuilderFlag.FP16"]),
        ("trt.IInt8EntropyCalibrator2", ["trt.IInt8EntropyCalibrator2"]),
        ("trt.nptype(kind)", ["trt.nptype"]),
        ("config.progress_monitor", ["config.progress_monitor"]),
        ("has(trt, 'IBuilderConfig.progress_monitor') and config.progress_monitor", []),
        ("config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1)", []),
        ("engine.get_binding_name(0)", ["engine.get_binding_name"]),
        ("getattr(trt.BuilderFlag, name)", ["getattr(trt.BuilderFlag, ...)"]),
    ],
)
def test_the_check_finds_what_it_should(line: str, found: list[str]) -> None:
    assert list(strays(f"def f(trt, config, engine, kind, name):\n    return {line}\n")) == found


def test_sources_are_there_to_check() -> None:
    used = {ast.unparse(node) for path in SOURCES for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Attribute)}  # fmt: skip
    assert {"trt.BuilderFlag.TF32", "trt.OnnxParser", "config.progress_monitor", "builder.num_DLA_cores"} <= used


def test_no_number_of_an_enum_is_written_down() -> None:
    """``create_network(1)`` is an explicit batch on 8.x and 10.x, and strong typing on 11."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                plain = [each for each in node.args if isinstance(each, ast.Constant) and type(each.value) is int]
                named = node.func.attr in ("create_network", "set_flag", "clear_flag", "set_tactic_sources")
                assert not (named and plain), ast.unparse(node)


@pytest.mark.parametrize("release", RELEASES)
def test_a_fake_has_what_its_release_has(release: str) -> None:
    trt = fake(release)
    assert version(trt) == tuple(int(part) for part in release.split("."))
    for kind in {*CONTRACT["core"], *CONTRACT["gated"]}:
        found = names(kind, release)
        assert has(trt, kind) == bool(found)
        everywhere = {*CONTRACT["core"].get(kind, ()), *CONTRACT["gated"].get(kind, ())} - {"__init__"}
        assert {name for name in everywhere if hasattr(getattr(trt, kind, None), name)} == set(found) - {"__init__"}
    with pytest.raises(AttributeError):
        _ = trt.IInt8EntropyCalibrator2
    assert unplayed() == set()


def test_what_a_release_lacks_cannot_be_set_either() -> None:
    for release, there in (("8.5", False), ("8.6", True), ("11.4", True)):
        config = fake(release).IBuilderConfig(None)
        if there:
            config.builder_optimization_level = 5
            assert config.builder_optimization_level == 5
        else:
            with pytest.raises(AttributeError):
                config.builder_optimization_level = 5


def test_numbers_of_enums_move_between_releases() -> None:
    flags = {release: fake(release).NetworkDefinitionCreationFlag for release in RELEASES}
    assert [int(flags[release].EXPLICIT_BATCH) for release in RELEASES[:-1]] == [0] * 7
    assert [int(flags[release].STRONGLY_TYPED) for release in RELEASES[2:]] == [1] * 5 + [0]
    assert len({int(fake(release).BuilderFlag.TF32) for release in RELEASES}) > 1
    assert fake("10.3").BuilderFlag.TF32 != 1
    with pytest.raises(TypeError):
        fake("10.3").IBuilderConfig(None).set_flag(1)


def test_without_a_driver_it_ends_as_the_real_one_does() -> None:
    trt = fake("8.6", Scene(driver=False))
    with pytest.raises(TypeError, match="nullptr"):
        trt.Builder(trt.Logger())
    with pytest.raises(Segfault):
        trt.Runtime(trt.Logger())


def test_the_contract_is_true_of_the_tensorrt_that_is_here() -> None:
    """Not simulated: where a release of the contract is installed, with a GPU or without."""
    trt = pytest.importorskip("tensorrt")
    if trt.__version__ not in RELEASES:
        pytest.skip(f"{trt.__version__} is none of the contract's releases")
    for kind in {*CONTRACT["core"], *CONTRACT["gated"]}:
        found = set(names(kind, trt.__version__))
        everywhere = {*CONTRACT["core"].get(kind, ()), *CONTRACT["gated"].get(kind, ())}
        assert {name for name in everywhere if has(trt, f"{kind}.{name}")} == found, kind
