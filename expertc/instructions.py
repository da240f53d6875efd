"""README.txt of a bundle: how to run the expert without this package."""

from __future__ import annotations

from .card import Card, Preprocess
from .preprocessing import BYTES
from .text import clean_text

_LISTED = 8  # classes
_NONE = "\nA photo shows none of these classes\n"
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}  # Pillow's numbers


def instructions(
    card: Card, batch: int | None = 1, *, controls: bool = False, engine: str = "", form: str = "plain"
) -> str:
    """The text, with the numbers of this expert filled in; ``batch`` is how many images it takes, None for any.

    ``controls`` says that it has inputs beside the image, whose values are in the manifest; ``engine`` is the part on
    how it is compiled (``trtexec``); ``form`` is that in which its exits are shipped.
    """
    if form == "staged":
        controls = False  # nothing in the graphs reads them
    inputs = [card.input, *(control.name for control in card.controls if controls)]
    named = ", ".join(f"'{clean_text(name)}'" for name in inputs)
    output = card.outputs[0]
    scaling = ", scale to 0..1, subtract mean, divide by std"
    if card.preprocess is not None and card.preprocess.dtype == BYTES:
        scaling = "; the network takes its bytes"
    return f"""{heading(card)}
Files
  expert.onnx      the network: input {named}, output '{clean_text(output.name)}' ({output.kind})
  labels.txt       one class per line, in the order of the output's columns
  preprocess.json  how an image becomes the input: resize, crop{scaling}
  manifest.json    where it comes from, what was cut, how it was verified, SHA-256 of every file
  report.json      how long the build took and what was measured on that machine
  golden.npz       inputs, and what the network made of them when it was verified, if it was
{_exits(card, form)}
With expertc
  expertc predict DIRECTORY photo.jpg

With ONNX Runtime alone
{_snippet(card, card.preprocess, batch or 1, controls=controls, staged=form == "staged")}
{engine}"""


def heading(card: Card) -> str:
    """What the expert is, and whose weights these are: the first lines of such a text."""
    classes = ", ".join(card.classes[:_LISTED]) + (", …" if len(card.classes) > _LISTED else "")
    licence = f"\nWeights: {card.weights_licence}\n" if card.weights_licence else ""
    return f"{card.name}: an expert for {len(card.classes)} of {card.selected_from} classes ({classes})\n{licence}"


_HALVES = {
    "nested": """The first exit that is sure enough answers; what comes after it is not computed.
  scores, coarse   logits over the classes and over the categories
  granularity      1 where the class is the answer, 0 where only its category is
  exit             the number of the exit that answered, from 1
  The input 'threshold' holds the entropy in nats below which each early exit answers; 'tolerance' by how much a class
  is preferred to a category.""",
    "staged": """The first exit that is sure enough answers. expert.onnx ends at the first, stage2.onnx at the second.
  Each stage reads tensors that earlier ones made, of the same names, and ends in its exit's logits. How sure an exit is
  says the entropy of their softmax in nats, averaged over the images; 'exits' in manifest.json has the names of the
  logits, the thresholds, and by how much a class is preferred to a category.""",
}


def _exits(card: Card, form: str) -> str:
    """The part on early exits; nothing without."""
    if card.exits is None or form not in _HALVES:
        return ""
    listed = ", ".join(map(clean_text, card.exits.categories[:_LISTED]))
    more = ", …" if len(card.exits.categories) > _LISTED else ""
    return f"\nExits ({len(card.exits.exits)})\n  {_HALVES[form]}\n" + (
        f"  Categories: {listed}{more}\n" if listed else ""
    )


def rejecting(text: str, score: str, threshold: float) -> str:
    """The text with a last part on when a photo shows none of the classes, in place of an older one.

    ``score`` is a name of ``runtime.scores``; a photo is none of the classes if its score is below ``threshold``.
    """
    of = {"energy": "scores.max() + numpy.log(numpy.exp(scores - scores.max()).sum())", "max-logit": "scores.max()"}
    best = of.get(score, "the probability of the best class")
    return f"""{text.partition(_NONE)[0].rstrip()}

{_NONE.strip()}
  if its {score}, {best},
  is below {threshold!r}
"""


def _snippet(card: Card, spec: Preprocess | None, batch: int, *, controls: bool, staged: bool = False) -> str:
    """Python that does what ``runtime.preprocess`` does; a name out of the model stands in it as a literal."""
    if spec is None:
        return "  The model came without a description of its preprocessing.\n"
    more = ", **others" if controls else ""
    others = [
        'controls = json.loads(pathlib.Path("manifest.json").read_text())["controls"]',
        'others = {c["name"]: numpy.array(c["default"], "float32").reshape(c["shape"]) for c in controls}',
    ]
    lines = [
        f"import {'json, ' if controls else ''}numpy, onnxruntime, pathlib",
        *tensor_of_photo(spec, batch),
        *(
            _stages(card)
            if staged
            else [
                'session = onnxruntime.InferenceSession("expert.onnx", providers=["CPUExecutionProvider"])',
                *(others if controls else ()),
                f"scores = session.run([{card.outputs[0].name!a}], {{{card.input!a}: x{more}}})[0][0]",
            ]
        ),
        'labels = pathlib.Path("labels.txt").read_text(encoding="utf-8").splitlines()',
        "print(labels[scores.argmax()])",
    ]
    return "".join(f"  {line}\n" for line in lines)


def tensor_of_photo(spec: Preprocess, batch: int = 1) -> list[str]:
    """Lines of Python that make ``x``, an input for ``batch`` times the same photo, as ``runtime.preprocess`` does."""
    high, wide = spec.size
    if isinstance(spec.resize, int):
        sides = f"[int({spec.resize} * side / min(image.size)) for side in image.size]"
    else:
        sides = f"({spec.resize[1]}, {spec.resize[0]})"
    reverse = "[:, :, ::-1]" if spec.colour == "BGR" else ""
    order = ".transpose(2, 0, 1)" if spec.layout == "NCHW" else ""
    repeat = f".repeat({batch}, 0)" if batch > 1 else ""
    if spec.dtype == BYTES:
        tensor = [f"x = numpy.asarray(image){reverse}{order}[None]{repeat}"]
    else:
        tensor = [
            f'pixels = numpy.asarray(image, "float32"){reverse} / 255',
            f'x = ((pixels - {list(spec.mean)}) / {list(spec.std)}){order}[None]{repeat}.astype("{spec.dtype}")',
        ]
    return [
        "from PIL import Image, ImageOps",
        'image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        f"image = image.resize({sides}, {_FILTERS[spec.interpolation]})",
        f"left, top = round((image.width - {wide}) / 2), round((image.height - {high}) / 2)",
        f"image = image.crop((left, top, left + {wide}, top + {high}))",
        *tensor,
    ]


def _stages(card: Card) -> list[str]:
    """Lines that run every stage, so up to the last exit that knows classes."""
    assert card.exits is not None
    files = ["expert.onnx", *(f"stage{number}.onnx" for number in range(2, len(card.exits.exits) + 1))]
    return [
        f"made = {{{card.input!a}: x}}",
        f"for name in {files}:",
        '    session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])',
        "    read = {value.name: made[value.name] for value in session.get_inputs()}",
        "    made.update(zip([value.name for value in session.get_outputs()], session.run(None, read)))",
        f"scores = made[{card.exits.fine[0]!a}][0]",
    ]
