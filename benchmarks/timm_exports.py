"""Small networks of timm's architectures as torch's exporters write them, and judges of what is cut out of them.

The judges know nothing of demands and rules:

* ONNX Runtime, nothing optimised: the expert's scores against the full model's rows;
* torch: the same network made for as many classes says how many values and multiply-adds should be gone;
* a walk back from the outputs: nothing in the expert is dead.
"""

from __future__ import annotations

import io
import random
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from expertc.backends.cpu import open_session
from expertc.card import Card, card_for_foreign
from expertc.errors import ExpertcError
from expertc.graph import Model, read_model, to_bytes
from expertc.graph.cost import cost
from expertc.surgery.outputs import find_outputs
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune

CLASSES = 12
EXPORTERS = {"dynamo": (20,), "torchscript": (17, 20)}  # with the opsets to try
ROUNDING = 1e-5  # of the largest |score|: what a change of kernel may cost

# timm's name: side of the image, and what makes the network smaller.
ONE, THIN = (1, 1, 1, 1), (16, 16, 32, 32)
ARCHITECTURES: Mapping[str, tuple[int, Mapping[str, Any]]] = {
    "resnet18": (32, {"layers": ONE, "channels": THIN}),
    "resnext50_32x4d": (32, {"layers": ONE}),
    "resnetv2_50": (32, {"layers": ONE}),
    "seresnet18": (32, {"layers": ONE}),
    "skresnet18": (32, {"layers": ONE}),
    "ecaresnet26t": (32, {"layers": ONE, "channels": THIN}),
    "res2net50_26w_4s": (32, {"layers": ONE}),
    "resnest14d": (32, {}),
    "regnetx_002": (32, {}),
    "regnety_002": (32, {}),
    "densenet121": (32, {"block_config": (1, 1, 2, 1), "growth_rate": 8}),
    "rdnet_tiny": (32, {}),
    "vgg11": (32, {}),
    "dla46_c": (32, {}),
    "hrnet_w18_small": (64, {}),
    "ese_vovnet19b_slim": (32, {}),
    "cspresnet50": (32, {}),
    "dpn48b": (32, {}),
    "selecsls42": (64, {}),
    "tresnet_m": (32, {"layers": ONE}),
    "gernet_s": (32, {}),
    "repvgg_a0": (32, {}),
    "inception_v3": (75, {}),
    "inception_v4": (75, {}),
    "legacy_xception": (64, {}),
    "nfnet_l0": (32, {}),
    "efficientnet_b0": (32, {}),
    "mixnet_s": (32, {}),
    "mobilenetv2_035": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "mobilenetv4_conv_small_035": (32, {}),
    "ghostnet_050": (32, {}),
    "repghostnet_050": (32, {}),
    "hgnetv2_b0": (32, {}),
    "rexnet_100": (32, {}),
    "starnet_s050": (32, {}),
    "fasternet_t0": (64, {}),
    "repvit_m0_9": (32, {}),
    "convnext_atto": (32, {"depths": ONE}),
    "convnextv2_atto": (32, {"depths": ONE}),
    "inception_next_atto": (64, {"depths": ONE}),
    "convmixer_768_32": (32, {}),
    "poolformer_s12": (32, {}),
    "vit_tiny_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "vit_base_patch16_siglip_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 64, "num_heads": 2}),
    "deit_tiny_distilled_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "deit3_small_patch16_224": (32, {"img_size": 32, "depth": 2}),
    "beit_base_patch16_224": (32, {"img_size": 32, "depth": 2, "embed_dim": 96, "num_heads": 3}),
    "eva02_tiny_patch14_224": (28, {"img_size": 28, "depth": 2}),
    "cait_xxs24_224": (32, {"img_size": 32, "depth": 2}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64, "depth": 2}),
    "hiera_tiny_224": (64, {"img_size": (64, 64), "stages": ONE, "embed_dim": 32}),
    "swin_tiny_patch4_window7_224": (56, {"img_size": 56, "depths": ONE, "embed_dim": 48}),
    "swinv2_tiny_window8_256": (64, {"img_size": 64, "depths": ONE, "embed_dim": 48}),
    "davit_tiny": (64, {"depths": ONE}),
    "maxvit_pico_rw_256": (64, {"img_size": 64}),
    "coatnet_pico_rw_224": (64, {"img_size": 64}),
    "pit_ti_224": (64, {"img_size": 64, "depth": (1, 1, 1)}),
    "levit_128s": (64, {"img_size": 64}),
    "crossvit_9_240": (240, {"depth": ((1, 1, 0),) * 3}),
    "twins_svt_small": (64, {"img_size": 64, "depths": ONE}),
    "pvt_v2_b0": (64, {"depths": ONE}),
    "volo_d1_224": (64, {"img_size": 64}),
    "tiny_vit_5m_224": (64, {"depths": ONE}),
    "fastvit_t8": (64, {"layers": ONE}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientformerv2_s0": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {"img_size": 64}),
    "edgenext_xx_small": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (32, {"img_size": 32}),
    "gmlp_ti16_224": (32, {"img_size": 32}),
}

