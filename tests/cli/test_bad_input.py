"""What is wrong with what somebody typed or handed in: one sentence, one hint, the exit code, nothing left behind."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from rainbow import CLASSES, TAXONOMY, card, rainbow, tree

from expertc import atomic
from expertc.bundle import reserve
from expertc.card import CARD_KEY
from expertc.errors import ExitCode, UsageError

QUICK = ("--verify", "off", "--measure", "0")


@pytest.fixture
def refused(cli, tmp_path, monkeypatch):
    """Runs a build in an empty folder that must fail: ``refused(code, words, model, *options)``."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)

    def check(expected: int, words: str, *arguments: object) -> str:
        before = tree(work)
        code, out, err = cli("build", *arguments, *QUICK)
        assert code == expected
        assert out == ""
        said, _, hint = err.strip().partition("\n")
        assert said.startswith("Error: ")
        assert said.endswith((".", "…"))
        assert hint
        assert "\n" not in hint
        assert words in said
        assert "Traceback" not in err
        assert tree(work) == before
        return hint

    return check


@pytest.fixture
def models(tmp_path):
    """Writes a model: ``models(net)`` is its path."""

    def write(net, check=True):
        path = tmp_path / f"model-{len(list(tmp_path.iterdir()))}.onnx"
        path.write_bytes(net.model(check).SerializeToString())
        return path

    return write


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in CLASSES))
    return path


# -- selections --------------------------------------------------------------------------------------------------------


def test_an_unknown_class(refused, full):
    assert "'blues'" in refused(2, "no class or category 'bluse'", full, "--classes", "reds,bluse")


@pytest.mark.parametrize("text", ["", " , ", "-warm,-cold", "reds,-warm"])
def test_an_empty_selection(refused, full, text):
    refused(2, "", full, "--classes", text)


@pytest.mark.parametrize("text", ["#4", "#0-9", "#-1", "warm/blues", "@missing.txt", '"reds'])
def test_other_selections_that_mean_nothing(refused, full, text):
    refused(2, "", full, "--classes", text)


def test_an_unknown_target(refused, full):
    assert "expertc targets" in refused(2, "'toaster'", full, "--classes", "reds", "--target", "toaster")


@pytest.mark.parametrize("batch", ["0", "-1", "many", "4097", "²"])
def test_a_batch_that_is_none(refused, full, batch):
    refused(2, "batch", full, "--classes", "reds", "--batch", batch)


def test_a_level_that_is_none(cli, full, tmp_path):
    code, _, err = cli("build", full, "--classes", "reds", "-o", tmp_path / "a.expert", "--verify", "thorough")
    assert code == 2
    assert "'thorough'" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seconds", ["nan", "-1", "inf", "86401"])
def test_seconds_that_are_none(cli, full, tmp_path, seconds):
    code, _, err = cli("build", full, "--classes", "reds", "-o", tmp_path / "a", "--measure", seconds)
    assert code == 2
    assert "--measure" in err
    assert list(tmp_path.iterdir()) == []


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_missing_file(refused):
    refused(3, "'nothing.onnx' cannot be read (No such file or directory)", "nothing.onnx", "--classes", "reds")


def test_a_folder(refused, tmp_path):
    refused(3, "is a folder, not an ONNX file", tmp_path, "--classes", "reds")


@pytest.mark.parametrize("data", [b"", b"PK\3\4 not a model", b"\x00" * 1000, b"{}"])
def test_not_an_onnx_file(refused, tmp_path, data):
    (tmp_path / "a.onnx").write_bytes(data)
    refused(3, "a.onnx'", tmp_path / "a.onnx", "--classes", "reds")


def test_a_truncated_model(refused, full, tmp_path):
    (tmp_path / "a.onnx").write_bytes(full.read_bytes()[:-100])
    refused(3, "a.onnx'", tmp_path / "a.onnx", "--classes", "reds")


def test_a_model_without_outputs(refused, models):
    net = rainbow()
    net.outputs.clear()
    refused(3, "has no outputs", models(net, check=False), "--classes", "reds")


def test_a_model_without_a_card(refused, models):
    hint = refused(3, "has no model card", models(rainbow(described=False)), "--classes", "reds")
    assert "--labels" in hint


def test_two_inputs_and_no_card(refused, models, labels):
    net = rainbow(described=False)
    net.image(4, name="other")
    net.result(net.node("Relu", "other"), 4)
    refused(3, "2 inputs and no card", models(net), "--labels", labels, "--classes", "reds")


def test_two_outputs_and_no_card(refused, cli, models, labels):
    net = rainbow(described=False)
    net.result(net.node("Softmax", "scores", axis=1, out="shares"), 4)
    model = models(net)
    hint = refused(2, "More than one output", model, "--labels", labels, "--classes", "reds")
    assert "--scores scores:1" in hint
    arguments = ("--labels", labels, "--classes", "reds,blues", "--scores", "shares:1", *QUICK)
    assert cli("build", model, *arguments).code == 0
    refused(2, "'nothing' is not an output", model, "--labels", labels, "--classes", "reds", "--scores", "nothing:1")


