"""A network with three exits that tells colours, and their warmth, in its three forms; and bundles of it.

Its plain form is what is cut; nested it is one graph with the rule inside, staged it is one graph per exit, the third
of which reads two tensors of others. Weights are chosen so that dark photos are unsure and go on to later exits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from networks import run
from onnx import TensorProto, helper, numpy_helper
from rainbow import CLASSES, SIDE, SPEC, TAXONOMY

from expertc.bundle import CONTROLS, EXITS, write_bundle
from expertc.card import CARD_KEY, Card, Control, Output
from expertc.exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exit, Exits

Array = np.ndarray[Any, Any]

EXITS3 = tuple(Exit(f"fine{u}", f"coarse{u}") for u in (1, 2, 3))
PLAIN = Exits(("warm", "cold"), EXITS3, thresholds=(0.5, 0.4), tolerance=0.25, of=(0, 1, 1, 0))
CONTROLLED = tuple(Control(name, values, False) for name, values in PLAIN.settings.items())

_MIX = {  # of the channels, before each exit
    1: [[1, 0, 0], [0, 1, 0], [0, 0, 1]], 2: [[1.1, -0.1, 0], [0, 1.1, -0.1], [-0.1, 0, 1.1]],
    3: [[1.2, -0.2, 0], [-0.2, 1.2, 0], [0, -0.2, 1.2]],
}  # fmt: skip
_FINE = [[4, -3, -3], [-3, 4, -3], [-2, -2, 5], [3, 2, -5]]
_COARSE = [[3, 0.5, -3], [-3, 1, 3]]
_SHARP = {1: 1.2, 2: 2.0, 3: 4.0}  # later exits are surer
_FLOAT, _INT = TensorProto.FLOAT, TensorProto.INT64


def _stage(number: int) -> tuple[list[Any], list[Any]]:
    """Nodes and weights up to an exit: it reads the last features, the third all that there were."""
    own, read = f"features{number}", f"features{number - 1}" if number > 1 else "image"
    made = []
    if number == 3:
        made.append(helper.make_node("Add", ["features1", "features2"], ["sum"]))
        read = "sum"
    made += [
        helper.make_node("Conv", [read, f"mix{number}"], [f"mixed{number}"], kernel_shape=[1, 1]),
        helper.make_node("Relu", [f"mixed{number}"], [own]),
        helper.make_node("GlobalAveragePool", [own], [f"pooled{number}"]),
        helper.make_node("Flatten", [f"pooled{number}"], [f"flat{number}"], axis=1),
    ]
    weights = {f"mix{number}": np.reshape(_MIX[number], (3, 3, 1, 1))}
    for name, rows in (("fine", _FINE), ("coarse", _COARSE)):
        made.append(helper.make_node("Gemm", [f"flat{number}", f"{name}{number}.w"], [f"{name}{number}"], transB=1))
        weights[f"{name}{number}.w"] = np.multiply(rows, _SHARP[number] / (2 if number == 3 else 1))
    return made, [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]


def _value(name: str, *shape: int | str, kind: int = _FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def _features(number: int, batch: int | str) -> Any:
    return _value(f"features{number}", batch, 3, SIDE, SIDE)


def _logits(number: int, batch: int | str) -> list[Any]:
    return [_value(f"fine{number}", batch, len(CLASSES)), _value(f"coarse{number}", batch, 2)]


def _model(nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: list[Any], card: Card | None) -> bytes:
    graph = helper.make_graph(nodes, "exits", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if card is not None:
        helper.set_model_props(model, {CARD_KEY: card.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def card(exits: Exits = PLAIN) -> Card:
    names = (SCORES,) if exits.driven else exits.fine
    controls = CONTROLLED if exits.driven else ()
    return Card("exits", TAXONOMY, tuple(map(Output, names)), "image", SPEC, controls=controls, exits=exits)


def plain(batch: int | str = "batch") -> bytes:
    parts = [_stage(number) for number in (1, 2, 3)]
    nodes, weights = ([item for part in parts for item in part[side]] for side in (0, 1))
    outputs = [value for number in (3, 1, 2) for value in _logits(number, batch)]
    return _model(nodes, [_value("image", batch, 3, SIDE, SIDE)], outputs, weights, card())


def stages(batch: int | str = 1) -> list[bytes]:
    """One graph per exit; only the first has a card."""
    made = []
    reads = {1: [_value("image", batch, 3, SIDE, SIDE)], 2: [_features(1, batch)]}
    reads[3] = [_features(1, batch), _features(2, batch)]
    for number in (1, 2, 3):
        nodes, weights = _stage(number)
        hands_on = [_features(number, batch)] if number < 3 else []
        outputs = [*_logits(number, batch), *hands_on]
        made.append(_model(nodes, reads[number], outputs, weights, card() if number == 1 else None))
    return made


def _entropy(logits: str, made: list[Any]) -> str:
    """Mean over the batch of the entropy of a softmax."""
    names = [f"{logits}.{step}" for step in ("log", "p", "each", "sum", "mean", "entropy")]
    log, p, each, total, mean, entropy = names
    made += [
        helper.make_node("LogSoftmax", [logits], [log], axis=1),
        helper.make_node("Exp", [log], [p]),
        helper.make_node("Mul", [p, log], [each]),
        helper.make_node("ReduceSum", [each, "axis1"], [total], keepdims=0),
        helper.make_node("ReduceMean", [total], [mean], axes=[0], keepdims=1),
        helper.make_node("Neg", [mean], [entropy]),
    ]
    return entropy


def _rule(number: int) -> tuple[list[Any], str, str]:
    """Nodes, and the names of whether the exit answers and whether it would finely."""
    made: list[Any] = []
    fine, coarse = (_entropy(f"{name}{number}", made) for name in ("fine", "coarse"))
    own = [f"{name}{number}" for name in ("favoured", "finer", "limit", "sure", "finely", "coarsely", "answers")]
    favoured, finer, limit, sure, finely, coarsely, answers = own
    made += [
        helper.make_node("Sub", [fine, TOLERANCE], [favoured]),
        helper.make_node("Less", [favoured, coarse], [finer]),
    ]
    if number == 3:
        return made, finer, finer
    made += [
        helper.make_node("Gather", [THRESHOLD, f"at{number}"], [limit], axis=0),
        helper.make_node("Less", [fine, limit], [sure]),
        helper.make_node("And", [sure, finer], [finely]),
        helper.make_node("Less", [coarse, limit], [coarsely]),
        helper.make_node("Or", [finely, coarsely], [answers]),
    ]
    return made, answers, finely


def _answer(number: int, finely: str, batch: int | str, prefix: str) -> tuple[list[Any], list[Any]]:
    """Nodes and graph outputs that hand out what exit ``number`` says."""
    names = {name: f"{prefix}{name}" for name in (SCORES, COARSE, GRANULARITY, EXIT)}
    size, one = f"{prefix}size{number}", f"{prefix}one{number}"
    made = [
        helper.make_node("Identity", [f"fine{number}"], [names[SCORES]]),
        helper.make_node("Identity", [f"coarse{number}"], [names[COARSE]]),
        helper.make_node("Shape", [f"fine{number}"], [size], start=0, end=1),
        helper.make_node("Cast", [finely], [one], to=_INT),
        helper.make_node("Expand", [one, size], [names[GRANULARITY]]),
        helper.make_node("Expand", [f"number{number}", size], [names[EXIT]]),
    ]
    return made, _face(batch, names)


def _face(batch: int | str, names: dict[str, str]) -> list[Any]:
    return [
        _value(names[SCORES], batch, len(CLASSES)), _value(names[COARSE], batch, 2),
        _value(names[GRANULARITY], batch, kind=_INT), _value(names[EXIT], batch, kind=_INT),
    ]  # fmt: skip


def _from(number: int, batch: int | str) -> list[Any]:
    """Nodes from stage ``number`` on, that end in the four outputs, called after the stage."""
    prefix = f"from{number}." if number > 1 else ""
    rule, answers, finely = _rule(number)
    made = [*_stage(number)[0], *rule]
    if number == 3:
        return [*made, *_answer(3, finely, batch, prefix)[0]]
    yes = helper.make_graph(*_answer(number, finely, batch, f"exit{number}.")[:1], f"exit{number}", [],
                            _answer(number, finely, batch, f"exit{number}.")[1])  # fmt: skip
    later = f"from{number + 1}."
    face = {name: f"{later}{name}" for name in (SCORES, COARSE, GRANULARITY, EXIT)}
    no = helper.make_graph(_from(number + 1, batch), f"stage{number + 1}", [], _face(batch, face))
    outputs = [f"{prefix}{name}" for name in (SCORES, COARSE, GRANULARITY, EXIT)]
    return [*made, helper.make_node("If", [answers], outputs, then_branch=yes, else_branch=no)]


def nested(batch: int | str = 1) -> bytes:
    """One graph whose later stages are skipped."""
    weights = [weight for number in (1, 2, 3) for weight in _stage(number)[1]]
    numbers = {"axis1": [1], **{f"at{u}": [u - 1] for u in (1, 2)}, **{f"number{u}": [u] for u in (1, 2, 3)}}
    weights += [numpy_helper.from_array(np.asarray(values, np.int64), name) for name, values in numbers.items()]
    inputs = [_value("image", batch, 3, SIDE, SIDE), _value(THRESHOLD, 2), _value(TOLERANCE, 1)]
    face = _face(batch, {name: name for name in (SCORES, COARSE, GRANULARITY, EXIT)})
    return _model(_from(1, batch), inputs, face, weights, card(replace(PLAIN, driven=True)))


def bundle(path: Path, form: str, batch: int | str = 1, **more: Any) -> Path:
    """A bundle in the ``form`` "nested" or "staged"; ``more`` are further entries of its manifest."""
    models = [nested(batch)] if form == "nested" else stages(batch)
    files: dict[str, bytes | Path] = {
        ("expert.onnx" if number == 1 else f"stage{number}.onnx"): data for number, data in enumerate(models, 1)
    }
    files |= {"labels.txt": "".join(f"{name}\n" for name in CLASSES).encode()}
    files |= {"preprocess.json": json.dumps(SPEC.to_mapping()).encode(), "README.txt": b"An expert.\n"}
    manifest = {
        "name": "exits", "output": {"name": SCORES, "kind": "logits", "axis": 1},
        EXITS: replace(PLAIN, driven=form == "nested").to_mapping(),
        "source": {"name": "exits", "sha256": "0" * 64, "taxonomy": TAXONOMY.to_mapping()},
        CONTROLS: [control.to_mapping() | {"shape": [len(control.default)]} for control in CONTROLLED],
        "input": {"name": "image", "shape": [batch, 3, SIDE, SIDE]}, "precision": "fp32",
    }  # fmt: skip
    return write_bundle(path, files, manifest | more, {"requested": "all"})


# -- by hand -----------------------------------------------------------------------------------------------------------


def entropies(logits: Array) -> Array:
    """Of every row, in nats."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=1, keepdims=True)
    terms: Array = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)
    return terms


def by_hand(x: Array, thresholds: Sequence[float], tolerance: float) -> list[tuple[int, bool, Array, Array]]:
    """For every image of ``x``: exit, whether finely, fine and coarse logits; all three exits are run."""
    found = []
    for image in x:
        all_of = run(plain(), {"image": image[None]})
        for number in (1, 2, 3):
            fine, coarse = all_of[f"fine{number}"], all_of[f"coarse{number}"]
            one, other = float(entropies(fine)[0]), float(entropies(coarse)[0])
            finer = one - tolerance < other
            if number == 3 or (one < thresholds[number - 1] and finer) or other < thresholds[number - 1]:
                finely = finer if number == 3 else one < thresholds[number - 1] and finer
                found.append((number, finely, fine[0], coarse[0]))
                break
    return found