# What the table of transfer rules has a rule for that can remove something: a demand must not be stopped there.
RULED = frozenset(
    "Relu Sigmoid Gelu Erf Clip Cast HardSwish HardSigmoid Identity Dropout Add Sub Mul Div Pow Where Equal Less "
    "Greater PRelu Sum Max Min Mean Expand Tile Conv ConvTranspose Gemm MatMul Einsum ConvInteger MatMulInteger "
    "QLinearConv QLinearMatMul QuantizeLinear DequantizeLinear Transpose Reshape Flatten Squeeze Unsqueeze Concat "
    "Split Slice Gather GatherElements GatherND ScatterND ScatterElements Pad DepthToSpace SpaceToDepth Resize "
    "Upsample Shape Size MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool ReduceMean ReduceSum ReduceMax "
    "ReduceMin ReduceL1 ReduceL2 ReduceProd ReduceLogSumExp BatchNormalization InstanceNormalization "
    "GroupNormalization LayerNormalization RMSNormalization LpNormalization MeanVarianceNormalization Softmax "
    "LogSoftmax Hardmax If Loop Scan".split()
)

Result = dict[str, Any]


# -- a network and its exports -----------------------------------------------------------------------------------------


def create(name: str, classes: int = CLASSES) -> Any:
    """The network as timm makes it, in eval mode."""
    from expertc.zoo import import_timm

    return import_timm().create_model(name, num_classes=classes, **ARCHITECTURES[name][1]).eval()


def make(name: str) -> Any:
    """The network with random weights, none of them trivial: zeros and ones would hide a row that was mixed up."""
    import torch

    torch.manual_seed(1)
    network, side = create(name), ARCHITECTURES[name][0]
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if tensor.dim() == 1:
                tensor.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else tensor.uniform_(-0.5, 0.5)
            elif (tensor == 1).all():
                tensor.uniform_(0.5, 1.5)
            elif (tensor == tensor.reshape(-1)[0]).all():
                tensor.normal_(0, 0.1)
        for norm in norms:  # statistics of real activations, or a deep network says the same of every image
            norm.train().momentum = 1.0
        network(torch.randn(4, 3, side, side))
    return network.eval()


