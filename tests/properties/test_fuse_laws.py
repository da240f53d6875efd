"""fuse's laws over generated branched networks: never another score beyond rounding, whatever is a sibling of what."""

from __future__ import annotations

import numpy as np
import onnx
from generated import Spec, build, specs
from hypothesis import given
from hypothesis import strategies as st
from networks import Net, feeds, reference, run

from expertc.graph import read_model, to_bytes
from expertc.surgery.fold import Fold
from expertc.surgery.fuse import FORMS, Fuse

ROUNDING = 1e-5  # of the largest magnitude
TRUNK, WIDTH = 4, 2


def check(data: bytes) -> set[str]:
    """Fuse in every form; returns those that changed something."""
    model, inputs, changed = read_model(data), feeds(data), set()
    before = run(data, inputs)
    for form in FORMS:
        written, different = Fuse(form).run(model)
        result = to_bytes(written)
        assert to_bytes(Fuse(form).run(written)[0]) == result
        if not different:
            continue
        changed.add(form.name)
        onnx.checker.check_model(onnx.load_from_string(result), full_check=True)
        assert to_bytes(Fuse(form).run(read_model(data))[0]) == result
        assert to_bytes(Fuse(form).run(read_model(result))[0]) == result
        engines = [(run(result, inputs), before)]
        if form.grouped:
            with np.errstate(over="ignore", invalid="ignore"):  # in its Sigmoid
                engines.append((reference(result, inputs), reference(data, inputs)))
        for after, wanted in engines:
            for name, values in wanted.items():
                scale = float(np.abs(values).max())
                np.testing.assert_allclose(after[name], values, rtol=0, atol=ROUNDING * scale, err_msg=name)
    return changed


@given(specs(endings=("logits", "softmax", "apart")))
def test_generated_trees_keep_their_scores(spec: Spec) -> None:
    model, _ = Fold().run(read_model(build(spec).bytes()))
    check(to_bytes(model))


class Drawn:
    """Steps of branches, each drawn once for all siblings, which make it with weights of their own."""

    def __init__(self, data: st.DataObject, net: Net) -> None:
        self.data, self.net = data, net

    def below(self, count: int) -> int:
        return int(self.data.draw(st.integers(0, count - 1)))

    def forest(self, sources: list[str], cin: int, depth: int) -> list[str]:
        """Siblings on top of ``sources``, one or more of each source, then perhaps theirs."""
        times = [1 + self.below(2) for _ in sources] if self.below(3) == 0 else [1 + self.below(3)] * len(sources)
        made = [source for source, count in zip(sources, times, strict=True) for _ in range(count)]
        made = self.data.draw(st.permutations(made)) if self.below(3) == 0 else made
        kernel = 1 + 2 * self.below(2)
        made = [self.net.conv(x, cin, WIDTH, kernel=kernel, bias=bool(depth % 2)) for x in made]
        for _ in range(self.below(4)):
            made = self.step(made)
        return made if depth == 0 or len(made) > 12 else self.forest(made, WIDTH, depth - 1)

    def step(self, made: list[str]) -> list[str]:
        net, kind = self.net, self.below(9)
        if kind == 0:
            return [net.node("Add", x, net.conv(x, WIDTH, WIDTH, kernel=3)) for x in made]
        if kind == 1:
            return [net.conv(x, WIDTH, WIDTH, kernel=3, group=WIDTH) for x in made]
        if kind == 2:
            return [net.node("Mul", x, net.node("Sigmoid", x)) for x in made]
        if kind == 3:
            return [net.norm(x, WIDTH) for x in made]
        if kind == 4:
            shape = [(WIDTH, 1, 1), (1, WIDTH, 1, 1), (1,), (), (4,)][self.below(5)]
            return [net.node(("Add", "Mul", "Div")[len(shape) % 3], x, net.weight(*shape)) for x in made]
        if kind == 5:  # of each and its neighbour
            return [net.node("Add", x, y) for x, y in zip(made, made[1:] + made[:1], strict=True)]
        if kind == 6:  # not all alike
            return [net.node("Tanh" if at % 2 and self.below(2) else "Relu", x) for at, x in enumerate(made)]
        if kind == 7:
            gates = [net.node("Sigmoid", net.conv(net.node("GlobalAveragePool", x), WIDTH, WIDTH)) for x in made]
            return [net.node("Mul", gate, x) for gate, x in zip(gates, made, strict=True)]
        pieces, names = net.node("Concat", *made, axis=1), [net.fresh("part") for _ in made]
        sizes = [WIDTH] * len(made)
        if net.opset < 13:
            return list(net.node("Split", pieces, axis=1, split=sizes, out=names))
        return list(net.node("Split", pieces, net.constant(sizes), axis=1, out=names))

    def head(self, x: str, kind: int, classes: int) -> str:
        net = self.net
        if kind == 0:
            return net.head(x, WIDTH, classes)
        pooled = net.node("GlobalAveragePool", x)
        if kind == 1:
            return str(net.node("Flatten", net.conv(pooled, WIDTH, classes), axis=1))
        flat = net.node("Reshape", pooled, net.constant([-1, WIDTH]))
        return str(net.node("Add", net.node("MatMul", flat, net.weight(WIDTH, classes)), net.weight(classes)))


@given(st.data())
def test_generated_siblings_keep_their_scores(data: st.DataObject) -> None:
    net = Net((11, 13, 17)[data.draw(st.integers(0, 2))], seed=data.draw(st.integers(0, 999)))
    drawn = Drawn(data, net)
    x = net.node("Relu", net.conv(net.image(), 3, TRUNK, kernel=3))
    ends = drawn.forest([x], TRUNK, 1 + drawn.below(2))
    classes, kinds = 1 + drawn.below(2), [drawn.below(3)] * len(ends)
    if drawn.below(3) == 0:
        kinds = [drawn.below(3) for _ in ends]
    parts = [drawn.head(end, kind, classes) for end, kind in zip(ends, kinds, strict=True)]
    if drawn.below(2):
        parts = data.draw(st.permutations(parts))
    net.result(net.node("Concat", *parts, axis=1, out="scores"), classes * len(parts))
    if drawn.below(4) == 0:
        net.outputs.append(onnx.helper.make_tensor_value_info(ends[0], 1, [net.batch, WIDTH, 4, 4]))
    check(net.bytes())
