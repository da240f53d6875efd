"""The command line: one file per command. A command parses, calls one function of a room below, and prints.

Commands are imported when they run, so that ``expertc --help`` needs nothing but click. Errors are printed here, in one
place, and become the exit codes of ``expertc.errors``.
"""

from .main import main, run

__all__ = ["main", "run"]
