"""Whether an expert says what the full model says: a ladder of checks, and the certificate of how far it got.

``ladder.climb`` is the ladder, on sessions that somebody hands in; ``process.verify`` runs it in a child process within
limits, and ``process.verifier`` does so with a child that gets ready while the expert is still being made. What passed
is recorded there on a few inputs (``golden``); with that a device finds out whether it does the same (``agreement``).
"""

from .certificate import Certificate, Step
from .standby import Standby, standby

__all__ = ["Certificate", "Standby", "Step", "standby"]  # what is light; the rest is loaded where it is needed
