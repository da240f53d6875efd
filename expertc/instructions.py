"""README.txt of a bundle: how to run the expert without this package."""

from __future__ import annotations

from .card import Card


def instructions(card: Card) -> str:
    """The text, with the numbers of this expert filled in."""
    classes = ", ".join(card.classes[:8]) + (" …" if len(card.classes) > 8 else "")
    kind = card.outputs[0].kind
    size = "HxW" if card.preprocess is None else "x".join(str(side) for side in card.preprocess.size)
    licence = f"\nWeights: {card.weights_licence}\n" if card.weights_licence else ""
    return f"""{card.name}: an expert for {len(card.classes)} of {card.selected_from} classes ({classes})
{licence}
Files
  expert.onnx      the network, input '{card.input}' (float32), output '{card.outputs[0].name}' ({kind})
  labels.txt       one class per line, in the order of the output's columns
  preprocess.json  how an image becomes the input: resize, crop, scale to 0..1, subtract mean, divide by std
  manifest.json    where it comes from, what was cut, how it was verified, SHA-256 of every file
  report.json      how long the build took and what was measured on that machine

With expertc
  expertc predict DIRECTORY photo.jpg

With ONNX Runtime alone ({size} pixels)
{_snippet(card)}
With TensorRT, on the device
  trtexec --onnx=expert.onnx --saveEngine=expert.plan
"""


def _snippet(card: Card) -> str:
    spec = card.preprocess
    if spec is None:
        return "  The model came without a description of its preprocessing.\n"
    filters = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3}
    if isinstance(spec.resize, int):
        resize = [
            f"  scale = {spec.resize} / min(image.size)",
            f"  image = image.resize([max({spec.resize}, int(side * scale)) for side in image.size], "
            f"{filters[spec.interpolation]})",
            f"  left, top = (image.width - {spec.size[1]}) // 2, (image.height - {spec.size[0]}) // 2",
            f"  image = image.crop((left, top, left + {spec.size[1]}, top + {spec.size[0]}))",
        ]
    else:
        resize = [f"  image = image.resize(({spec.resize[1]}, {spec.resize[0]}), {filters[spec.interpolation]})"]
        if spec.resize != spec.size:
            resize.append("  # then the centre crop of preprocess.json")
    reverse = "[:, :, ::-1]" if spec.colour == "BGR" else ""
    order = ".transpose(2, 0, 1)" if spec.layout == "NCHW" else ""
    lines = [
        "  import numpy, onnxruntime",
        "  from PIL import Image, ImageOps",
        '  image = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")',
        *resize,
        f'  pixels = numpy.asarray(image, "float32"){reverse} / 255',
        f"  x = (pixels - {list(spec.mean)}) / {list(spec.std)}",
        '  session = onnxruntime.InferenceSession("expert.onnx", providers=["CPUExecutionProvider"])',
        f'  scores = session.run(None, {{"{card.input}": x{order}[None].astype("{spec.dtype}")}})[0][0]',
        '  print(open("labels.txt").read().splitlines()[scores.argmax()])',
    ]
    return "\n".join(lines) + "\n"
