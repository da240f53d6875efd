"""Names and labels from strangers in what other programs parse: a protobuf text, a key file, a path, Python."""

from __future__ import annotations

import ast
import configparser
import shutil
from pathlib import Path

import onnxruntime
import pytest
from packaged import bundle_of, network
from triton_rules import loads, model_config

from expertc.bundle import open_bundle, reserve
from expertc.errors import BundleError, CardError, UnsupportedError, UsageError
from expertc.package import package


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(network(), tmp_path_factory.mktemp("once"))


@pytest.fixture
def bundle(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / once.name))


NASTY = 'x"\n} ] max_batch_size: 99 #\\ é\u202e{'


def test_a_tensor_name_that_would_end_its_string(tmp_path: Path) -> None:
    """Everything after the quote would be configuration."""
    folder = package(bundle_of(network(output=NASTY), tmp_path, batch=None), "triton", tmp_path / "models").path
    config = loads(folder, model_config())
    assert [one.name for one in config.output] == [NASTY]
    assert config.max_batch_size == 8
    assert (folder / "config.pbtxt").read_bytes().isascii()
    lines = (folder / "README.txt").read_text().split("who asks\n")[1].splitlines()
    program = ast.parse("\n".join(line[2:] for line in lines))
    assert NASTY in [node.value for node in ast.walk(program) if isinstance(node, ast.Constant)]
    assert "\u202e" not in (folder / "README.txt").read_text()


def test_it_does_not_reach_the_configuration_of_nvinfer(tmp_path: Path) -> None:
    folder = package(bundle_of(network(output=NASTY), tmp_path), "deepstream", tmp_path / "out").path
    config = configparser.ConfigParser(interpolation=None)
    config.read_string((folder / "config_infer_primary.txt").read_text(encoding="ascii"))
    assert config["property"]["output-blob-names"] == "probabilities"
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_outputs()] == ["probabilities"]


LABELS = ('a"; custom-lib-path=/tmp/evil.so', "b\n[property]", "[bold]c[/bold]", "d;e", "\u202ef", "<script>g")


@pytest.mark.parametrize("kind", ["triton", "deepstream"])
def test_labels_stay_labels(kind: str, tmp_path: Path) -> None:
    bundle = bundle_of(network(labels=LABELS), tmp_path)
    shown = (bundle / "labels.txt").read_text(encoding="utf-8").splitlines()
    folder = package(bundle, kind, tmp_path / "out").path
    found = (folder / "labels.txt").read_text(encoding="utf-8")
    assert found.splitlines() == (shown if kind == "triton" else [";".join(label.replace(";", ",") for label in shown)])
    assert "\u202e" not in found
    if kind == "triton":
        loads(folder, model_config())
    else:
        assert "custom-lib-path" not in (folder / "config_infer_primary.txt").read_text()


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "a/b", "../a", "/etc", "a b", "café", "-a", ".hidden", "a\n", 'a"', "a\0", "x" * 81, "$(id)"],
)
def test_names_that_are_none(name: str, bundle: Path, tmp_path: Path) -> None:
    for kind in ("triton", "deepstream"):
        with pytest.raises(UsageError, match="no name for a model") as caught:
            package(bundle, kind, tmp_path / "out", name=name)
        assert caught.value.hint == "Give one with --name."
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("called", ["two words.expert", "épée.expert", "a;b.expert", ".expert"])
def test_bundles_whose_name_is_none(called: str, cli, bundle: Path, tmp_path: Path) -> None:
    bundle = bundle.rename(tmp_path / called)
    code, _, err = cli("package", bundle, "--format", "triton", "-o", tmp_path / "out")
    assert (code, "--name" in err) == (2, True)
    assert cli("package", bundle, "--format", "triton", "-o", tmp_path / "out", "--name", "fine").code == 0


@pytest.mark.parametrize("kind", ["triton", "deepstream"])
@pytest.mark.parametrize(
    "entry",
    [
        {"controls": [{"name": "gain", "default": [1.0], "per_class": False}]},
        {"controls": 5},
        {"precision": {"a": 1}},
        {"precision": None},
        {"output": {"name": "other", "kind": "logits", "axis": 1}},
        {"output": "logits"},
        {"output": None},
        {"reject": {"score": "energy"}},
        {"exits": []},
        {"name": ["\x1b[31m"]},
        {"device": {"backend": ["x"]}},
    ],
)
def test_a_manifest_from_a_stranger(kind: str, entry: dict[str, object], bundle: Path, tmp_path: Path) -> None:
    """It may be refused, but only as what it is; and nothing is left then."""
    with reserve(bundle, force=True) as place:
        place.again(open_bundle(bundle), {}, entry, {})
    refused = None
    try:
        package(bundle, kind, tmp_path / "out")
    except (BundleError, CardError, UnsupportedError) as error:
        refused = error
    assert (tmp_path / "out").exists() is (refused is None)
    assert all("\x1b" not in path.read_text() for path in tmp_path.glob("out/*/*.json"))
