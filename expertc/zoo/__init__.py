"""torch definitions of the networks that expertc's ideas come from, registered with timm.

Importing this room needs the ``train`` extra (torch, timm).
"""

from ._timm import import_timm
from .arguments import create
from .nhl import NHL

__all__ = ["NHL", "create", "import_timm"]
