"""Whether an expert says what the full model says: a ladder of checks, and the certificate of how far it got.

``climb`` is the ladder, on sessions that somebody hands in; ``verify`` runs it in a child process within limits, and
``verifier`` does so with a child that gets ready while the expert is still being made.
"""

from .certificate import Certificate, Step
from .ladder import climb
from .limits import Limits
from .process import verifier, verify

__all__ = ["Certificate", "Limits", "Step", "climb", "verifier", "verify"]
