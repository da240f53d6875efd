"""What the machine did while something was measured: clocks, temperatures, throttling, power, other processes."""

from .evidence import UNWATCHED, Energy, Evidence, Series, Throttle
from .locks import locked_clocks
from .verdict import MAX_VARIATION, VERDICTS, Verdict, judge, unsteady
from .watcher import Watcher

__all__ = [
    "MAX_VARIATION",
    "UNWATCHED",
    "VERDICTS",
    "Energy",
    "Evidence",
    "Series",
    "Throttle",
    "Verdict",
    "Watcher",
    "judge",
    "locked_clocks",
    "unsteady",
]
