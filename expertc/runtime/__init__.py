"""What runs on the device, without torch: decode an image, preprocess it, ask the expert, rank its classes.

``Expert.open(bundle).predict(images)`` is the whole of it; everything it needs to know is in the bundle.
"""

from .dataset import IMAGE_SUFFIXES, LabelledImages, expand_images, open_dataset
from .exits import Answered, Chosen
from .expert import Expert, Prediction
from .images import Source, load_image
from .reject import Reject

__all__ = [
    "IMAGE_SUFFIXES",
    "Answered",
    "Chosen",
    "Expert",
    "LabelledImages",
    "Prediction",
    "Reject",
    "Source",
    "expand_images",
    "load_image",
    "open_dataset",
]
