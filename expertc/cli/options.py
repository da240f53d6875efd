"""Options that several commands share, and what is made of them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..deploy.transport import Ssh
    from ..runtime.exits import Chosen
    from ..selection import Selection
    from ..source import Foreign, Source
    from ..stages import Stages

F = TypeVar("F", bound=Callable[..., Any])

LONGEST = 86400.0  # seconds of measuring


def example(*lines: str) -> str:
    """An epilog with command lines that are not wrapped."""
    return "\n  ".join(("\b\nExample:", *lines))


def number(example: str, kind: type[float] | type[int] = float) -> Callable[[Any], float]:
    """What reads an option's value, a number of that ``kind``; ``example`` is the option with one.

    What is none is refused as everything else is, and not by click: one line says what is wrong, one what to do.
    """

    def read(text: Any) -> float:
        from ..errors import UsageError
        from ..text import shown

        try:
            return kind(text)
        except ValueError as error:
            what = "number" if kind is float else "whole number"
            raise UsageError(
                f"{example.partition(' ')[0]} {shown(text)} is not a {what}.", f"Write for example {example}."
            ) from error

    return read


def everywhere(command: F) -> F:
    """``--debug``, on every command, and ``-h``; ``main`` looks for the first itself, so that it also covers parsing.

    The names of the help option could be the group's to say, but click keeps those a command was first asked with.
    """
    helped = click.help_option("-h", "--help")(command)
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(helped)


def as_json(command: F) -> F:
    """``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(command)


def quietly(command: F) -> F:
    """``--quiet``."""
    return click.option("-q", "--quiet", is_flag=True, help="Print results only, no progress.")(command)


def threads(command: F) -> F:
    """``--threads``."""
    kind = click.IntRange(1, 1024)
    return click.option("--threads", type=kind, metavar="N", help="CPU threads (default: all cores).")(command)


