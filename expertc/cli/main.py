"""The ``expertc`` group, its lazy commands, and the one place where errors are printed."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType

import click

from .. import __version__
from ..errors import ExitCode, ExpertcError, FileSystemError, UsageError
from .lazy import Lazy
from .options import example

# name -> (module, one line for --help); kept here so that listing the commands imports none of them
COMMANDS = {
    "build": ("build", "Cut, verify and compile an expert for some classes."),
    "classes": ("classes", "Show the taxonomy as a tree, with what each branch costs."),
    "inspect": ("inspect", "Show what is in a model or a bundle."),
    "diff": ("diff", "Show how two bundles differ."),
    "compile": ("compile", "Compile a bundle with TensorRT, on its device."),
    "verify": ("verify", "Check a bundle, on this machine or against its full model."),
    "predict": ("predict", "Classify images with a bundle."),
    "evaluate": ("evaluate", "Measure accuracy on labelled photos."),
    "calibrate": ("calibrate", "Let an expert say 'none of these'."),
    "bench": ("bench", "Measure latency, several models in one interleaved run."),
    "deploy": ("deploy", "Bring bundles onto devices, over SSH."),
    "package": ("package", "Write a bundle for Triton or DeepStream."),
    "releases": ("releases", "Switch between the releases that were deployed here."),
    "serve": ("serve", "Serve an expert over HTTP."),
    "taxonomy": ("taxonomy", "Make a class tree, or look at one."),
    "targets": ("targets", "List device profiles."),
    "doctor": ("doctor", "Check this machine."),
    "train": ("train", "Train a full model from a recipe."),
    "export": ("export", "Export a trained network to a full model."),
}

EXTRAS = {
    **dict.fromkeys(("torch", "torchvision", "timm", "safetensors", "onnxscript"), "train"),
    **dict.fromkeys(("uvicorn", "starlette", "anyio", "prometheus_client", "orjson"), "serve"),
    **dict.fromkeys(("asyncssh", "hatchling"), "deploy"),
    "matplotlib": "report",
}
"""Modules that may be missing, and the extra that brings them."""


@click.group(
    cls=Lazy,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example("expertc build --classes sharks,rays", "expertc build --help"),
)
@click.version_option(__version__, prog_name="expertc")
def group() -> None:
    """Cut a trained image classifier down to the classes a device needs.

    Without a model, commands use the bundled one: 23 sea animals.
    """


def main() -> None:
    """Entry point of the ``expertc`` script."""
    gc.set_threshold(300_000, 20, 100)  # a graph is many small objects that all stay: looking for garbage costs a tenth
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # a label that the terminal's encoding lacks must not end the command
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    code = run(sys.argv[1:])
    gc.freeze()  # else the interpreter, on its way out, looks for garbage once more in all that is left
    sys.exit(code)


def run(args: Sequence[str]) -> int:
    """Run a command line and return its exit code; everything has been printed."""
    code, tell = _attempt(args)
    try:
        tell()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:
        # The reader has gone or its disk is full, which has been reported. Python would complain again at exit.
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return code


def _attempt(args: Sequence[str]) -> tuple[int, Callable[[], None]]:
    """Run a command line; returns its exit code and what says why it failed."""
    try:
        with _terminate_like_interrupt(), group.make_context("expertc", list(args)) as context:
            outcome = group.invoke(context)
        if sys.stdout is not None:
            sys.stdout.flush()
        return outcome if isinstance(outcome, int) else ExitCode.OK, _nothing
    except click.exceptions.Exit as stop:
        return stop.exit_code, _nothing
    except click.ClickException as error:
        return error.exit_code, error.show
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED, partial(click.echo, "\nInterrupted; nothing half-written was left.", err=True)
    except BrokenPipeError:  # a reader that has seen enough is no error
        return ExitCode.OK, _nothing
    except Exception as error:
        if "--debug" in args:
            raise
        known = _known(error)
        return known.exit_code, partial(_say, known)


def _nothing() -> None:
    """Say nothing."""


def _known(error: Exception) -> ExpertcError:
    if isinstance(error, ExpertcError):
        return error
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FileSystemError("The disk is full.", "Make room and try again.")
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        return FileSystemError(
            f"'{error.filename}' cannot be used ({error.strerror}).", "Check it and its permissions."
        )
    if isinstance(error, MemoryError):
        return ExpertcError("There is not enough memory.", "Close other programs or use a smaller batch.")
    missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    if missing in EXTRAS:
        return UsageError(
            f"This command needs {missing}.", f"Install it with: pip install 'expertc[{EXTRAS[missing]}]'."
        )
    return ExpertcError(
        f"Something unexpected happened ({type(error).__name__}: {error}).",
        "This is a bug in expertc: run the command again with --debug and report what it prints.",
    )


def _say(error: ExpertcError) -> None:
    from ..text import clean_text

    plain = False if os.environ.get("NO_COLOR") else None  # None: click looks whether there is a terminal
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {clean_text(error.message)}", err=True, color=plain)
    if error.hint:
        click.echo(clean_text(error.hint), err=True)


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that both clean up; signals reach the main thread only."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
