"""Training a full model: recipes as data, timm's parts for augmentation, optimiser, schedule and averaging.

Importing this room needs the ``train`` extra (torch, timm, safetensors).
"""

from .loop import Progress, Trained, train
from .recipe import Recipe, Stage, load_recipe

__all__ = ["Progress", "Recipe", "Stage", "Trained", "load_recipe", "train"]
