"""README.txt of a bundle: how to run the expert without this package."""

from __future__ import annotations

from . import exit_instructions
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
    exits = card.exits if form in (exit_instructions.NESTED, exit_instructions.STAGED) else None
    if form == exit_instructions.STAGED:
        controls = False  # nothing in the graphs reads them
    inputs = [card.input, *(control.name for control in card.controls if controls)]
    named = ", ".join(f"'{clean_text(name)}'" for name in inputs)
    output, later, about = f", output '{clean_text(card.outputs[0].name)}' ({card.outputs[0].kind})", "", ""
    if exits is not None:
        output = f"\n{' ' * 19}output {exit_instructions.outputs(exits, form)}"
        later = "".join(f"  {line}\n" for line in exit_instructions.later(exits, form))
        about = f"\nExits ({len(exits.exits)})\n{exit_instructions.about(card, form)}"
    scaling = ", scale to 0..1, subtract mean, divide by std"
    if card.preprocess is not None and card.preprocess.dtype == BYTES:
        scaling = "; the network takes its bytes"
    return f"""{heading(card)}
Files
  expert.onnx      the network: input {named}{output}
{later}  labels.txt       one class per line, in the order of the output's columns
  preprocess.json  how an image becomes the input: resize, crop{scaling}
  manifest.json    where it comes from, what was cut, how it was verified, SHA-256 of every file
  report.json      how long the build took and what was measured on that machine
  golden.npz       inputs, and what the network made of them when it was verified, if it was
{about}
With expertc
  expertc predict DIRECTORY photo.jpg

With ONNX Runtime alone
{_snippet(card, card.preprocess, batch or 1, controls=controls, form=form)}
{engine}"""


def heading(card: Card) -> str:
    """What the expert is, and whose weights these are: the first lines of such a text."""
    classes = ", ".join(card.classes[:_LISTED]) + (", …" if len(card.classes) > _LISTED else "")
    licence = f"\nWeights: {card.weights_licence}\n" if card.weights_licence else ""
    return f"{card.name}: an expert for {len(card.classes)} of {card.selected_from} classes ({classes})\n{licence}"


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


def _snippet(card: Card, spec: Preprocess | None, batch: int, *, controls: bool, form: str) -> str:
    """Python that does what ``runtime.preprocess`` does; a name out of the model stands in it as a literal."""
    if spec is None:
        return "  The model came without a description of its preprocessing.\n"
    more = ", **others" if controls else ""
    others = [
        'controls = json.loads(pathlib.Path("manifest.json").read_text())["controls"]',
        'others = {c["name"]: numpy.array(c["default"], "float32").reshape(c["shape"]) for c in controls}',
    ]
    session = [
        'session = onnxruntime.InferenceSession("expert.onnx", providers=["CPUExecutionProvider"])',
        *(others if controls else ()),
    ]
    known = card.exits is not None and form in (exit_instructions.NESTED, exit_instructions.STAGED)
    if not known:
        run = [
            *session,
            f"scores = session.run([{card.outputs[0].name!a}], {{{card.input!a}: x{more}}})[0][0]",
            "print(labels[scores.argmax()])",
        ]
    elif form == exit_instructions.NESTED:
        run = [*session, *exit_instructions.nested_run(card, more)]
    else:
        run = exit_instructions.staged_run(card)
    reads = controls or any("json." in line for line in run)
    lines = [
        f"import {'json, ' if reads else ''}numpy, onnxruntime, pathlib",
        *tensor_of_photo(spec, batch),
        'labels = pathlib.Path("labels.txt").read_text(encoding="utf-8").splitlines()',
        *run,
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
