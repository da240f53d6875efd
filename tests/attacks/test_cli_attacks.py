"""The command line against names, files and circumstances that are out to hurt it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata

import pytest
from networks import Net
from rainbow import card, rainbow, tree
from strangers import bomb, endless

from expertc.card import CARD_KEY, Card, Output
from expertc.taxonomy import Node, Taxonomy

QUICK = ("--verify", "off", "--measure", "0")

HOSTILE = (
    "[/]",
    "[bold red]red[/bold red]",
    "\x1b[2J\x1b]0;title\x07escape",
    "../../etc/passwd",
    "/absolute",
    "a\u202egnp.exe",
    "tab\tand\nnewline",
    "-rf",
    "@file",
    "#1",
    "$(reboot) `id`",
    "ünïcödé 鯊",
    '"; import os #',
)


def flat(labels, name="model"):
    """A network of one layer over these classes, with a card in which they stand as they are."""
    net = Net(17)
    net.result(net.head(net.image(3, 4, 4), 3, len(labels), name="scores"), len(labels))
    cleaned = [f"{number} {label}".strip() for number, label in enumerate(labels)]
    made = Card(name, Taxonomy.flat(cleaned), (Output("scores"),), "image", None, " ".join(labels)[:200])
    net.metadata = {CARD_KEY: made.to_json()}
    return net


def harmless(text: str) -> bool:
    """No control or direction character but line ends reaches the terminal."""
    return all(c == "\n" or unicodedata.category(c)[0] != "C" for c in text)


@pytest.fixture
def hostile(tmp_path):
    path = tmp_path / "hostile.onnx"
    path.write_bytes(flat(HOSTILE, "[/] \x1b[31mmodel").bytes())
    return path


@pytest.mark.parametrize(
    "arguments", [("classes",), ("classes", "--json"), ("inspect",), ("inspect", "--json", "--explain")]
)
def test_labels_are_shown_and_not_obeyed(cli, hostile, arguments):
    code, out, err = cli(arguments[0], hostile, *arguments[1:])
    assert (code, err) == (0, "")
    assert harmless(out)
    if arguments == ("classes",):
        assert "0 [/]" in out
        assert "1 [bold red]red[/bold red]" in out


def test_a_bundle_of_hostile_labels(cli, hostile, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    code, out, err = cli("build", hostile, "--classes", "#0-12", *QUICK)
    assert (code, err) == (0, "")
    assert harmless(out)
    [bundle] = work.iterdir()
    assert bundle.name.startswith("13-classes-")
    assert len((bundle / "labels.txt").read_text(encoding="utf-8").splitlines()) == 13
    for command in (("inspect", bundle), ("diff", bundle, bundle), ("classes", bundle), ("inspect", bundle, "--json")):
        code, out, err = cli(*command)
        assert (code, err) == (0, "")
        assert harmless(out)


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_the_default_name_stays_in_its_folder(cli, hostile, tmp_path, monkeypatch, number):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert cli("build", hostile, "--classes", f"#{number}", *QUICK).code == 0
    [bundle] = work.iterdir()
    assert set(bundle.name.removesuffix(".expert")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_sixty_class_names(cli, tmp_path, monkeypatch):
    path = tmp_path / "sixty.onnx"
    path.write_bytes(flat(["a very long name of a class " * 5] * 70).bytes())
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    assert cli("build", path, "--classes", "#0-59", *QUICK).code == 0
    assert cli("build", path, "--classes", "#1-60", *QUICK).code == 0
    names = [bundle.name for bundle in work.iterdir()]
    assert len(names) == len(set(names)) == 2
    assert all(name.startswith("60-classes-") and len(name) < 40 for name in names)
    code, out, _ = cli("classes", path)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80


def test_names_of_tensors_in_the_readme(cli, tmp_path):
    """A name out of the graph stands in the README's program as a literal, so it cannot be a statement."""
    name = '": 0}); __import__("os").abort(); ({"'
    net = rainbow(described=False)
    for node in net.nodes:
        node.input[:] = [name if tensor == "image" else tensor for tensor in node.input]
    net.inputs[0].name = name
    net.metadata = {CARD_KEY: card().to_json().replace('"input":"image"', f'"input":{json.dumps(name)}')}
    (tmp_path / "a.onnx").write_bytes(net.bytes())
    assert cli("build", tmp_path / "a.onnx", "--classes", "warm", "-o", tmp_path / "a.expert", *QUICK).code == 0
    readme = (tmp_path / "a.expert" / "README.txt").read_text()
    program = readme.partition("With ONNX Runtime alone")[2].partition("\n")[2].partition("With TensorRT")[0]
    import ast

    calls = {node.func.id for node in ast.walk(ast.parse("\n".join(line[2:] for line in program.splitlines())))
             if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}  # fmt: skip
    assert "__import__" not in calls


