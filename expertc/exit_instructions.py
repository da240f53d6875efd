"""README.txt of a bundle whose network has early exits: what its files hold, what decides, and Python that does so."""

from __future__ import annotations

from .card import Card
from .exits import COARSE, EXIT, GRANULARITY, SCORES, THRESHOLD, TOLERANCE, Exits
from .text import clean_text

NESTED, STAGED = "nested", "staged"

_LISTED = 8  # categories
_STRICT = "An early exit answers with a category only if that is surer than the class by more than the tolerance."


def outputs(exits: Exits, form: str) -> str:
    """What ``expert.onnx`` gives, for the list of files."""
    if form == STAGED:
        return f"{_quoted(exits.tensors[: _first(exits)])} (logits) and what later stages read"
    beside = (COARSE,) if exits.categories else ()
    return f"'{SCORES}' (logits), {_quoted((*beside, GRANULARITY, EXIT))}"


def later(exits: Exits, form: str) -> list[str]:
    """The files of the stages after the first, a line for each."""
    return [f"stage{n}.onnx      the network from there to exit {n}" for n in _numbers(exits)] if form == STAGED else []


def about(card: Card, form: str) -> str:
    """The part on exits."""
    exits = card.exits
    assert exits is not None
    lines = ["The first exit that is sure enough answers; what comes after it is not computed."]
    if len(exits.exits) == 1:
        lines = ["One exit is left, which always answers."]
    if form == NESTED:
        lines += ["scores           logits over the classes"]
        lines += ["coarse           logits over the categories"] if exits.categories else []
        coarse = "0 where only its category is" if exits.categories else "here always"
        lines += [f"granularity      1 where the class is the answer, {coarse}"]
        lines += ["exit             the number of the exit that answered, from 1"]
    else:
        lines += ["expert.onnx ends at the first, stage2.onnx at the second, and so on. Each stage reads tensors that"]
        lines += ["earlier ones made, of the same names. 'exits' in manifest.json has the names of the logits."]
    lines += _settings(exits, form)
    if exits.semantic is not None:
        lines += ["The network says itself, once, whether it answers with a class or a category."]
    if exits.strict_coarse and exits.compares:
        lines += [_STRICT]
    if exits.categories:
        more = ", …" if len(exits.categories) > _LISTED else ""
        lines += [f"Categories: {', '.join(map(clean_text, exits.categories[:_LISTED]))}{more}"]
    return "".join(f"  {line}\n" for line in lines)


def _settings(exits: Exits, form: str) -> list[str]:
    """What can be set, or what it is frozen at."""
    said = {
        THRESHOLD: "the entropy in nats, a mean over the images, below which an exit is sure",
        TOLERANCE: "by how many nats a class is preferred to a category",
    }
    if exits.frozen:
        fixed = {name: ", ".join(f"{value:g}" for value in values) for name, values in exits.settings.items()}
        return [f"The {name} is frozen at {values}: {said[name]}." for name, values in fixed.items()]
    if form == NESTED:
        return [f"The input '{name}' holds {said[name]}." for name in exits.settings]
    names = {THRESHOLD: "'thresholds' there", TOLERANCE: "'tolerance' there"}
    return [f"{names[name]}: {said[name]}." for name in exits.settings]


def nested_run(card: Card, more: str) -> list[str]:
    """Lines of Python that run the graph and print its answer; ``session`` and ``labels`` are there."""
    assert card.exits is not None
    names = [SCORES, *([COARSE, GRANULARITY] if card.exits.categories else [])]
    run = f"session.run({names}, {{{card.input!a}: x{more}}})"
    if not card.exits.categories:
        return [f"scores = {run}[0][0]", "print(labels[scores.argmax()])"]
    return [
        f"made = {run}",
        "scores, coarse, granularity = (each[0] for each in made)",
        'categories = json.loads(pathlib.Path("manifest.json").read_text(encoding="utf-8"))["exits"]["categories"]',
        "print(labels[scores.argmax()] if granularity else categories[coarse.argmax()])",
    ]


def staged_run(card: Card) -> list[str]:
    """Lines of Python that run stage after stage until an exit is sure, by ``exit_rule.decide``."""
    exits = card.exits
    assert exits is not None
    return [
        "def entropy(name):  # of the softmax, in nats; what there is not is never sure",
        "    if name is None: return numpy.inf",
        '    logits = made[name].astype("float64")',
        "    logs = logits - logits.max(1, keepdims=True)",
        "    logs -= numpy.log(numpy.exp(logs).sum(1, keepdims=True))",
        "    return -(numpy.exp(logs) * logs).sum(1).mean()",
        'exits = json.loads(pathlib.Path("manifest.json").read_text(encoding="utf-8"))["exits"]',
        f"made = {{{card.input!a}: x}}",
        'for number, one in enumerate(exits["exits"], 1):',
        '    file = "expert.onnx" if number == 1 else f"stage{number}.onnx"',
        '    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])',
        "    read = {value.name: made[value.name] for value in session.get_inputs()}",
        "    made.update(zip([value.name for value in session.get_outputs()], session.run(None, read)))",
        '    limit, last = [*exits["thresholds"], numpy.inf][number - 1], number == len(exits["exits"])',
        *(_decided(exits) if exits.categories else _SURE),
    ]


_SURE = [
    '    if last or entropy(one["fine"]) < limit: break',
    'print(labels[made[one["fine"]][0].argmax()])',
]


def _decided(exits: Exits) -> list[str]:
    """Between two granularities; one that an exit has not, or that a semantic branch has not chosen, is never sure."""
    strict = " and b < a - tolerance" if exits.strict_coarse and exits.compares else ""
    chosen = [
        f"    if made[{exits.semantic!a}].argmax(1).mean() >= 0.5: coarse = None",
        "    else: fine = None",
    ]
    return [
        '    fine, coarse, tolerance = one["fine"], one["coarse"], exits["tolerance"]',
        *(chosen if exits.semantic is not None else []),
        "    a, b = entropy(fine), entropy(coarse)",
        "    finely = a < limit and a - tolerance < b",
        f"    if finely or last or (b < limit{strict}): break",
        'print(labels[made[fine][0].argmax()] if finely else exits["categories"][made[coarse][0].argmax()])',
    ]


def _first(exits: Exits) -> int:
    return len(exits.exits[0].names) + (exits.semantic is not None)


def _numbers(exits: Exits) -> range:
    return range(2, len(exits.exits) + 1)


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"'{clean_text(name)}'" for name in names)