@pytest.mark.parametrize("scores", ["scores", ":1", "scores:x", "scores:-1", "scores:9"])
def test_scores_that_are_not_an_output_and_its_axis(refused, models, labels, scores):
    arguments = ("--labels", labels, "--classes", "reds", "--scores", scores)
    refused(2, "is not NAME:AXIS", models(rainbow(described=False)), *arguments)


def test_scores_of_rank_four(refused, models, labels):
    """A segmentation network: scores per pixel."""
    net = rainbow(described=False)
    net.outputs.clear()
    net.result("warm", 2, 8, 8)
    labels.write_text("a\nb\n")
    hint = refused(3, "No output holds the scores of 2 classes", models(net), "--labels", labels, "--classes", "a")
    assert "[batch, 2, 8, 8]" in hint


def test_too_few_labels(refused, models, labels):
    labels.write_text("reds\ngreens\n")
    refused(3, "2 classes", models(rainbow(described=False)), "--labels", labels, "--classes", "reds")


@pytest.mark.parametrize("text", ["reds\nreds\nblues\nyellows\n", "reds\n\nblues\nyellows\n", "", "reds\n\xff\n"])
def test_labels_that_are_no_list(refused, models, labels, text):
    labels.write_bytes(text.encode("latin-1"))
    refused(3, "labels.txt'", models(rainbow(described=False)), "--labels", labels, "--classes", "reds")


@pytest.mark.parametrize("option", ["--labels", "--taxonomy"])
def test_a_missing_description(refused, models, option):
    refused(3, "'gone' cannot be read", models(rainbow(described=False)), option, "gone", "--classes", "reds")


def test_a_missing_preprocessing(refused, models, labels):
    arguments = ("--labels", labels, "--preprocess", "gone.json", "--classes", "reds")
    refused(3, "'gone.json' cannot be read", models(rainbow(described=False)), *arguments)


def test_a_description_of_a_model_that_has_a_card(refused, full, labels):
    refused(2, "has a model card of its own", full, "--labels", labels, "--classes", "reds")


def test_nan_in_the_weights(refused, cli, models, tmp_path):
    net = rainbow()
    net.initializers["yellows.w"] = np.float32([[0.5, np.nan]])
    model = models(net)
    refused(3, "'yellows.w' hold NaN", model, "--classes", "warm")
    # what only other classes need is never looked at
    assert cli("build", model, "--classes", "cold", *QUICK, "-o", tmp_path / "cold.expert").code == 0


def test_a_card_with_other_classes(refused, models):
    net = rainbow(taxonomy=TAXONOMY.restrict((0, 1, 3)))
    refused(3, "has 4 classes, the card 3", models(net), "--classes", "reds")


def test_a_card_with_another_output(refused, models):
    net = rainbow()
    net.metadata[CARD_KEY] = card().to_json().replace('"name":"scores"', '"name":"logits"')
    refused(3, "no output 'logits'", models(net), "--classes", "reds")


def test_a_card_with_another_input_size(refused, models):
    net = rainbow()
    net.metadata[CARD_KEY] = card().to_json().replace('"size":[8,8]', '"size":[6,6]')
    refused(3, "the preprocessing makes", models(net), "--classes", "reds")


def test_a_card_that_says_logits_of_a_softmax(refused, models):
    refused(3, "calls the output 'scores' logits", models(rainbow(end="Softmax")), "--classes", "reds")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": 99}', '{"schema": 1}', "{}"])
def test_a_card_that_is_no_card(refused, models, text):
    net = rainbow()
    net.metadata[CARD_KEY] = text
    refused(3, "card", models(net), "--classes", "reds")


def test_photos_that_cannot_be_read(cli, full, tmp_path):
    before = tree(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"no")
    out = tmp_path / "a.expert"
    code, _, err = cli("build", full, "--classes", "reds", "--data", tmp_path / "photos", "-o", out, "--measure", "0")
    assert code == 10
    assert "None of the 1 photos" in err
    assert tree(tmp_path).keys() - before.keys() == {"photos", "photos/a.png"}


# -- targets and what they refuse --------------------------------------------------------------------------------------


def test_classes_along_another_axis(refused, models, labels):
    net = rainbow(described=False, batch=1)
    net.outputs.clear()
    net.outputs.append(onnx.helper.make_tensor_value_info("columns", onnx.TensorProto.FLOAT, [4, 1]))
    net.node("Transpose", "scores", perm=[1, 0], out="columns")
    arguments = ("--labels", labels, "--scores", "columns:0", "--classes", "reds")
    refused(4, "one row per image", models(net), *arguments)


# -- outputs -----------------------------------------------------------------------------------------------------------