def test_errors_repeat_nothing_dangerous(cli, full):
    for arguments in (
        ("build", full, "--classes", "\x1b[2J[/]\u202e"),
        ("classes", "\x1b[2J[/]\u202e.onnx"),
        ("inspect", full, "--labels", "\x1b[2J"),
        ("targets", "\x1b[2J"),
        ("predict", "\x1b[2J", "a.png"),
        ("bench", "\x1b[2J"),
    ):
        code, out, err = cli(*arguments)
        assert code in (2, 3)
        assert out == ""
        assert harmless(err)


def test_names_of_images_are_cleaned(cli, bundle, tmp_path):
    (tmp_path / "\x1b[2Jbad[bold].png").write_bytes(b"no image")
    code, out, err = cli("predict", bundle, tmp_path)
    assert (code, out) == (10, "")
    assert harmless(err)
    assert "[2Jbad[bold].png" in err


def test_a_deep_taxonomy(cli, tmp_path):
    node = Node("leaf", index=0)
    for depth in range(60):
        node = Node(f"level-{depth}", (node,))
    net = rainbow(taxonomy=Taxonomy("deep", (node, *(Node(f"class-{i}", index=i) for i in (1, 2, 3)))))
    (tmp_path / "a.onnx").write_bytes(net.bytes())
    code, out, err = cli("classes", tmp_path / "a.onnx")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    assert cli("classes", tmp_path / "a.onnx", "--json").code == 0


CHILD = """
import resource, sys
from expertc.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(run(sys.argv[2:]))
"""


def child(folder, code, *arguments):
    """Run Python in a process of its own, at home in ``folder``."""
    places = {name: str(folder / name.lower()) for name in ("TMPDIR", "HOME", "XDG_CACHE_HOME")}
    for place in (*places.values(), folder / "work"):
        os.mkdir(place)
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder / "work", capture_output=True, text=True, timeout=300,
        env=os.environ | places | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip


PLACES = {"tmpdir", "home", "xdg_cache_home", "work"}


@pytest.mark.parametrize(
    ("room", "level", "words"),
    [(700, "off", "does not fit"), (700, "fast", "temporary files of the verification"), (0, "off", "does not fit")],
)
def test_no_room_on_the_disk(full, tmp_path, room, level, words):
    """A limit on the size of files stands for a full disk: the same system call fails in the same place."""
    arguments = ("build", full, "--classes", "reds", "-o", "a.expert", "--verify", level, "--measure", "0")
    done = child(tmp_path, CHILD, room, *arguments)
    assert (done.returncode, done.stdout) == (9, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(tmp_path).keys() == PLACES


def test_nothing_is_left_anywhere_and_nobody_is_told(bundle, full, tmp_path):
    """ONNX Runtime would begin to report when it is imported, with files in the temporary and home folders."""
    code = "import sys; from expertc.cli import run; sys.exit(run(sys.argv[1:]))"
    done = child(tmp_path, code, "bench", bundle, full, "--duration", "0.05")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(tmp_path).keys() == PLACES


@pytest.mark.parametrize("model", [bomb, endless])
def test_nobody_runs_what_is_not_verified(tmp_path, model):
    """It would never end, or need six gigabytes; cut and written it is all the same."""
    given, labels = tmp_path / "given.onnx", tmp_path / "labels.txt"
    given.write_bytes(model())
    labels.write_text("one\ntwo\n")
    code = "import sys; from expertc.cli import run; sys.exit(run(sys.argv[1:]))"
    done = child(tmp_path, code, "build", given, "--labels", labels, "--classes", "two", "-o", "a.expert", *QUICK)
    assert (done.returncode, done.stderr) == (0, "")
    about = json.loads((tmp_path / "work" / "a.expert" / "manifest.json").read_text())
    assert about["verification"]["verdict"] == "off"
    assert "onnxruntime" not in about["versions"]
