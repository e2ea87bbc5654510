"""Bad images among good ones, and folders that cannot be meant: named by check_data, left out or refused."""

import os
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .making import GREY, chunk, encoded, png
from .table import Case, check, parameters

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8))
WHOLE = {"PNG": encoded(NOISE), "JPEG": encoded(NOISE, "JPEG"), "WEBP": encoded(NOISE, "WEBP", lossless=True)}
BOMB = zlib.compress(bytes(1 << 28), 9)  # 256 MiB in 256 KiB


def image(data: bytes, name: str = "bad.png"):
    return lambda folder: (folder / "photos" / "cat" / name).write_bytes(data)


def bad(name: str, data: bytes, *says: str, file: str = "bad.png") -> Case:
    """A file beside the eight good images: check_data names it and the set stays usable."""
    said = (f"photos/cat/{file}", *says, "bad images: 1", "training skips up to 10 bad images")
    return Case(name, image(data, file), "check_data photos", said, code=0, needs=("photos",))


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def special(name: str, make) -> Case:
    """Something that only looks like an image."""
    said = ("photos/cat/bad.png", name, "expected an image", "bad images: 1")
    return Case(f"{name} for an image", make, "check_data photos", said, code=0, needs=("photos",))


def link(target: str, name: str = "photos/cat/bad.png"):
    return lambda folder: (folder / name).symlink_to(target)


def bind(folder: Path) -> None:
    here = os.getcwd()
    os.chdir(folder / "photos" / "cat")  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("bad.png")
    os.chdir(here)


def huge(folder: Path) -> None:
    with (folder / "photos" / "cat" / "bad.png").open("wb") as file:
        file.write(GREY)
        file.truncate(3 << 30)  # takes no room


