"""Forms an expert can be fused into: which layers of its branches become wide ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """A choice of layers.

    ``dense``: convolutions and matrix products that read one tensor. ``grouped``: those that read their own branch's,
    as grouped convolutions. ``batched``: of these the 1x1 ones as one batched matrix product instead. ``heads``: what
    follows a branch's pooling, also where the branches themselves stay apart.
    """

    name: str
    dense: bool = False
    grouped: bool = False
    batched: bool = False
    heads: bool = False


FORMS = (
    Form("dense", dense=True),
    Form("heads", heads=True),
    Form("grouped", dense=True, grouped=True, heads=True),
    Form("batched", dense=True, grouped=True, batched=True, heads=True),
)
"""What a contest tries, beside the expert as it was cut; the last but one is the whole fusion."""
