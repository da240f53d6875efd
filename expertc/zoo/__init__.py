"""torch definitions of the networks that expertc's ideas come from, registered with timm.

Importing this room needs the ``train`` extra (torch, timm).
"""

from . import registry  # noqa: F401 (which makes the names known to timm)
from ._timm import import_timm
from .arguments import build, create, rehearse
from .cifar import CifarResNet
from .exits import ExitNet
from .hiernet import HierNet
from .hlfp import HLFP
from .nhl import NHL

__all__ = ["HLFP", "NHL", "CifarResNet", "ExitNet", "HierNet", "build", "create", "import_timm", "rehearse"]
