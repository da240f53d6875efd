"""Einsum: letters of the output carry their set to whichever operand has them; summed letters stay whole."""

from __future__ import annotations

import numpy as np
import pytest
from judged import check_judged
from laws import Expert, check
from networks import Net, card, cut, feeds, run
from onnx import TensorProto, helper

from expertc.errors import ModelError
from expertc.surgery.rules.einsum import letters


def vectors(net: Net, channels: int, *, name: str = "trunk") -> str:
    """``[N, channels]`` from the image."""
    hidden = net.node("Tanh", net.conv("image", 3, channels, name=name))
    return str(net.node("Flatten", net.node("GlobalAveragePool", hidden)))


def head(equation: str, *shape: int, opset: int = 20) -> Net:
    """Scores ``equation`` of an image's 4 channels and a weight; 6 classes."""
    net = Net(opset)
    net.image()
    product = net.node("Einsum", vectors(net, 4), net.weight(*shape), equation=equation)
    net.result(product, 6, name="scores")
    return net


@pytest.mark.parametrize(
    "equation", ["nk,kc->nc", " n k , k c -> n c ", "Zk,kb->Zb", "...k,kc->...c", "ak,kc", "bk,ka->ba"]
)
def test_a_head(equation: str) -> None:
    """Spaces, letters of both cases, an ellipsis for the batch, an output that is implied."""
    expert = check(head(equation, 4, 6), card(6), [1, 2, 5], exact=False)
    assert (expert.shapes["w"], expert.shapes["trunk.w"]) == ((4, 3), (4, 3, 1, 1))
    assert expert.stopped == []


def test_the_implied_output_is_in_alphabetical_order() -> None:
    """nk,kc gives cn: the classes are first, the images second. Capital letters are before small ones."""
    net = Net(batch=1)
    net.image()
    product = net.node("Einsum", vectors(net, 4), net.weight(4, 6), equation="nk,kc")
    net.result(net.node("Transpose", product, perm=[1, 0]), 6, name="scores")
    assert check(net, card(6), [0, 4], exact=False).shapes["w"] == (4, 2)
    expert = check_judged(head("Nk,kc", 4, 6), card(6), [0, 4])  # ONNX Runtime refuses it
    assert (expert.shapes["w"], expert.stopped) == ((4, 2), [])


@pytest.mark.parametrize(("equation", "shape", "cut"), [("ck,nk->nc", (6, 4), (2, 4)), ("kc,nk->nc", (4, 6), (4, 2))])
def test_the_weight_may_come_first(equation: str, shape: tuple[int, int], cut: tuple[int, int]) -> None:
    net = Net()
    net.image()
    net.result(net.node("Einsum", net.weight(*shape), vectors(net, 4), equation=equation), 6, name="scores")
    assert check(net, card(6), [0, 3], exact=False).shapes["w"] == cut


def branched(equation: str, *shape: int) -> Net:
    """Three branches of 4 channels, 2 classes each: ``equation`` makes ``[N, 3, 2]`` of ``[N, 3, 4]`` and a weight."""
    net = Net()
    net.image()
    split = net.node("Reshape", vectors(net, 12), net.constant([-1, 3, 4]))
    product = net.node("Einsum", split, net.weight(*shape), equation=equation)
    net.result(net.node("Reshape", product, net.constant([-1, 6])), 6, name="scores")
    return net


def shapes(expert: Expert) -> tuple[tuple[int, ...], tuple[int, ...]]:
    assert expert.stopped == []
    return expert.shapes["w"], expert.shapes["trunk.w"]


def test_a_head_per_branch() -> None:
    net = branched("nbk,bkc->nbc", 3, 4, 2)
    assert shapes(check(net, card(6), [2, 3], exact=False)) == ((1, 4, 2), (4, 3, 1, 1))
    assert shapes(check(net, card(6), [1, 5], exact=False)) == ((2, 4, 1), (8, 3, 1, 1))
    assert shapes(check(net, card(6), [0, 1, 4], exact=False, alive=False)) == ((2, 4, 2), (8, 3, 1, 1))


def test_a_head_per_branch_with_axes_in_another_order() -> None:
    assert shapes(check(branched("nbk,kcb->nbc", 4, 2, 3), card(6), [2, 3], exact=False)) == ((4, 2, 1), (4, 3, 1, 1))


def test_branches_behind_an_ellipsis() -> None:
    assert shapes(check(branched("...k,kc->...c", 4, 2), card(6), [2, 3], exact=False)) == ((4, 2), (4, 3, 1, 1))
    assert shapes(check(branched("...k,...kc->...c", 1, 3, 4, 2), card(6), [2, 3], exact=False)) == (
        (1, 1, 4, 2), (4, 3, 1, 1),
    )  # fmt: skip


