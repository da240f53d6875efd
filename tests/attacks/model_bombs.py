"""Small models that ask for much: each is read, cut and folded in a process with a gigabyte and a few seconds.

Prints a JSON object: what became of each.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from networks import Net, card
from onnx import helper

from expertc.errors import ExpertcError
from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold
from expertc.surgery.owners import ownership
from expertc.surgery.prune import prune

HUGE = 2**45
GIGABYTE = 2**30
SECONDS = 20


def wide(op: Callable[[Net, str], str], channels: int = HUGE) -> bytes:
    """``op`` on an input with an absurd number of channels; the scores are what is left."""
    net = Net()
    net.result(net.node("Flatten", op(net, net.image(channels, 1, 1)), out="scores"), 4)
    return bytes(net.model(check=False).SerializeToString())


def functions() -> bytes:
    """Each function calls the one below it ten times: inlined, a hundred million nodes."""
    net = Net()
    net.domains["f"] = 1
    net.node("F8", net.image(), out="x", domain="f")
    net.result(net.head("x", 3, 4, name="scores"), 4)
    proto = net.model(check=False)
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("f", 1)]
    for level in range(9):
        names = ["a", *(f"t{k}" for k in range(9)), "b"]
        call = ("Tanh", "") if level == 0 else (f"F{level - 1}", "f")
        body = [helper.make_node(call[0], [x], [y], domain=call[1]) for x, y in pairwise(names)]
        proto.functions.append(helper.make_function("f", f"F{level}", ["a"], ["b"], body, imports))
    return bytes(proto.SerializeToString())


def folded(make: Callable[[Net, int], str], count: int) -> bytes:
    """``count`` constant expressions, each just within what folding allows a single one."""
    net = Net()
    total = net.head(net.image(), 3, 4, name="h")
    for number in range(count):
        total = net.node("Add", total, net.node("ReduceMax", make(net, number), keepdims=0))
    net.result(net.node("Identity", total, out="scores"), 4)
    return bytes(net.model(check=False).SerializeToString())


def doubled(net: Net, number: int) -> str:
    x = net.constant([float(number)] * 16)
    for _ in range(20):
        x = net.node("Concat", x, x, axis=0)
    return x


def labelled(count: int) -> bytes:
    net = Net()
    net.result(net.node("Identity", net.image(count), out="scores"), count)
    return bytes(net.model(check=False).SerializeToString())


MOST = 2**24
BOMBS: dict[str, Callable[[], bytes]] = {
    "slice": lambda: wide(lambda n, x: n.node("Slice", x, n.constant([0]), n.constant([4]), n.constant([1]))),
    "gather": lambda: wide(lambda n, x: n.node("Gather", x, n.constant([0, 1, 2, 3]), axis=1)),
    "reshape": lambda: wide(
        lambda n, x: n.node("ReduceMax", n.node("Reshape", x, n.constant([0, 4, -1])), n.constant([2]))
    ),
    "split": lambda: wide(lambda n, x: n.node("Split", x, n.constant([4, HUGE - 4]), out=["s", "t"], axis=1)[0]),
    "concat": lambda: wide(
        lambda n, x: n.node("Slice", n.node("Concat", x, x, axis=1), *(n.constant([k]) for k in (0, 4, 1)))
    ),
    "pad": lambda: wide(lambda n, x: n.node("Pad", x, n.constant([0, 0, 0, 0, 0, HUGE, 0, 0])), 4),
    "tile": lambda: wide(lambda n, x: n.node("Tile", x, n.constant([1, HUGE, 1, 1])), 4),
    "classes": lambda: labelled(HUGE),
    "functions": functions,
    "expand": lambda: folded(lambda n, k: n.node("Expand", n.constant([float(k)]), n.constant([MOST])), 60),
    "doubling": lambda: folded(doubled, 30),
    "constant of shape": lambda: folded(lambda n, k: n.node("ConstantOfShape", n.constant([MOST])), 60),
    "range": lambda: folded(lambda n, k: n.node("Range", *(n.constant(float(v)) for v in (k, k + MOST, 1))), 60),
}


def defuse(data: bytes) -> str:
    """Take every road with the model."""
    try:
        model = read_model(data)
        expert = prune(model, card(4), [0, 2]).model
        to_bytes(Fold().run(expert)[0])
        ownership(model, card(4))
    except ExpertcError as error:
        return type(error).__name__
    return "done"


def in_a_process_of_its_own(bomb: Callable[[], bytes]) -> str:
    data = bomb()
    assert len(data) < 2**20
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (status + GIGABYTE,) * 2)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS,) * 2)
        try:
            outcome = defuse(data)
        except BaseException as error:  # noqa: BLE001 (its name is the result)
            outcome = type(error).__name__
        os.write(writing, outcome.encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(child, 0)
    with open(reading) as pipe:
        outcome = pipe.read()
    return outcome or f"killed by signal {os.WTERMSIG(status)}"


if __name__ == "__main__":
    json.dump({name: in_a_process_of_its_own(bomb) for name, bomb in BOMBS.items()}, sys.stdout)
