"""The whole road in real processes, and what happens to a build that is not alone, or not left in peace."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rainbow import COLOURS, photos, picture, tree

from expertc.source import BUNDLED

README = Path(__file__).resolve().parents[2] / "README.md"
COMMAND = (sys.executable, "-m", "expertc")


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | more


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the trained model is not in this checkout")
def test_the_first_command_somebody_types(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("build", "--classes", "sharks,rays")
    assert (code, err) == (0, "")
    assert "verification  passed; 3 of 3 steps" in out
    assert "bundle: sharks-rays.expert" in out
    assert out.splitlines()[-1] == "next:   expertc predict sharks-rays.expert photo.jpg"
    bundle = tmp_path / "sharks-rays.expert"
    assert (bundle / "labels.txt").read_text() == "rays\nsharks\n"  # in the order of the model's outputs
    manifest = json.loads((bundle / "manifest.json").read_text())
    full, expert = manifest["costs"]["full"], manifest["costs"]["expert"]
    assert full["classes"] == 23
    assert expert["branches"] < full["branches"]
    assert expert["cost"]["macs"] < full["cost"]["macs"]
    assert manifest["weights_licence"]
    code, out, _ = cli("predict", bundle, picture(tmp_path / "photo.jpg", "blues", (200, 150)), "--json")
    assert code == 0
    assert {item["label"] for item in json.loads(out)[0]["predictions"]} == {"sharks", "rays"}
    assert cli("verify", bundle, "--level", "fast").code == 0


def test_a_build_does_not_depend_on_the_hash_seed(full, bundle, tmp_path):
    """Verified, in other processes, under other hash seeds: the manifest with the certificate is the same too."""
    for seed in ("1", "4242"):
        arguments = ["build", full, "--classes", "yellows,reds", "-o", tmp_path / seed, "--measure", "0", "-q"]
        subprocess.run([*COMMAND, *map(str, arguments)], env=environment(PYTHONHASHSEED=seed), check=True, timeout=300)
        for name in ("expert.onnx", "manifest.json", "README.txt", "labels.txt", "preprocess.json"):
            assert (tmp_path / seed / name).read_bytes() == (bundle / name).read_bytes(), name


def processes_at(folder: Path) -> list[str]:
    """Command lines that mention ``folder``, such as the verifying child's."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder) in text and str(os.getpid()) != entry.parent.name:
            found.append(text)
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to look for processes that were left behind")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["verify", "measure"])
def test_an_interrupted_build_leaves_nothing(cli, full, tmp_path, kind, stage):
    """The first build is held up in a stage; a second one into the same place is refused; then the first is stopped."""
    (tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    hold = (
        "import signal, sys, time, expertc.compiler as compiler\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests behind it ignores it\n"
        "from expertc.cli import run\n"
        f"class Clock(compiler._Clock):\n"
        "    def stage(self, name):\n"
        f"        if name == {stage!r}:\n"
        "            print('held', flush=True)\n"
        "            time.sleep(120)\n"
        "        return super().stage(name)\n"
        "compiler._Clock = Clock\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    out = tmp_path / "work" / "a.expert"
    arguments = ("build", full, "--classes", "warm", "-o", out)
    with subprocess.Popen(
        [sys.executable, "-c", hold, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(TMPDIR=str(tmp_path / "tmp")),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        second = cli(*arguments, "--verify", "off", "--measure", "0")
        assert second.code == 9
        assert "Another process is writing" in second.err
        process.send_signal(kind)
        rest, err = process.communicate(timeout=120)
    assert (process.returncode, rest) == (130, "")
    assert "Interrupted" in err
    assert "Traceback" not in err
    assert tree(tmp_path) == before
    assert processes_at(tmp_path / "tmp") == []


def test_a_killed_build_is_tidied_up_by_the_next(cli, full, tmp_path):
    hold = (
        "import sys, time, expertc.atomic as atomic\n"
        "from expertc.cli import run\n"
        "def flush(folder):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(120)\n"
        "atomic._flush = flush\n"
        "sys.exit(run(sys.argv[1:]))\n"
    )
    arguments = ("build", full, "--classes", "warm", "-o", tmp_path / "a.expert", "--verify", "off", "--measure", "0")
    with subprocess.Popen(
        [sys.executable, "-c", hold, *map(str, arguments)], stdout=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert not (tmp_path / "a.expert").exists()
        process.kill()
    assert list(tmp_path.iterdir())  # nobody could tidy up
    assert cli(*arguments).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.expert"]


RECIPE = """
name = "colours"
taxonomy = "{taxonomy}"
arch = "nhl"
size = 32
holdout = 0.25

[arch_args]
backbone = "resnet18"
widths = [4, 4]
strides = [1, 1]
[arch_args.backbone_args]
layers = [1, 1, 1, 1]
channels = [8, 8, 8, 8]

[[stage]]
name = "only"
epochs = 1
size = 32
lr = 0.05
batch = 8
warmup_epochs = 0.5
"""


def test_train_export_build_predict(cli, tmp_path):
    """From photos to an expert's answer."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = photos(tmp_path / "photos", each=8)
    leaves = [f"{name}: {{index: {number}}}" for number, name in enumerate(COLOURS)]
    (tmp_path / "tree.yaml").write_text(
        f"name: colours\ntree:\n  warm:\n    {leaves[0]}\n    {leaves[3]}\n  cold:\n    {leaves[1]}\n    {leaves[2]}\n"
    )
    (tmp_path / "recipe.toml").write_text(RECIPE.format(taxonomy=tmp_path / "tree.yaml"))
    run, full, expert = tmp_path / "run", tmp_path / "full.onnx", tmp_path / "warm.expert"
    code, out, err = cli("train", tmp_path / "recipe.toml", "--data", folder, "-o", run, "--workers", "0")
    torch.set_num_threads(before)
    assert code == 0, err
    assert "held out: " in out
    assert out.splitlines()[-1] == f"next: expertc export {run} -o full.onnx"
    assert "only 1/1: loss" in err
    code, out, err = cli("export", run, "-o", full, "--data", folder, "--licence", "Ours.")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"next:       expertc classes {full}"
    assert str(tmp_path).encode() not in full.read_bytes()
    code, out, err = cli("build", full, "--classes", "warm", "--data", folder, "-o", expert, "--measure", "0", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["verification"]["verdict"] == "verified"
    assert found["expert"]["branches"] < found["full"]["branches"]
    assert json.loads((expert / "manifest.json").read_text())["weights_licence"] == "Ours."
    predictions = json.loads(cli("predict", expert, folder / "reds", "--json").out)
    assert {item["label"] for item in predictions[0]["predictions"]} == {"reds", "yellows"}
    agreement = json.loads(cli("evaluate", expert, "--data", folder, "--against", full, "--json").out)["agreement"]
    assert agreement["agreed"] == agreement["images"] == 16


def test_the_readmes_own_model(cli, tmp_path, monkeypatch):
    """The commands that the README gives for an own image folder, with a recipe that a test has time for."""
    torch = pytest.importorskip("torch", reason="needs the train extra")
    monkeypatch.chdir(tmp_path)
    section = README.read_text(encoding="utf-8").partition("### Training your own")[2]
    commands = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    assert len(commands) <= 6
    (tmp_path / "recipe.toml").write_text(RECIPE.format(taxonomy="nowhere.yaml"))
    for number, name in enumerate(("cats", "lions", "dogs")):
        for shade in range(10):
            picture(tmp_path / "photos" / name / f"{shade}.png", (100 * number, 20 * shade, 120))
    subprocess.run(["sh", "-c", commands[0]], check=True)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    outputs = []
    for command in commands[1:]:
        program, *arguments = shlex.split(command.replace(" sea-animals ", " recipe.toml --workers 0 "))
        assert program == "expertc"
        code, out, err = cli(*arguments)
        assert code == 0, err
        outputs.append(out)
    torch.set_num_threads(before)
    train, _, classes, build, predict = outputs
    assert "next: expertc export run/ -o full.onnx" in train
    assert all(name in classes for name in ("felines", "cats", "lions", "dogs"))
    assert "bundle: felines.expert" in build
    assert predict.count(".png") == 10
    assert (tmp_path / "felines.expert" / "labels.txt").read_text() == "cats\nlions\n"
    assert json.loads((tmp_path / "run" / "model.json").read_text())["training"]["recipe"] == "pets"


def test_data_and_taxonomy_that_do_not_match(cli, tmp_path):
    pytest.importorskip("torch", reason="needs the train extra")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(taxonomy=tmp_path / "tree.yaml"))
    folder = photos(tmp_path / "photos", each=8)

    def train(leaves, *more):
        (tmp_path / "tree.yaml").write_text("tree:\n" + "".join(f"  {n}: {{index: {i}}}\n" for i, n in leaves))
        return cli("train", tmp_path / "recipe.toml", "--data", folder, "-o", tmp_path / "run", *more)

    for leaves, more, words in (
        (enumerate([*COLOURS, "pinks"]), (), "no class 'pinks'"),
        (enumerate(list(COLOURS)[1:]), (), "no class for the images of 'reds'"),
        (enumerate(COLOURS), ("--classes", "reds,pinks"), "pinks"),
        (enumerate(COLOURS), ("--trunk", "no.safetensors"), "no.safetensors"),
    ):
        code, _, err = train(leaves, *more)
        assert code in (2, 10)
        assert words in err
        assert not (tmp_path / "run").exists()
    for photo in (folder / "blues").iterdir():
        photo.unlink()
    code, _, err = train(enumerate(COLOURS))
    assert code == 10
    assert "The class 'blues' has no images" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing", "--data", "."), 2, "no recipe 'nothing'"),
        (("sea-animals", "--data", "nowhere"), 10, "'nowhere' does not exist"),
        (("sea-animals", "--data", ".", "--device", "toaster"), 2, "device 'toaster'"),
        (("sea-animals", "--data", ".", "--precision", "fp8"), 2, "'fp8'"),
        (("sea-animals", "--data", ".", "--classes", "cats"), 2, "'cats'"),
    ],
)
def test_what_cannot_be_trained(cli, tmp_path, monkeypatch, arguments, code, words):
    pytest.importorskip("torch", reason="needs the train extra")
    monkeypatch.chdir(tmp_path)
    found = cli("train", *arguments, "-o", "run")
    assert (found.code, found.out) == (code, "")
    assert words in found.err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported(cli, tmp_path):
    pytest.importorskip("torch", reason="needs the train extra")
    code, out, err = cli("export", tmp_path, "-o", tmp_path / "full.onnx")
    assert (code, out) == (3, "")
    assert "model.json" in err
    assert list(tmp_path.iterdir()) == []