def test_an_output_that_exists(refused, cli, full, tmp_path):
    Path("mine").mkdir()
    Path("mine", "notes.txt").write_text("mine")
    assert "--force" in refused(9, "mine' already exists", full, "--classes", "reds", "-o", "mine")
    refused(9, "is not an expertc bundle", full, "--classes", "reds", "-o", "mine", "--force")
    assert cli("build", full, "--classes", "reds", "-o", "a.expert", *QUICK).code == 0
    Path("a.expert", "notes.txt").write_text("mine")
    refused(9, "'notes.txt', which its manifest does not list", full, "--classes", "reds", "-o", "a.expert", "--force")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("missing/a.expert", "'missing' does not exist"),
        ("file/a.expert", "'file' is not a folder"),
        ("/proc/a.expert", "'/proc/a.expert' cannot be written"),
        ("x" * 300, "cannot be written (File name too long)"),
        ("..", "'..' does not name a new directory"),
        ("", "does not name a new directory"),
    ],
)
def test_an_output_that_cannot_be_there(refused, full, output, words):
    Path("file").write_text("a file")
    refused(9, words, full, "--classes", "reds", "-o", output)


@contextmanager
def unprivileged() -> Iterator[None]:
    """As somebody to whom permissions apply, which root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_an_output_in_a_folder_that_is_read_only(cli, full, tmp_path_factory, request):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "full.onnx").write_bytes(full.read_bytes())
        # A profile that anybody may read, wherever this package lies.
        (folder / "here.toml").write_text('description = "a CPU"\nbackend = "onnxruntime"\nprecisions = ["fp32"]\n')
        arguments = ("build", folder / "full.onnx", "--classes", "reds", "--target", folder / "here.toml", *QUICK)
        assert cli(*arguments, "-o", folder / "a.expert")[0] == 0  # which imports what it takes
        shutil.rmtree(folder / "a.expert")
        folder.chmod(0o555)
        with unprivileged():
            code, out, err = cli(*arguments, "-o", folder / "a.expert")
        assert sorted(path.name for path in folder.iterdir()) == ["full.onnx", "here.toml"]
        folder.chmod(0o755)
    assert (code, out) == (9, "")
    assert "cannot be written (Permission denied)" in err


def test_a_model_that_may_not_be_read(cli, full):
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "full.onnx").write_bytes(full.read_bytes())
        assert cli("classes", folder / "full.onnx")[0] == 0  # which imports what it takes
        (folder / "full.onnx").chmod(0)
        with unprivileged():
            code, _, err = cli("classes", folder / "full.onnx")
    assert code == 3
    assert "Permission denied" in err


def test_two_builds_into_one_output(refused, full):
    with reserve(Path("a.expert")):
        refused(9, "Another process is writing 'a.expert'", full, "--classes", "reds", "-o", "a.expert")


def test_a_disk_that_fills_up(refused, full, monkeypatch):
    import errno

    def put(path: Path, content: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(atomic, "put", put)
    refused(9, "The disk is full", full, "--classes", "reds", "-o", "a.expert")


# -- verification ------------------------------------------------------------------------------------------------------


class Breaks:
    """A pass with a bug: it swaps two classes' heads."""

    name, requires, ensures = "breaks", "", ""

    def run(self, model):
        reds, yellows = (
            next(node for node in model.nodes if name in [tensor.name for tensor in node.inputs])
            for name in ("reds.w", "yellows.w")
        )
        reds.inputs[1], yellows.inputs[1] = yellows.inputs[1], reds.inputs[1]
        return model, True


def test_an_expert_that_does_not_agree(cli, full, tmp_path, monkeypatch):
    monkeypatch.setattr("expertc.finish.Fold", Breaks)
    code, out, err = cli("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", "--measure", "0")
    assert (code, out) == (5, "")
    assert err.startswith("Error: Verification failed")
    assert list(tmp_path.iterdir()) == []


# -- the other exit codes ----------------------------------------------------------------------------------------------


def test_a_bug_is_said_to_be_one(cli, full, monkeypatch):
    def trips(*arguments: object) -> None:
        raise KeyError("[/] \x1b[31m")

    monkeypatch.setattr("expertc.source.ownership", trips)
    code, out, err = cli("classes", full)
    assert (code, out) == (ExitCode.INTERNAL, "")
    assert "Something unexpected happened (KeyError" in err
    assert "--debug" in err
    assert "\x1b" not in err
    with pytest.raises(KeyError):
        cli("classes", full, "--debug")


def test_an_error_with_debug_shows_where(cli):
    with pytest.raises(UsageError):
        cli("build", "--classes", "sharks", "--target", "toaster", "--debug")


def test_a_missing_extra_is_named(cli, monkeypatch):
    import builtins

    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "torch" or name.startswith("torch."):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    code, _, err = cli("train", "sea-animals", "--data", "photos", "-o", "run")
    assert code == 2
    assert "pip install 'expertc[train]'" in err


def test_interrupted_in_this_process(cli, full, tmp_path, monkeypatch):
    """A real process is in tests/e2e; here: the exit code, the message, and the old handler of SIGTERM."""
    before = signal.getsignal(signal.SIGTERM)

    def terminate(*arguments: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("expertc.compiler.prune", terminate)
    code, out, err = cli("build", full, "--classes", "reds", "-o", tmp_path / "a.expert", *QUICK)
    assert (code, out) == (ExitCode.INTERRUPTED, "")
    assert "Interrupted" in err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before
