from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertc.taxonomy import Node, Taxonomy
from expertc.zoo import HLFP, import_timm
from expertc.zoo.blocks import Bottleneck
from expertc.zoo.forms import fuse_state, split_state

timm = import_timm()

NAMES = ("hlfp_small", "hlfp_big", "hlfp_late_sp", "hlfp_1b_late_sp", "hlfp_nested")


def uneven() -> Taxonomy:
    """Super-classes of three, one and two classes, whose indices are mixed."""
    groups = [("a", (4, 0, 2)), ("b", (5,)), ("c", (1, 3))]
    return Taxonomy(
        "uneven", tuple(Node(name, tuple(Node(f"class-{i}", index=i) for i in rows)) for name, rows in groups)
    )


def lively(network: HLFP) -> HLFP:
    """Norms that do something: as built, a residual branch is multiplied by zero."""
    for name, tensor in network.state_dict().items():
        if tensor.dim() == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name or "weight" in name else tensor.uniform_(0.0, 0.4)
    return network.eval()


def tiny(name: str, form: str, taxonomy: Taxonomy | None = None, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return lively(timm.create_model(name, taxonomy=taxonomy or uneven(), width=0.0625, form=form))


def test_timm_lists_them() -> None:
    assert set(NAMES) <= set(timm.list_models("hlfp*"))


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_compute_the_same(name: str) -> None:
    separate, fused = tiny(name, "separate"), tiny(name, "fused", seed=1)
    fused.load_state_dict(separate.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = separate(x)
        torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
        gain = torch.rand(1 if name == "hlfp_1b_late_sp" else 6) + 0.5
        attended = separate(x, gain)
        torch.testing.assert_close(fused(x, gain), attended, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(separate(x, torch.ones_like(gain)), expected)
    assert expected.std(0).min() > 0, "the logits do not depend on the image: the comparison says nothing"
    assert (attended - expected).abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_state_goes_through_both_forms_and_back(name: str) -> None:
    separate, other = tiny(name, "separate"), tiny(name, "separate", seed=1)
    fused = tiny(name, "fused", seed=2)
    fused.load_state_dict(separate.state_dict())
    other.load_state_dict(fused.state_dict())
    expected = separate.state_dict()
    assert other.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in other.state_dict().items())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_fusing_and_splitting_are_inverse(branches: int, rows: int, columns: int) -> None:
    state = {f"branches.{i}.w": torch.randn(rows, columns) for i in range(branches)} | {"trunk.w": torch.randn(3)}
    state |= {f"branches.{i}.n": torch.tensor(7) for i in range(branches)}
    counts = {"branches": branches}
    fused = fuse_state(state, counts)
    assert fused["branches.w"].shape == (branches * rows, columns)
    back = split_state(fused, counts)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_state_of_another_network_is_refused() -> None:
    network = tiny("hlfp_small", "separate")
    for other in ("hlfp_late_sp", "hlfp_nested"):
        for form in ("fused", "separate"):
            with pytest.raises(RuntimeError, match=r"state_dict"):
                network.load_state_dict(tiny(other, form).state_dict())
    five = tiny("hlfp_small", "fused", Taxonomy.flat(list("abcde")))
    with pytest.raises(RuntimeError, match=r"state_dict"):
        network.load_state_dict(five.state_dict())


@pytest.mark.parametrize("name", ["hlfp_small", "hlfp_big", "hlfp_late_sp", "hlfp_nested"])
@pytest.mark.parametrize("kept", [[0], [1, 4], [0, 3, 5]])
def test_a_restricted_taxonomy_is_the_sub_network(name: str, kept: list[int]) -> None:
    full = tiny(name, "separate")
    expert = timm.create_model(
        name, taxonomy=full.taxonomy.restrict(kept), width=0.0625, form="separate", drop_rate=0.1
    ).eval()
    weights = full.state_dict()
    groups = sorted({full.owners[i] for i in kept}) if full.owners else []
    origin = {"branches": kept, "groups": groups}
    for key, tensor in expert.state_dict().items():
        stack, _, rest = key.partition(".")
        number, _, rest = rest.partition(".")
        tensor.copy_(weights[f"{stack}.{origin[stack][int(number)]}.{rest}" if stack in origin else key])
    x, gain = torch.randn(2, 3, 64, 64), torch.rand(6) + 0.5
    with torch.inference_mode():
        assert torch.equal(expert(x, gain[kept]), full(x, gain)[:, kept])


def test_the_trunk_is_timms_resnet50() -> None:
    torch.manual_seed(3)
    resnet = timm.create_model("resnet50", num_classes=0).eval()
    for name, stages in (("hlfp_small", 2), ("hlfp_late_sp", 3)):
        network = timm.create_model(name, num_classes=2).eval()
        state = resnet.state_dict()
        network.trunk.load_state_dict({key: state[key] for key in network.trunk.state_dict()})
        x = torch.randn(1, 3, 64, 64)
        with torch.inference_mode():
            y = resnet.maxpool(resnet.act1(resnet.bn1(resnet.conv1(x))))
            for stage in (resnet.layer1, resnet.layer2, resnet.layer3)[:stages]:
                y = stage(y)
            assert torch.equal(network.forward_features(x), y)


def test_the_gain_comes_after_conv_block_5() -> None:
    """By the paper: the second branch block of small and big, the first of late-SP, the first per class of nested."""
    for name, at in (("hlfp_small", 1), ("hlfp_big", 1), ("hlfp_late_sp", 0), ("hlfp_nested", 0)):
        network = tiny(name, "separate")
        seen: list[torch.Tensor] = []
        blocks = network.branches[2].blocks
        blocks[at].register_forward_hook(lambda _, __, made, seen=seen: seen.append(made))
        blocks[at + 1].register_forward_hook(lambda _, read, __, seen=seen: seen.append(read[0]))
        gain = torch.ones(6)
        gain[2] = 1.7
        with torch.inference_mode():
            network(torch.randn(1, 3, 64, 64), gain)
        torch.testing.assert_close(seen[1], 1.7 * seen[0])


@pytest.mark.parametrize("shared", [True, False])
def test_a_block_of_several_branches_is_those_blocks(shared: bool) -> None:
    torch.manual_seed(0)
    singles = [lively(Bottleneck(4, 3, 5, 2)) for _ in range(3)]  # type: ignore[arg-type, type-var]
    stacked = Bottleneck(4, 3, 5, 2, branches=3, shared=shared).eval()
    states = [single.state_dict() for single in singles]
    stacked.load_state_dict(
        {key: torch.cat([s[key] for s in states]) if states[0][key].dim() else states[0][key] for key in states[0]}
    )
    x = torch.randn(2, 4 if shared else 12, 9, 7)
    parts = [x] * 3 if shared else x.chunk(3, 1)
    with torch.inference_mode():
        expected = torch.cat([single(part) for single, part in zip(singles, parts, strict=True)], 1)
        torch.testing.assert_close(stacked(x), expected)


def test_wrong_arguments_are_refused() -> None:
    for arguments, words in (
        ({"form": "folded"}, "form is 'folded'"),
        ({"width": 0.0}, "width"),
        ({"pretrained": True}, "pretrained"),
        ({"taxonomy": uneven()}, "num_classes is 2, but the taxonomy has 6"),
    ):
        with pytest.raises(ValueError, match=words):
            timm.create_model("hlfp_small", num_classes=2, **arguments)
    with pytest.raises(ValueError, match="super-class"):
        timm.create_model("hlfp_nested", taxonomy=Taxonomy.flat(["a", "b"]))
