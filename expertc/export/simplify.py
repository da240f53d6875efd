"""Removing what torch's exporter leaves undone, without the one thing its own optimiser does too much.

``torch.onnx.export(optimize=True)`` folds the batch norms into the convolutions; a full model keeps them (folding is a
pass on the expert, and parameters are counted with them). ``optimize=False`` leaves a chain of four nodes per layer
that computes a bias of zeros. So the exporter runs without, and this runs the parts of onnxscript's optimiser that
change no weight.
"""

from __future__ import annotations

import onnx_ir
from onnx_ir.passes import common
from onnxscript import optimizer
from onnxscript.rewriter import RewritePass, RewriteRuleSet
from onnxscript.rewriter.rules.common import (
    cast_cast_rule,
    materialize_reshape_shape_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
)

_RULES = (
    cast_cast_rule,
    materialize_reshape_shape_rule,
    no_op_cast_rule,
    no_op_expand_rule,
    no_op_transpose_rule,
    reshape_reshape_rule,
    transpose_transpose_rule,
)


def simplify(model: onnx_ir.Model) -> None:
    """Fold constants, drop no-ops and dead nodes, and turn constant nodes into initializers, in place."""
    common.InlinePass()(model)
    for _ in range(2):  # a folded shape may make a reshape a no-op, whose input then folds
        optimizer.fold_constants(model)
        RewritePass(RewriteRuleSet(_RULES))(model)
    common.IdentityEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.NameFixPass()(model)
