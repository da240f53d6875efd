"""Help, commands and options: what somebody sees who has never read a page about it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import expertc
from expertc.cli.main import COMMANDS, group

HEAVY = ("torch", "onnxruntime", "onnx", "numpy", "PIL", "rich", "yaml")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_fits(cli, name):
    code, out, err = cli(name, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    lines = out.splitlines()
    examples = lines[lines.index("  Example:") + 1 :]
    assert examples
    assert all(line.strip().startswith(f"expertc {name}") for line in examples)
    assert tuple(cli(name, "-h")) == (0, out, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_parse(name, monkeypatch):
    """Their options and numbers of arguments are the command's."""
    command = group.get_command(click.Context(group), name)
    assert command is not None
    for example in command.epilog.splitlines()[2:]:
        words = shlex.split(example)
        assert words[:2] == ["expertc", name]
        with command.make_context(name, words[2:], parent=click.Context(group, **group.context_settings)):
            pass


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_kebab_case_and_explained(name):
    command = group.get_command(click.Context(group), name)
    assert command is not None
    options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
    spellings = [spelling for option in options for spelling in option.opts]
    assert all(re.fullmatch("--[a-z]+(-[a-z][a-z0-9]*)*|-[a-z]", spelling) for spelling in spellings)
    assert all(option.help for option in options)
    assert "--debug" in spellings


def test_the_list_of_commands_is_what_the_commands_say(cli):
    code, out, _ = cli("--help")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for name, (module, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line)}$", out, re.MULTILINE)
        assert (Path(expertc.__file__).parent / "cli" / f"{module}.py").is_file()


def test_version(cli):
    assert cli("--version").out == f"expertc, version {expertc.__version__}\n"


def test_a_mistyped_command_is_guessed(cli):
    code, out, err = cli("bild", "--classes", "sharks")
    assert (code, out) == (2, "")
    assert "Did you mean 'build'?" in err


def test_no_command_shows_the_help(cli):
    code, out, err = cli()
    assert code == 2
    assert "Commands:" in out + err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, expertc, expertc.errors\nfrom expertc.cli import run\nassert run(['--help']) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_a_build_imports_only_what_it_uses(tmp_path):
    """Running models, decoding images, forms, precisions and measuring are for builds that ask for them."""
    given = ["build", "--classes", "sharks,rays", "-o", str(tmp_path / "o"), "-q", "--verify=off", "--measure=0"]
    unused = (
        "PIL", "onnxruntime", "torch",
        "expertc.precise", "expertc.measure", "expertc.runtime", "expertc.surgery.quantise",
    )  # fmt: skip
    code = (
        f"import sys\nfrom expertc.cli import run\nassert run({given!r}) == 0\n"
        f"print([name for name in {unused!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")


def test_the_face_of_the_package():
    assert set(expertc.__all__) == {"Expert", "Taxonomy", "__version__", "build"}
    assert dir(expertc) == sorted(expertc.__all__)
    from expertc.compiler import build
    from expertc.runtime import Expert
    from expertc.taxonomy import Taxonomy

    assert (expertc.build, expertc.Expert, expertc.Taxonomy) == (build, Expert, Taxonomy)
    with pytest.raises(AttributeError, match="no attribute 'Compiler'"):
        _ = expertc.Compiler  # type: ignore[attr-defined]
