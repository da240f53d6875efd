"""Whether a full model computes what the torch network did that it was exported from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..backends.cpu import open_session
from ..controls import Control
from ..errors import VerificationError
from ..text import shown

Array = np.ndarray[Any, Any]

TOLERANCE = 1e-4  # of the largest |logit|


@dataclass(frozen=True)
class Answer:
    """What torch made of a batch of images ``[N, 3, H, W]`` and a setting of the controls: its outputs, in order."""

    images: Array
    controls: Mapping[str, Array]
    outputs: tuple[Array, ...]


Setting = Mapping[str, Array]
"""What the controls hold, float32, by name in the card's order."""


def answers(
    module: nn.Module, images: Tensor, controls: Sequence[Control], settings: Sequence[Setting] = ()
) -> list[Answer]:
    """Run ``images`` ``[N, 3, H, W]`` through torch, one by one, which takes the least memory.

    Controls hold what each of ``settings`` says; without any their defaults, and in a further round random values
    around them.
    """
    found = []
    for setting in settings or _settings(controls):
        vectors = [torch.tensor(values, device=images.device) for values in setting.values()]
        for image in images.split(1):
            with torch.inference_mode():
                result = module.eval()(image, *vectors)
            made = result if isinstance(result, (tuple, list)) else (result,)
            found.append(Answer(image.cpu().numpy(), setting, tuple(tensor.cpu().numpy() for tensor in made)))
    return found


def compare(model: bytes | Path, expected: Sequence[Answer]) -> float:
    """The largest difference of an output from what was expected, over its largest |value|, in ONNX Runtime.

    One image at a time shows a frozen batch too: torch's exporter has seen two.
    Raises ``VerificationError`` if it is above ``TOLERANCE`` or a value is not finite.
    """
    differences = []
    for answer in expected:
        # Weights that are mapped stay in memory once they were read: in a session of its own each run starts without.
        session = open_session(model, optimise=False)
        got = session.run(answer.images, answer.controls)
        for name, value in zip(session.outputs, answer.outputs, strict=True):
            difference = float(np.abs(got[name] - value).max() / max(np.abs(value).max(), np.finfo(value.dtype).tiny))
            if not difference <= TOLERANCE:  # nor if it is NaN
                raise VerificationError(
                    f"The exported output {shown(name)} differs from torch by {difference:.1e} of its largest value.",
                    "Try another torch version, and report the network.",
                )
            differences.append(difference)
        session.close()
    return max(differences)


def check(model: bytes | Path, module: nn.Module, images: Tensor) -> float:
    """``compare`` the model with ``module`` on ``images`` ``[N, 3, H, W]``."""
    session = open_session(model, optimise=False)
    controls = session.controls
    session.close()
    return compare(model, answers(module, images, controls))


def _settings(controls: Sequence[Control]) -> list[Setting]:
    """The controls' defaults, and if there are any, other ones."""
    defaults = {control.name: np.array(control.default, np.float32) for control in controls}
    random = np.random.default_rng(0)
    others = {n: v + random.uniform(-0.5, 0.5, v.shape).astype(np.float32) for n, v in defaults.items()}
    return [defaults, others] if controls else [defaults]