def test_an_axis_of_one_is_broadcast() -> None:
    """One weight for all branches; the axis of size 1 is not cut with theirs."""
    net = Net()
    net.image()
    split = net.node("Reshape", vectors(net, 4), net.constant([-1, 1, 4]))
    product = net.node("Einsum", split, net.weight(1, 3, 4, 2, name="v"), equation="n...k,m...kc->n...c")
    net.result(net.node("Reshape", product, net.constant([-1, 6])), 6, name="scores")
    expert = check(net, card(6), [2, 3], exact=False)
    assert (expert.shapes["v"], expert.shapes["trunk.w"]) == ((1, 1, 4, 2), (4, 3, 1, 1))


def test_an_axis_that_is_a_symbol_is_left_whole() -> None:
    """It may turn out to be 1 or 6, and only one of them could be cut."""
    net = Net(batch="n")
    net.inputs.append(helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", "m", 4]))
    net.result(net.node("Einsum", "image", net.weight(6, 4), equation="nmk,mk->nm", out="scores"), 6)
    expert, done = cut(net.model(check=False), card(6), [1, 2])
    assert dict(done.stopped) == {"Einsum broadcasts an axis of unknown size": 1}
    for count in (1, 6):
        inputs = feeds(net.bytes(), batch=count)
        np.testing.assert_array_equal(run(expert, inputs)["scores"], run(net.bytes(), inputs)["scores"][:, 1:3])


def test_three_operands() -> None:
    """A gain for every branch and class between the features and the weight."""
    net = Net()
    net.image()
    split = net.node("Reshape", vectors(net, 12), net.constant([-1, 3, 4]))
    operands = [net.weight(2, 3, name="gain"), split, net.weight(3, 4, 2)]
    product = net.node("Einsum", *operands, equation="cb,nbk,bkc->nbc")
    net.result(net.node("Reshape", product, net.constant([-1, 6])), 6, name="scores")
    expert = check(net, card(6), [4, 5], exact=False)
    assert (expert.shapes["gain"], shapes(expert)) == ((2, 1), ((1, 4, 2), (4, 3, 1, 1)))


def test_a_sum_of_one_operand() -> None:
    """[N, 6, H, W] summed over space, rows and columns turned."""
    net = Net()
    hidden = net.conv(net.image(), 3, 6, name="trunk")
    net.result(net.node("Einsum", hidden, equation="nchw->nc"), 6, name="scores")
    assert check(net, card(6), [1, 4], exact=False).shapes["trunk.w"] == (2, 3, 1, 1)


def test_a_repeated_letter_takes_the_diagonal() -> None:
    """Of [6, 6] only the rows and columns of the classes are needed to take their diagonal."""
    net = Net()
    net.image()
    product = net.node("Einsum", vectors(net, 4), net.weight(4, 6, 6), equation="nk,kcc->nc")
    net.result(product, 6, name="scores")
    assert check_judged(net, card(6), [0, 2, 3], rounding=1e-5).shapes["w"] == (4, 3, 3)


def test_attention_between_branches_needs_all_of_them() -> None:
    """The branch axis is summed: nothing but the rows of the last layer may go."""
    net = Net()
    net.image()
    split = net.node("Reshape", vectors(net, 12), net.constant([-1, 3, 4]))
    product = net.node("Einsum", split, net.weight(3, 4, 6), equation="nbk,bkc->nc")
    net.result(product, 6, name="scores")
    assert shapes(check(net, card(6), [2, 3], exact=False)) == ((3, 4, 2), (12, 3, 1, 1))


def test_the_names_of_axes() -> None:
    assert letters("ij,jk->ik", [2, 2]) == ([["i", "j"], ["j", "k"]], ["i", "k"])
    assert letters("b...j, ...jk", [4, 3]) == (
        [["b", "...1", "...0", "j"], ["...0", "j", "k"]], ["...1", "...0", "b", "k"],
    )  # fmt: skip
    assert letters("...->...", [2]) == ([["...1", "...0"]], ["...1", "...0"])
    assert letters("ii", [2]) == ([["i", "i"]], [])
    for equation, ranks in (("ij->ik", [2]), ("ij", [3]), ("ij,jk->ik", [2]), ("ij->ii", [2]), ("...j->j...", [0])):
        with pytest.raises(ValueError, match=r"equation|term|argument"):
            letters(equation, ranks)


def test_an_equation_that_does_not_fit_is_a_malformed_model() -> None:
    net = head("nk,kc->nc", 4, 6)
    net.nodes[-2].attribute[0].s = b"nk,kc->nz"
    with pytest.raises(ModelError):
        check(net.model(check=False).SerializeToString(), card(6), [0])
