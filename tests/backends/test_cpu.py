"""ONNX Runtime sessions, on a classifier whose answers are computed by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import expertc
from expertc.backends import Session
from expertc.backends.cpu import describe, open_session
from expertc.errors import ModelError, UnsupportedError

MakeClassifier = Callable[..., Any]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("threads", [None, 1, 2])
@pytest.mark.parametrize("source", ["bytes", "path"])
def test_a_session_computes_the_scores(
    make_classifier: MakeClassifier, tmp_path: Path, optimise: bool, threads: int | None, source: str
) -> None:
    classifier = make_classifier()
    (tmp_path / "model.onnx").write_bytes(classifier.data)
    model = classifier.data if source == "bytes" else tmp_path / "model.onnx"
    session: Session = open_session(model, optimise=optimise, threads=threads)
    assert (session.input, session.input_shape, session.outputs) == ("image", (None, 3, 8, 8), ("scores",))
    x = RNG.normal(size=(5, 3, 8, 8)).astype(np.float32)
    found = session.run(x)
    assert found.keys() == {"scores"}
    assert found["scores"].dtype == np.float32
    np.testing.assert_allclose(found["scores"], classifier.scores(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_input_is_cast_to_what_the_model_takes(make_classifier: MakeClassifier, dtype: Any) -> None:
    classifier = make_classifier(dtype=dtype)
    session = open_session(classifier.data)
    x = RNG.normal(size=(2, 3, 8, 8)).astype(np.float32)
    found = session.run(x)["scores"]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, classifier.scores(x), atol=1e-2 if dtype == np.float16 else 1e-6)
    np.testing.assert_array_equal(session.run(np.asfortranarray(x))["scores"], found)


def test_a_fixed_batch_is_seen(make_classifier: MakeClassifier) -> None:
    assert open_session(make_classifier(batch=2).data).input_shape == (2, 3, 8, 8)
    assert open_session(make_classifier(size="side").data).input_shape == (None, 3, None, None)


def test_the_switches_reach_onnx_runtime(make_classifier: MakeClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    real = onnxruntime.InferenceSession

    def note(model: Any, options: Any, providers: list[str]) -> Any:
        seen.append((options.graph_optimization_level.name, options.intra_op_num_threads, providers))
        return real(model, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    open_session(make_classifier().data, optimise=False, threads=3)
    open_session(make_classifier().data)
    assert seen == [
        ("ORT_DISABLE_ALL", 3, ["CPUExecutionProvider"]),
        ("ORT_ENABLE_ALL", 0, ["CPUExecutionProvider"]),
    ]


def test_weights_beside_the_model_are_found(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    classifier = make_classifier()
    folder = tmp_path / "models"
    folder.mkdir()
    onnx.save_model(
        classifier.model, folder / "model.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    x = RNG.normal(size=(1, 3, 8, 8)).astype(np.float32)
    found = open_session(folder / "model.onnx").run(x)["scores"]
    np.testing.assert_allclose(found, classifier.scores(x), rtol=1e-5, atol=1e-6)
    (folder / "weights").unlink()
    with pytest.raises(ModelError, match="'weights', which is not a plain file beside it"):
        open_session(folder / "model.onnx")


@pytest.mark.parametrize("data", [b"", b"not a model", b"\x08\x07", b"\x00" * 1000])
def test_what_is_not_a_model(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ModelError, match="The model cannot be opened") as caught:
        open_session(data)
    assert caught.value.__cause__ is not None
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.onnx"):
        open_session(tmp_path / "model.onnx")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.onnx", tmp_path):
        with pytest.raises(ModelError, match="does not exist or is not a file"):
            open_session(path)


@pytest.mark.parametrize(
    ("operator", "options", "words"),
    [
        ("Relu", {"opset": 99}, "Opset 99"),
        ("Relu", {"ir": 99}, "IR version"),
        ("NoSuchOperator", {}, "NoSuchOperator"),
    ],
)
def test_what_this_onnx_runtime_does_not_know(
    make_one_node: Callable[..., bytes], operator: str, options: dict[str, int], words: str
) -> None:
    with pytest.raises(UnsupportedError, match=words) as caught:
        open_session(make_one_node(operator, ["batch", 3], **options))
    assert "onnxruntime_src" not in str(caught.value)


def test_hostile_names_do_not_reach_the_message(make_one_node: Callable[..., bytes]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        open_session(make_one_node("\x1b[2J\nEvil", ["batch", 3]))
    assert all(character.isprintable() for character in str(caught.value))
    assert len(str(caught.value)) < 500


def with_inputs(*names: str, kind: int = TensorProto.FLOAT) -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", [names[0]], ["y"])]
        if names
        else [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(2, np.float32)))],
        "g",
        [helper.make_tensor_value_info(name, kind, ["batch", 3]) for name in names],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_models_that_are_no_classifiers() -> None:
    with pytest.raises(ModelError, match="2 inputs instead of one"):
        open_session(with_inputs("a", "b"))
    with pytest.raises(ModelError, match="0 inputs instead of one"):
        open_session(with_inputs())
    with pytest.raises(ModelError, match=r"tensor\(string\), not an image"):
        open_session(with_inputs("text", kind=TensorProto.STRING))
    sequence = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)],
    )
    model = helper.make_model(sequence, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(ModelError, match="'y', which is not a tensor"):
        open_session(model.SerializeToString())


@pytest.mark.parametrize("shape", [(1, 3, 9, 8), (1, 4, 8, 8), (3, 8, 8), (1, 3, 8, 8, 1), ()])
def test_an_input_that_does_not_fit(make_classifier: MakeClassifier, shape: tuple[int, ...]) -> None:
    session = open_session(make_classifier().data)
    with pytest.raises(ModelError, match="fails on an input of shape"):
        session.run(np.zeros(shape, np.float32))
    assert session.run(np.zeros((1, 3, 8, 8), np.float32))["scores"].shape == (1, 4)


def test_a_model_that_asks_for_terabytes() -> None:
    graph = helper.make_graph(
        [helper.make_node("ConstantOfShape", ["shape"], ["huge"]), helper.make_node("Add", ["x", "huge"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([2**20, 2**22, 3]), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(UnsupportedError, match="more memory than there is"):  # some versions try it when they open it
        open_session(model.SerializeToString()).run(np.zeros((1, 3), np.float32))


def test_a_closed_session_does_not_run(make_classifier: MakeClassifier) -> None:
    session = open_session(make_classifier().data)
    session.close()
    session.close()
    with pytest.raises(ValueError, match="closed"):
        session.run(np.zeros((1, 3, 8, 8), np.float32))


QUIET = """
import sys
import numpy as np
from expertc.backends.cpu import open_session
from expertc.errors import ExpertcError
open_session(open(sys.argv[1], "rb").read()).run(np.zeros((1, 3, 8, 8), np.float32))
for bad in (b"not a model", b""):
    try:
        open_session(bad)
    except ExpertcError:
        continue
    raise SystemExit("accepted")
try:
    open_session(open(sys.argv[1], "rb").read()).run(np.zeros((1, 2, 8, 8), np.float32))
except ExpertcError:
    print("done")
"""


def test_onnx_runtime_prints_nothing_itself(make_classifier: MakeClassifier, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(make_classifier().data)
    environment = os.environ | {"PYTHONPATH": str(Path(expertc.__file__).parent.parent)}
    command = [sys.executable, "-c", QUIET, str(tmp_path / "model.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_learns_the_version() -> None:
    facts = describe()
    assert facts["version"] == onnxruntime.__version__
    assert "CPUExecutionProvider" in facts["providers"]
    assert facts["cores"] == os.cpu_count()