DAMAGED = [
    bad("an empty image", b"", "the file is empty"),
    *(
        bad(f"{kind} cut off at {tenths}0 percent", data[: len(data) * tenths // 10], "not a readable image")
        for kind, data in WHOLE.items()
        for tenths in ((1, 3, 5, 7, 9) if kind == "PNG" else (1, 5, 9))
    ),
    bad("a PNG with a flipped byte in its header", flipped(WHOLE["PNG"], 18), "not a readable image"),
    bad("a PNG with a flipped byte in its data", flipped(WHOLE["PNG"], 400), "not a readable image"),
    bad("a JPEG with flipped tables", flipped(WHOLE["JPEG"], 22), "not a readable image"),
    bad("text called an image", b"<html>not found</html>", "of no known format"),
    bad("an archive called an image", b"PK\3\4" + bytes(100), "of no known format"),
    bad("PostScript called an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "of no known format"),
    bad("65500 x 65500 pixels declared", png(65_500, 65_500), "more pixels than the limit of 100,000,000"),
    bad("just over the limit of pixels", png(10_001, 10_000), "10001 x 10000 pixels, more than the limit"),
    bad("no pixel at all", png(0, 0), "not a readable image"),
    bad("a bomb in a text chunk", png(more=chunk(b"zTXt", b"k\0\0" + BOMB)), "too large"),
    bad("a bomb in an international text chunk", png(more=chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)), "too large"),
    bad("a bomb in a colour profile", png(more=chunk(b"iCCP", b"k\0\0" + BOMB)), "too large"),
    bad(
        "a GIF of a huge screen", b"GIF89a" + struct.pack("<HH", 65_500, 65_500) + bytes(20), "bad.gif", file="bad.gif"
    ),
    bad("a PNM of endless digits", b"P6 " + b"9" * 100_000 + b" 1 255\n", "not a readable image", file="bad.ppm"),
    bad("floating-point pixels", encoded(Image.new("F", (4, 4), 0.5), "TIFF"), "no defined range", file="bad.tif"),
    bad("a name with a line break and an escape", b"x", "bad\\n\\x1b[2J.png", file="bad\n\x1b[2J.png"),
    bad("a name that is no UTF-8", b"x", "bad\\xff.png", file="bad\udcff.png"),
    bad("a name of 255 bytes", b"x", "not a readable image", file="n" * 251 + ".png"),
    special("is a named pipe", lambda folder: os.mkfifo(folder / "photos/cat/bad.png")),
    special("is a socket", bind),
    special("is a device", link("/dev/zero")),
    special("is a broken link", link("nowhere")),
    special("Too many levels of symbolic links", link("bad.png")),
    Case(
        "an image of 3 GiB",
        huge,
        "check_data photos",
        ("photos/cat/bad.png", "more than the limit of 1,073,741,824", "bad images: 1"),
        code=0,
        needs=("photos",),
    ),
]
# As the line of the name is not one of the message: what is said has the name escaped.
DAMAGED = [
    case if "\n" not in case.says[0] and "\udcff" not in case.says[0] else Case(**vars(case) | {"says": case.says[1:]})
    for case in DAMAGED
]


def eleven_bad(folder: Path) -> None:
    for number in range(11):
        (folder / "photos" / "cat" / f"bad{number}.png").write_bytes(b"")


def other_case(folder: Path) -> None:
    (folder / "photos" / "Cat").mkdir()
    (folder / "photos" / "Cat" / "0.png").write_bytes(GREY)


LAYOUTS = [
    Case(
        "pre-tokenisation of too many bad images",
        eleven_bad,
        "pretokenize photos out --tokenizer tokenizer --device cpu",
        ("11 images of 19 cannot be used, more than the 10", "check_data"),
        needs=("photos", "tokenizer"),
        may_leave=("out/begun.json",),
    ),
    Case(
        "an empty class",
        lambda folder: (folder / "photos" / "eel").mkdir(),
        "check_data photos",
        ("photos/eel holds no image", "fill it or remove it"),
        needs=("photos",),
    ),
    Case(
        "classes that differ in case only",
        other_case,
        "check_data photos",
        ("'Cat' and 'cat' in photos differ only in case",),
        needs=("photos",),
    ),
    Case("no image at all", lambda folder: (folder / "photos").mkdir(), "check_data photos", ("holds no images",)),
    Case(
        "a class that is a loop of links",
        link("eel", "photos/eel"),
        "check_data photos",
        ("photos/eel cannot be read (Too many levels of symbolic links)",),
        needs=("photos",),
    ),
    Case(
        "a link to a folder inside a class",
        link("../dog", "photos/cat/more"),
        "check_data photos",
        ("links to folders are followed for classes alone, not for cat/more", "images: 8"),
        code=0,
        needs=("photos",),
    ),
    Case(
        "images that are a named pipe",
        lambda folder: os.mkfifo(folder / "pipe"),
        "check_data pipe",
        ("pipe is a named pipe; expected a folder of images",),
    ),
    Case("images that are a device", link("/dev/zero", "zero"), "check_data zero", ("zero is a device; expected",)),
    Case("images that are a loop of links", link("loop", "loop"), "check_data loop", ("loop cannot be looked at",)),
    Case("images that are not there", lambda folder: None, "check_data none", ("none does not exist; expected",)),
]


@pytest.mark.parametrize("case", parameters(DAMAGED, LAYOUTS))
def test_images(case: Case, tmp_path: Path, good: Path, server):
    said = check(case, tmp_path, good, server)
    assert "\x1b" not in said


def test_an_unreadable_folder_is_named(tmp_path: Path, monkeypatch):
    """Nothing is denied to root, as whom tests may run: the system's refusal is put in its place."""
    from robustok.core.errors import UserError
    from robustok.data.images import open_source

    (tmp_path / "cat" / "locked").mkdir(parents=True)
    (tmp_path / "cat" / "0.png").write_bytes(GREY)
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"folder .*locked cannot be read \(Permission denied\)"):
        open_source(tmp_path)
