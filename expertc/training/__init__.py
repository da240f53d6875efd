"""Training a full model: recipes as data, timm's parts for augmentation, optimiser, schedule and averaging.

Importing this room needs the ``train`` extra (torch, timm, safetensors).
"""

from .data import require_known
from .loop import Trained, train
from .processes import is_main
from .progress import Progress
from .recipe import Recipe, Stage, load_recipe
from .trained import save_trained

__all__ = ["Progress", "Recipe", "Stage", "Trained", "is_main", "load_recipe", "require_known", "save_trained", "train"]