def foreign(command: F) -> F:
    """The options that describe a model without a card."""
    options = (
        click.option("--labels", metavar="FILE", help="Class names of a model without a card, one per line."),
        click.option("--taxonomy", metavar="FILE", help="Class tree (YAML) of a model without a card."),
        click.option("--preprocess", metavar="imagenet|FILE", help="How images become input, for such a model."),
        click.option(
            "--scores", "outputs", multiple=True, metavar="NAME:AXIS", help="Which output holds the class scores."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def gain(command: F) -> F:
    """``--gain``, repeatable."""
    say = "Turn a class or category up or down, in models with a gain per class."
    return click.option("--gain", "gains", multiple=True, metavar="CLASS=FACTOR", help=say)(command)


def ssh(command: F) -> F:
    """How devices are connected to."""
    for name, what in (
        ("--identity", "Private key to log in with."),
        ("--known-hosts", "Instead of ~/.ssh/known_hosts."),
        ("--ssh-config", "Instead of ~/.ssh/config."),
    ):
        command = click.option(name, metavar="FILE", help=what)(command)
    return command


def make_ssh(config: str | None, known_hosts: str | None, identity: str | None) -> Ssh:
    """What ``ssh`` says. Raises ``UsageError`` for what is no file."""
    from pathlib import Path

    from ..deploy.transport import Ssh
    from ..errors import UsageError
    from ..text import shown

    for path in (config, known_hosts, identity):
        if path is not None and not Path(path).is_file():
            raise UsageError(f"{shown(path)} is not a file.", "Check the path.")
    config_file, known, key = (None if path is None else Path(path) for path in (config, known_hosts, identity))
    return Ssh(config_file, known, key)


def make_controls(gains: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """What ``gain``'s options say of the controls. Raises ``UsageError`` for one that is not CLASS=FACTOR."""
    from ..controls import GAIN
    from ..errors import UsageError
    from ..text import shown

    found: dict[str, float] = {}
    for item in gains:
        name, _, number = item.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not name or not math.isfinite(value):
            raise UsageError(f"{shown(item)} is not CLASS=FACTOR.", "Write for example --gain sharks=1.8.")
        if name in found:
            raise UsageError(f"{shown(name)} is given two gains.", "Give one.")
        found[name] = value
    return {GAIN: found} if found else {}


def exits(command: F) -> F:
    """``--threshold``, ``--tolerance`` and ``--exit``."""
    added = (
        click.option(
            "--threshold", metavar="T[,T...]", help="Of early exits: the entropy in nats below which each answers."
        ),
        click.option(
            "--tolerance",
            type=number("--tolerance 0.5"),
            metavar="TAU",
            help="By how many nats fine answers are favoured.",
        ),
        click.option(
            "--exit", "forced", type=number("--exit 1", int), metavar="N", help="Let this exit answer, the first is 1."
        ),
    )
    for option in reversed(added):
        command = option(command)
    return command


def make_exits(threshold: str | None, tolerance: float | None, forced: int | None) -> Chosen:
    """What ``exits``' options say. Raises ``UsageError`` for what is no number, or no exit."""
    from ..errors import UsageError
    from ..runtime.exits import Chosen
    from ..text import shown

    values = []
    for item in () if threshold is None else threshold.split(","):
        try:
            values.append(float(item))
        except ValueError as error:
            raise UsageError(f"The threshold {shown(item)} is not a number.", "Write --threshold 0.5,0.3.") from error
    return Chosen(tuple(values) if values else None, tolerance, forced)


def make_foreign(
    labels: str | None, taxonomy: str | None, preprocess: str | None, outputs: tuple[str, ...] = ()
) -> Foreign:
    """Gather ``foreign``'s options. Raises ``UsageError`` for an output that is not NAME:AXIS."""
    from ..errors import UsageError
    from ..source import Foreign
    from ..text import shown

    chosen = {}
    for item in outputs:
        name, _, axis = item.rpartition(":")
        if not name or axis not in set("01234567"):
            raise UsageError(f"{shown(item)} is not NAME:AXIS.", "Write for example --scores logits:1.")
        chosen[name] = int(axis)
    return Foreign(labels, taxonomy, preprocess, chosen or None)


def check_seconds(seconds: float, option: str, least: float = 0.0) -> float:
    """A length of time as given to ``option``. Raises ``UsageError`` if it is below ``least``, endless or NaN."""
    from ..errors import UsageError

    if not least <= seconds <= LONGEST:
        raise UsageError(f"{option} {seconds:g} is not a number of seconds from {least:g} to {LONGEST:g}.",
                         f"Write for example {option} 10.")  # fmt: skip
    return seconds


def photos(source: Source, data: str | None, *, baked: bool = False) -> Any:
    """Preprocessed photos ``[N, 3, H, W]`` to verify on, spread over the data set or folder; None without ``data``.

    For an expert with its preprocessing ``baked`` in they are bytes, ``[N, H, W, 3]``.
    Raises ``CardError`` if the model does not say how images become its input, ``DataError`` if none can be read.
    """
    if data is None:
        return None
    from ..errors import CardError
    from ..evaluate import sample

    if source.card.preprocess is None:
        raise CardError(
            "The model does not say how images become its input.", "Give --preprocess, or leave out --data."
        )
    return sample(data, source.card.preprocess.as_bytes() if baked else source.card.preprocess)


def calibration(data: str, source: Source, selection: Selection, *, baked: bool, progress: Stages) -> Any:
    """Photos of the selected classes to calibrate a precision on, and others to judge it on; see ``evaluate``.

    For an expert with its preprocessing ``baked`` in they are bytes.
    Raises ``CardError`` if the model does not say how images become its input, ``DataError`` if none can be read.
    """
    from ..errors import CardError
    from ..evaluate.calibration import calibration as read

    spec = source.card.preprocess
    if spec is None:
        raise CardError("The model does not say how images become its input.", "Give --preprocess.")
    return read(
        data, spec.as_bytes() if baked else spec, selection.classes, taxonomy=source.card.taxonomy,
        progress=lambda done, total: progress("read photos", done, total),
    )  # fmt: skip


@contextmanager
def stages(quiet: bool) -> Iterator[Stages]:
    """A spinner on stderr that names what is done, and a bar where that is counted; nothing without a terminal."""
    from ..stages import silent

    if quiet or not sys.stderr.isatty():
        yield silent
        return
    from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn
    from rich.text import Text

    from . import show

    class Counted(BarColumn):
        def render(self, task: Task) -> Any:
            return super().render(task) if task.fields["counted"] else Text("")

    columns = (SpinnerColumn(), TextColumn("{task.description}"), Counted(), TextColumn("{task.fields[counted]}"))
    together = sys.stdout.isatty()  # see ``bar``
    with Progress(*columns, console=show.console(stderr=True), transient=True, redirect_stdout=together) as shown:
        task = shown.add_task("starting …", counted="")

        def told(stage: str, done: int = 0, total: int = 0) -> None:
            counted = f"{done}/{total}" if total else ""
            name = stage if total else f"{stage} …"
            shown.reset(task, description=name, completed=done, total=total or 1, counted=counted)

        yield told


@contextmanager
def compiling(quiet: bool) -> Iterator[Callable[[Any], None]]:
    """``stages`` for TensorRT's builder: told its ``Progress``, it shows phase, time and estimate."""
    with stages(quiet) as say:

        def told(progress: Any) -> None:
            expected = "" if progress.expected is None else f" of about {progress.expected:.0f} s"
            say(f"compile: {progress.phase}, {progress.elapsed:.0f} s{expected}")

        yield told


@contextmanager
def live_line(quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on stderr that is written over, cleaned and cut to the width; nothing without a terminal.

    No thread refreshes it, as it would a spinner: it is there while times are measured.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.live import Live
    from rich.text import Text

    from ..text import clean_text
    from . import show

    console, together = show.console(stderr=True), sys.stdout.isatty()
    with Live(console=console, auto_refresh=False, transient=True, redirect_stdout=together) as shown:
        yield lambda text: shown.update(Text(clean_text(text), no_wrap=True, overflow="ellipsis"), refresh=True)


@contextmanager
def bar(what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, told how many of how many are done; nothing without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import Progress

    from . import show

    # Results go to stdout while the bar is shown: rich may only redirect them where both are the same terminal.
    together = sys.stdout.isatty()
    with Progress(console=show.console(stderr=True), transient=True, redirect_stdout=together) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
