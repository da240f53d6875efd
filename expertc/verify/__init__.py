"""Whether an expert says what the full model says: a ladder of checks, and the certificate of how far it got.

``climb`` is the ladder, on sessions that somebody hands in; ``verify`` runs it in a child process within limits.
"""

from .certificate import Certificate, Step
from .climb import climb
from .limits import Limits
from .process import verify

__all__ = ["Certificate", "Limits", "Step", "climb", "verify"]
