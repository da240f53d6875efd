"""Photos over HTTP: the same answer as ``expertc predict``, and no image that brings the server down."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exiting
import pytest
from PIL import Image
from rainbow import picture
from served import Served, served

from expertc.bundle import MANIFEST, open_bundle, write_bundle

REJECT = {"score": "max-logit", "threshold": 2.0, "reject_rate": 0.05, "caught": 0.9, "images": 20, "others": 20}


@pytest.fixture(scope="module")
def judging(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert that knows none of these."""
    old = open_bundle(bundle)
    files: dict[str, bytes | Path] = {name: (bundle / name).read_bytes() for name in old.manifest["files"]}
    place = tmp_path_factory.mktemp("judging") / "warm.expert"
    return write_bundle(place, files, {**old.manifest, "reject": REJECT}, {})


@pytest.fixture(scope="module")
def server(judging: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server") / "err", judging, "--max-pixels=1000000") as found:
        yield found


def turned() -> bytes:
    """A photo that its EXIF data turn, with other colours above than below."""
    made = Image.new("RGB", (40, 60), (255, 0, 0))
    made.paste((255, 255, 0), (0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    made.save(out, "JPEG", exif=exif)
    return out.getvalue()


def encoded(kind: str, mode: str = "RGB", colour: Any = (250, 40, 30)) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (31, 17), colour).save(out, kind)
    return out.getvalue()


PHOTOS = {
    "turned": turned(), "png": encoded("PNG"), "webp": encoded("WEBP"), "bmp": encoded("BMP"), "gif": encoded("GIF"),
    "tiff": encoded("TIFF", "CMYK", (0, 200, 200, 5)), "grey": encoded("PNG", "I;16", 40_000),
    "blue": encoded("PNG", colour=(0, 0, 255)),
}  # fmt: skip


@pytest.mark.parametrize("what", PHOTOS)
@pytest.mark.parametrize("top", ["", "?top=1"])
def test_the_answer_is_that_of_the_command(server: Served, judging: Path, cli, tmp_path, what: str, top: str) -> None:
    (tmp_path / "photo").write_bytes(PHOTOS[what])
    code, out, _ = cli("predict", judging, tmp_path / "photo", "--json", *(["--top", "1"] if top else []))
    (expected,) = json.loads(out)
    answer = server.ask("POST", f"/predict{top}", PHOTOS[what], {"Content-Type": "image/anything"})
    assert (code, answer.status, answer.headers["content-type"]) == (0, 200, "application/json")
    assert answer.json == {**expected, "image": "#0"}
    assert "none_of_these" in expected


def test_what_was_found_is_counted(server: Served, tmp_path: Path) -> None:
    def counts() -> list[float]:
        name = "expertc_predictions_total"
        labels = ({"label": "reds", "kind": "class"}, {"label": "none_of_these", "kind": "none_of_these"})
        return [server.metric(name, **each) for each in labels]

    before = counts()
    answered = server.metric("expertc_requests_total", route="predict", status="200")
    for colour in ("reds", "reds", (10, 10, 10)):
        assert server.ask("POST", "/predict", picture(tmp_path / "a.png", colour).read_bytes()).status == 200
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [2, 1]
    assert server.metric("expertc_requests_total", route="predict", status="200") == answered + 3
    assert server.metric("expertc_request_seconds_count", route="predict") >= answered + 3
    assert server.metric("expertc_requests_in_flight") == 1  # the one that asks
    version = server.ask("GET", "/v2/models/warm").json["versions"][0]
    assert server.metric("expertc_release_info", release=version, name="warm") == 1
    assert server.ask("GET", "/metrics").headers["content-type"].startswith("text/plain; version=")


def test_exits(cli, tmp_path: Path) -> None:
    path = exiting.bundle(tmp_path / "exits.expert", "staged")
    photo = picture(tmp_path / "dark.png", (30, 20, 10))
    with served(tmp_path / "err", path, "--exit=2") as server:
        (expected,) = json.loads(cli("predict", path, photo, "--json", "--exit", "2").out)
        assert expected["exit"] == 2
        assert server.ask("POST", "/predict", photo.read_bytes()).json == {**expected, "image": "#0"}
        assert server.metric("expertc_exits_total", exit="2") == 1
        kind = {"fine": "class", "coarse": "category"}[expected["granularity"]]
        label = expected["predictions"][0]["label"]
        assert server.metric("expertc_predictions_total", kind=kind, label=label) == 1


def png(width: int, height: int, data: bytes) -> bytes:
    def chunk(name: bytes, held: bytes) -> bytes:
        return struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def peak(server: Served) -> int:
    """The most memory that the server has had, in bytes."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return 1024 * int(text.partition("VmHWM:")[2].split()[0])


REFUSED = {
    "nothing": (b"", "empty"),
    "text": (b"a photo of a shark", "not an image"),
    "a program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "not an image"),
    "half a photo": (PHOTOS["png"][:50], "damaged"),
    "a bomb": (png(20_000, 20_000, zlib.compress(bytes(400_020_000))), "more than 1 million pixels"),
    "one pixel too many": (png(1_000_001, 1, zlib.compress(bytes(1_000_002))), "more than 1 million pixels"),
    "the largest header": (png(2**31 - 1, 2**31 - 1, b""), "million pixels"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_photo_is_refused(server: Served, what: str) -> None:
    body, says = REFUSED[what]
    before = peak(server)
    answer = server.ask("POST", "/predict", body)
    assert (answer.status, [*answer.json]) == (400, ["error"])
    assert says in answer.json["error"]
    assert peak(server) < before + 100e6  # the bomb would take four
    assert server.ask("POST", "/predict", PHOTOS["png"]).status == 200


@pytest.mark.parametrize("query", ["top=0", "top=-1", "top=x", "top=", "top=1.0", "top=٣", "top=" + "9" * 5000])
def test_a_number_of_labels_that_makes_no_sense(server: Served, query: str) -> None:
    from urllib.parse import quote

    answer = server.ask("POST", f"/predict?{quote(query, safe='=')}", PHOTOS["png"])
    assert answer.status == 400
    assert "top" in answer.json["error"]


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"Content-Encoding": "gzip"}, "Content-Encoding"),
        ({"Content-Type": "multipart/form-data; boundary=x"}, "--data-binary"),
    ],
)
def test_a_body_that_is_wrapped(server: Served, headers: dict[str, str], says: str) -> None:
    answer = server.ask("POST", "/predict", PHOTOS["png"], headers)
    assert answer.status == 415
    assert says in answer.json["error"]


def test_a_release_is_known_by_its_manifest(server: Served, judging: Path) -> None:
    from hashlib import sha256

    digest = sha256((judging / MANIFEST).read_bytes()).hexdigest()
    assert server.ask("GET", "/v2/models/warm").json["versions"] == [digest[:16]]
