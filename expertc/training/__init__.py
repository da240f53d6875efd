"""Training a full model: recipes as data, timm's parts for augmentation, optimiser, schedule and averaging.

Importing this room needs the ``train`` extra (torch, timm, safetensors).
"""

from .loop import Trained, train
from .progress import Progress
from .recipe import Recipe, Stage, load_recipe
from .trained import save_trained

__all__ = ["Progress", "Recipe", "Stage", "Trained", "load_recipe", "save_trained", "train"]
