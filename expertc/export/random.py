"""A network of the zoo with random weights as a full model: for timing, and for trying things out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ..card import Card, Output, Preprocess
from ..errors import UsageError
from ..runtime.images import Source
from ..taxonomy import Taxonomy
from ..text import shown
from ..zoo import HLFP, import_timm
from ..zoo.arguments import build, require_arch
from .exporter import OPSETS
from .forms import export_form, form_of
from .trained import tensors

SEED = 0
FUSED = "fused"
SIDE = 224  # of a network that is at home in no other size
IMAGES = 2  # of noise to check the export on


def export_random(
    arch: str,
    classes: Taxonomy | int,
    output: Path,
    images: Sequence[Source] = (),
    *,
    form: str = "",
    size: int | None = None,
    gain: bool = True,
    batch: int | None = 1,
    strict_coarse: bool = False,
    opset: int = OPSETS[-1],
) -> Path:
    """Export timm's ``arch`` for ``classes`` (a tree, or a number) as the full model ``output`` and return that path.

    ``form`` is that of an HLFP ("fused" by default), a HierNet ("slow") or a network with exits ("nested"), ``gain``
    whether an HLFP gets its input, ``batch`` how many images a HierNet's fast form takes, ``strict_coarse`` as in
    ``export_form``; ``size`` is the side of the image in pixels. The weights are random, the same every time.
    Raises ``UsageError`` if there is no such architecture or it does not fit the classes, and what ``export_file``
    raises.
    """
    network = _network(arch, classes, form)
    preprocess = _preprocess(network, size)
    own = FUSED if isinstance(network, HLFP) and not form else form_of(network, form)
    taxonomy = getattr(network, "taxonomy", None)
    if not isinstance(taxonomy, Taxonomy):
        taxonomy = classes if isinstance(classes, Taxonomy) else Taxonomy.flat([f"class-{i}" for i in range(classes)])
    card = Card(
        arch,
        taxonomy,
        (Output("logits"),),
        "image",
        preprocess,
        "Random weights.",
        {"arch": arch, **({"form": own} if own else {}), "weights": "random", "seed": SEED},
        controls=network.controls if isinstance(network, HLFP) and gain else (),
    )
    probes = tensors(images, preprocess, IMAGES)
    form = "" if isinstance(network, HLFP) else form  # which it was built in
    return export_form(
        network, card, preprocess.size, probes, output, form=form, batch=batch, strict_coarse=strict_coarse, opset=opset
    )


def _network(arch: str, classes: Taxonomy | int, form: str) -> torch.nn.Module:
    require_arch(arch)
    arguments = {"form": form} if form and arch.startswith("hlfp_") else {}
    torch.manual_seed(SEED)
    try:
        if isinstance(classes, Taxonomy):
            network = build(arch, classes, arguments)
        else:
            network = import_timm().create_model(arch, num_classes=classes, **arguments)
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{shown(arch)} cannot be built: {shown(str(error))}.", "See expertc export --help."
        ) from error
    return network.eval()


def _preprocess(network: torch.nn.Module, size: int | None) -> Preprocess:
    """For images of ``size``, or of the size that the network was made for; small ones are CIFAR's."""
    facts = getattr(network, "pretrained_cfg", None) or {}
    side = size or min(facts.get("input_size", (3, SIDE, SIDE))[-1], SIDE)
    return Preprocess.imagenet(side)
