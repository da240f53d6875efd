"""Operators that work element by element, with NumPy's broadcasting."""

from __future__ import annotations

from ..demand import Demand, join
from ..site import Answer, Rule, Site, Wanted, opaque


def first_only(site: Site, wanted: Wanted) -> Answer:
    """Unary: the same box on the input; further inputs (Clip's bounds, Dropout's ratio) are scalars."""
    item = wanted[0]
    if item is None or any(other is not None for other in wanted[1:]):
        return opaque(site, wanted, f"the second output of {site.op} is used")
    asks: list[Demand | None] = [item]
    asks += [Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs))]
    return Answer(tuple(asks), (item,))


def _broadcast(site: Site, wanted: Wanted) -> Answer:
    """Align axes from the right; an axis of size 1 in an input stays whole unless the output's is 1 too."""
    item, out = wanted[0], site.out_shape()
    if item is None or out is None:
        return opaque(site, wanted, f"the shape of {site.op} is not known")
    asks: list[Demand | None] = []
    for index in range(len(site.node.inputs)):
        shape = site.shape(index)
        if shape is None:
            return opaque(site, wanted, f"the shape of an input of {site.op} is not known")
        offset = len(out) - len(shape)
        axes = {a: a - offset for a in item.marks if a >= offset and shape[a - offset] == len(item.marks[a])}
        # A size that is neither the output's nor 1 (a symbol) cannot be matched index by index.
        if any(a >= offset and a not in axes and shape[a - offset] != 1 for a in item.marks):
            return opaque(site, wanted, f"{site.op} broadcasts an axis of unknown size")
        asks.append(item.moved(axes))
    return Answer(tuple(asks), (item,))


def _dropout(site: Site, wanted: Wanted) -> Answer:
    """In inference the mask, its second output, is all true: as large as the first."""
    item = join(wanted)
    if item is None:
        return opaque(site, wanted)
    scalars = (Demand(item.who) if site.has(i) else None for i in range(1, len(site.node.inputs)))
    return Answer((item, *scalars), tuple(None if want is None else item for want in wanted))


UNARY = (
    "Abs Acos Acosh Asin Asinh Atan Atanh BitwiseNot Cast CastLike Ceil Celu Clip Cos Cosh Elu Erf Exp Floor "
    "Gelu HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Log Mish Neg Not Reciprocal Relu Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu"
).split()
BROADCAST = (
    "Add And BitShift BitwiseAnd BitwiseOr BitwiseXor Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min "
    "Mod Mul Or PRelu Pow Sub Sum Where Xor"
).split()

RULES: dict[str, Rule] = {
    **{op: Rule(first_only, plain=True) for op in UNARY},
    **{op: Rule(_broadcast, plain=True) for op in BROADCAST},
    "Dropout": Rule(_dropout),
}