def export(network: Any, side: int, exporter: str, *, opset: int | None = None, symbolic: bool = True) -> bytes:
    """What a person who knows nothing of expertc would write; ``symbolic`` leaves the batch open."""
    import torch

    example = torch.randn(2, 3, side, side)
    options: dict[str, Any] = {"input_names": ["image"], "output_names": ["logits"]}
    options["opset_version"] = opset or EXPORTERS[exporter][0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        if exporter == "dynamo":
            batch = ({0: torch.export.Dim("batch")},) if symbolic else None
            program = torch.onnx.export(
                network, (example,), dynamo=True, dynamic_shapes=batch, verbose=False, **options
            )
            assert program is not None  # as dynamo=True promises
            data: bytes = program.model_proto.SerializeToString()
            return data
        file, axes = io.BytesIO(), {"image": {0: "batch"}, "logits": {0: "batch"}} if symbolic else None
        torch.onnx.export(network, (example,), file, dynamo=False, dynamic_axes=axes, **options)  # type: ignore[arg-type]
        return file.getvalue()


# -- the judges --------------------------------------------------------------------------------------------------------


class Size(NamedTuple):
    """Values of a torch network's parameters, and multiply-adds of the layers that depend on the number of classes."""

    parameters: int
    macs: int


def sizes(name: str, full: Any, count: int) -> tuple[Size, Size, list[np.ndarray[Any, Any]]]:
    """The sizes of the network and of the same one for ``count`` classes, and the former's classifier weights."""
    import torch

    small = create(name, count)
    other = dict(small.named_parameters())
    depends = {key for key, value in full.named_parameters() if value.shape != other[key].shape}
    layers = {key.rpartition(".")[0] for key in depends}
    side, found = ARCHITECTURES[name][0], []
    for network in (full, small):
        spent: list[int] = []

        def add(module: Any, inputs: Any, output: Any, spent: list[int] = spent) -> None:
            spent.append(output.numel() * module.weight[0].numel())

        modules = [module for key, module in network.named_modules() if key in layers]
        hooks = [module.register_forward_hook(add) for module in modules]
        with torch.inference_mode():
            network(torch.zeros(1, 3, side, side))
        for hook in hooks:
            hook.remove()
        found.append(Size(sum(value.numel() for value in network.parameters()), sum(spent)))
    return found[0], found[1], [value.detach().numpy() for key, value in full.named_parameters() if key in depends]


def tensors(data: bytes) -> Iterator[tuple[bool, np.ndarray[Any, Any]]]:
    """Every initializer of floats, scalars left out, and whether an output depends on it."""
    graph = onnx.load_from_string(data).graph
    makers = {name: node for node in graph.node for name in node.output}
    alive, stack = set(), [value.name for value in graph.output]
    while stack:
        name = stack.pop()
        if name not in alive:
            alive.add(name)
            stack += makers[name].input if name in makers else []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim and values.dtype.kind == "f":
            yield tensor.name in alive, values


def stored(data: bytes) -> int:
    """How many floats the outputs depend on."""
    return sum(values.size for alive, values in tensors(data) if alive)


def run(data: bytes, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = open_session(data, optimise=False, threads=1)
    try:
        return session.run(images)["logits"]
    finally:
        session.close()


def subsets(name: str) -> list[list[int]]:
    """One class; a few neighbours, out of order; any five: the same for a name every time."""
    draw = random.Random(zlib.crc32(name.encode()))
    first = draw.randrange(CLASSES - 3)
    neighbours = draw.sample(range(first, first + 4), 4)
    return [[draw.choice(neighbours)], neighbours, draw.sample(range(CLASSES), 5)]


def judge(name: str, network: Any, data: bytes) -> Result:
    """Cut an export to each of the subsets. Raises ``ExpertcError`` if one cannot be cut, or does not run."""
    side = ARCHITECTURES[name][0]
    model = read_model(data)
    card = card_for_foreign([f"class-{i}" for i in range(CLASSES)], None, None, "image", find_outputs(model, CLASSES))
    images = np.random.default_rng(0).standard_normal((3, 3, side, side)).astype(np.float32)
    try:
        scores = run(data, images)
    except ExpertcError:
        images = images[:2]  # the exporter froze the batch of its example
        scores = run(data, images)
    assert np.isfinite(scores).all(), "the full model's scores are not finite"
    assert min(scores.std(axis=0).min(), scores.std(axis=1).min()) > 0, "the full model's scores are all the same"
    found: Result = {"opset": model.opset, "batch": "frozen" if len(images) == 2 else "symbolic"}
    found["nodes"] = len(model.nodes)
    found["explain"] = [reason for reason, _ in ownership(model, card).stopped]
    held = stored(to_bytes(model))
    found["cuts"] = [_judge_cut(name, network, model, card, held, images, scores, keep) for keep in subsets(name)]
    found["composable"] = _is_composable(model, card, *subsets(name)[:2])
    return found


def _is_composable(model: Model, card: Card, keep: Sequence[int], larger: Sequence[int]) -> bool:
    """Whether cutting by way of a larger selection gives the same bytes."""
    step = prune(model, card, larger)
    twice = prune(read_model(to_bytes(step.model)), step.card, [sorted(larger).index(row) for row in keep])
    return to_bytes(twice.model) == to_bytes(prune(model, card, keep).model)


def _judge_cut(
    name: str, network: Any, model: Model, card: Card, before: int, images: Any, scores: Any, keep: Sequence[int]
) -> Result:
    cut = prune(model, card, keep)
    expert = to_bytes(cut.model)
    onnx.checker.check_model(onnx.load_from_string(expert))
    wanted, got = scores[:, sorted(keep)], run(expert, images)
    assert got.shape == wanted.shape
    full, small, classifier = sizes(name, network, len(keep))
    values = np.concatenate([value.reshape(-1) for value in classifier])
    held = list(tensors(expert))
    return {
        "classes": list(keep),
        "difference": float(np.abs(got - wanted).max() / np.abs(scores).max()),
        "values_gone": before - stored(expert),
        "values_expected": full.parameters - small.parameters,
        "macs_gone": cost(model).macs - cost(cut.model).macs,
        "macs_expected": full.macs - small.macs,
        "whole_rows": sum(CLASSES in tensor.shape and bool(np.isin(tensor, values).all()) for _, tensor in held),
        "dead": sum(not alive for alive, _ in held),
        "stopped": [reason for reason, _ in cut.stopped],
    }


def is_exact(found: Result) -> bool:
    return all(cut["difference"] <= ROUNDING for cut in found["cuts"])


def is_minimal(found: Result) -> bool:
    """Whether every cut took what torch says it should, and nothing that is left is dead.

    It may take more: where a transformer's head reads the class token alone, the last block computes no other.
    """
    return all(
        cut["values_gone"] >= cut["values_expected"]
        and cut["macs_gone"] >= cut["macs_expected"]
        and not cut["whole_rows"]
        and not cut["dead"]
        for cut in found["cuts"]
    )


def stops(found: Result) -> list[str]:
    """Every reason that names an operator which has a rule."""
    reasons = dict.fromkeys([*found["explain"], *(reason for cut in found["cuts"] for reason in cut["stopped"])])
    return [reason for reason in reasons if RULED.intersection(re.findall(r"\w+", reason))]
