"""Bad files of numbers: .npz of images and statistics, shards of tokens and latents, .jsonl, rows of figures."""

import io
import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from .forging import file
from .table import Case, check, parameters

IMAGES = np.zeros((4, 8, 8, 3), np.uint8)
NETWORK = "--network classifier --weights classifier"
SAMPLES = f"evaluate reference bad.npz --save out.npz {NETWORK}"
REFERENCE = f"evaluate samples samples.npz --reference bad.npz --output out {NETWORK}"
AGAIN = "make or download it again"
GOOD = {"mu": np.zeros(16), "sigma": np.eye(16)}  # statistics of the classifier's features


def array(shape: tuple[int, ...], descr: str = "|u1", data: bytes = b"", version: int = 1, more: str = "") -> bytes:
    """An .npy file that declares this shape and type."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}{more}, }}\n".encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(header)) + header + data


def records(**content: bytes) -> bytes:
    """An .npz file of these members, compressed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def lying(archive: bytes, size: int) -> bytes:
    """An archive whose member of this size is said to have 800 MB more."""
    return archive.replace(struct.pack("<I", size), struct.pack("<I", size + 8 * 10**8))


def saved(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npz(name: str, content: bytes, *says: str, argv: str = SAMPLES) -> Case:
    return Case(name, file("bad.npz", content), argv, ("bad.npz", *says), needs=("classifier", "samples.npz"))


def statistics(name: str, *says: str, **arrays: np.ndarray) -> Case:
    """A reference with some of its arrays changed."""
    return npz(name, saved(**GOOD | arrays), *says, argv=REFERENCE)


def flipped() -> bytes:
    data = bytearray(saved(arr_0=np.random.default_rng(0).integers(0, 255, IMAGES.shape, np.uint8)))
    data[500] ^= 255
    return bytes(data)


ABOUT = {"name": "x", "protocol": None, "weights": None, "transform": "as stored", "size": [8, 8]}


def about(**entries: object) -> np.ndarray:
    return np.array(json.dumps(ABOUT | entries))


NPZ = [
    npz("an empty npz", b"", "cannot be read as an .npz file", AGAIN),
    npz("text as npz", b"0.1 0.2", "cannot be read as an .npz file", AGAIN),
    npz("a cut npz", saved(arr_0=IMAGES)[:-50], "cannot be read as an .npz file", AGAIN),
    npz("a flipped byte in npz", flipped(), "bad.npz", AGAIN),
    npz("an npz of nothing", saved(), "no array 'arr_0'"),
    npz("an npz of text", records(arr_0=b"hello"), "cannot be read as an .npz file", AGAIN),
    npz("75 GB of images", records(arr_0=array((100_000, 512, 512, 3))), "but has 0 bytes", AGAIN),
    npz("2**62 images", records(arr_0=array((2**62, 8, 8, 3))), "but has 0 bytes", AGAIN),
    npz("a size beyond 64 bits", records(arr_0=array((2**64, 8, 8, 3))), "bad.npz", AGAIN),
    npz("a negative number of images", records(arr_0=array((-1, 8, 8, 3))), "bad.npz", AGAIN),
    npz("a negative side", records(arr_0=array((1, -8, -8, 3), data=bytes(192))), "bad.npz", AGAIN),
    npz("images without pixels", records(arr_0=array((9, 0, 8, 3))), "0 x 8 pixels"),
    npz("a billion images without data", records(arr_0=array((0, 8, 8, 3))), "found 0 image"),
    npz("one image", saved(arr_0=IMAGES[:1]), "found 1 image", "at least two"),
    npz("more data than images", records(arr_0=array((1, 8, 8, 3), data=bytes(500))), "but has 500 bytes", AGAIN),
    npz("floating-point images", saved(arr_0=IMAGES.astype(np.float32)), "scale to 0..255"),
    npz("grey images", saved(arr_0=IMAGES[..., 0]), "expected uint8 (N, H, W, 3)"),
    npz("channels first", saved(arr_0=IMAGES.transpose(0, 3, 1, 2)), "expected uint8 (N, H, W, 3)"),
    npz("Fortran order", saved(arr_0=np.asfortranarray(IMAGES)), "Fortran order"),
    npz("a structured type", saved(arr_0=np.zeros(4, [("a", "u1")])), "expected uint8"),
    npz("a version of the future", records(arr_0=array((4, 8, 8, 3), data=bytes(768), version=9)), "bad.npz", AGAIN),
    npz("code for a shape", records(arr_0=array((4,)).replace(b"(4,)", b"f()+")), "bad.npz", AGAIN),
    npz("a shape of text", records(arr_0=array((4,)).replace(b"(4,)", b"'4,'")), "bad.npz", AGAIN),
    npz("code for a type", records(arr_0=array((4,), "open('canary', 'w')")), "bad.npz", AGAIN),
    npz("a deep header of npy", records(arr_0=array((4,), more=f", 'x': {'(' * 9000}")), "bad.npz", AGAIN),
    npz(
        "too few labels",
        saved(arr_0=IMAGES, arr_1=np.zeros(5, int)),
        "arr_1 is int64 (5,)",
        "leave it out",
    ),
    npz("labels of text", saved(arr_0=IMAGES, arr_1=np.array(list("abcd"))), "arr_1 is <U1", "leave it out"),
    npz("negative labels", saved(arr_0=IMAGES, arr_1=np.arange(4) - 1), "arr_1 holds -1..2", "leave it out"),
    npz("labels of a class too many", saved(arr_0=IMAGES, arr_1=np.full(4, 10**12)), "arr_1 holds", "leave it out"),
    statistics("mu as a matrix", "mu (4, 4) does not fit sigma", mu=np.zeros((4, 4))),
    statistics("an empty mu", "mu (0,) does not fit", mu=np.zeros(0), sigma=np.zeros((0, 0))),
    statistics("another sigma", "does not fit sigma (8, 8)", sigma=np.eye(8)),
    statistics("no sigma", "mu (16,) does not fit", sigma=np.array(1.0)),
    statistics("mu of text", "mu (<U1)", mu=np.array(["a"] * 16)),
    statistics("mu of NaN", "mu (float64) holds something else than finite", mu=np.full(16, np.nan)),
    statistics("sigma of infinity", "sigma (float64) holds something else", sigma=np.full((16, 16), np.inf)),
    statistics(
        "statistics of other features", "reference of 8 features", "evaluate reference", mu=np.zeros(8), sigma=np.eye(8)
    ),
    statistics("a count of one", "count is", count=np.int64(1)),
    statistics("a count of text", "count is", count=np.array("many")),
    statistics("a list of counts", "count is", count=np.arange(3)),
    statistics("features of another width", "do not fit a mean of 16", features=np.zeros((4, 8), np.float32)),
    statistics("features of whole numbers", "features torch.int64", features=np.zeros((4, 16), int)),
    statistics("features of NaN", "are not finite", features=np.full((4, 16), np.nan)),
    statistics("about as a list", "cannot be read as saved statistics", about=np.array("[]")),
    statistics("about as no JSON", "cannot be read as saved statistics", about=np.array("{")),
    statistics("a deep about", "nested too deeply", about=np.array("[" * 10**5)),
    statistics("a name of numbers", "its name is 3", about=about(name=3)),
    statistics("three sides", "cannot be read as saved statistics", about=about(size=[1, 2, 3])),
    statistics(
        "of another protocol", "other features (inception)", "evaluate reference", about=about(protocol="inception")
    ),
    npz(
        "a covariance of 2 TB",
        records(mu=array((500_000,), "<f8", bytes(4_000_000)), sigma=array((500_000, 500_000), "<f8")),
        "sigma",
        AGAIN,
        argv=REFERENCE,
    ),
    npz(
        "a mean of 800 MB",
        lying(records(mu=array((10**8,), "<f8"), sigma=array((1,), "<f8", bytes(8))), len(array((10**8,), "<f8"))),
        "mu is float64 (100000000,), 800,000,000 bytes; expected at most",
        argv=REFERENCE,
    ),
]


def shard(name: str, needs: str, array: str, content: np.ndarray | bytes, *says: str, argv: str | None = None) -> Case:
    """A folder of tokens or latents with another array in its only shard."""

    def make(folder: Path) -> None:
        path = folder / needs / "shard-00000" / f"{array}.npy"
        path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)

    argv = argv or {"tokens": "pretokenize tokens out.jsonl", "latents": "pretokenize latents out.json"}[needs]
    return Case(name, make, argv, says, needs=(needs,))


def manifest(name: str, needs: str, *says: str, **entries: object) -> Case:
    """The same with other entries in its manifest.json."""

    def make(folder: Path) -> None:
        path = folder / needs / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return Case(name, make, f"pretokenize {needs} out.json{'l' * (needs == 'tokens')}", says, needs=(needs,))


def removed(name: str, path: str, *says: str) -> Case:
    return Case(name, lambda folder: (folder / path).unlink(), "pretokenize tokens out.jsonl", says, needs=("tokens",))


ROWS = np.zeros((8, 4), np.uint16)
PLACE = "manifest.json is no manifest of"
SHARDS = [
    shard("cut tokens", "tokens", "tokens", array((8, 4), "<u2", bytes(10)), "tokens.npy cannot be read", "remove its"),
    shard("tokens of 1 TB", "tokens", "tokens", array((2**35, 4), "<u2"), "tokens.npy cannot be read", "remove its"),
    shard("tokens of text", "tokens", "tokens", b"1 2 3", "tokens.npy cannot be read", "remove its shard"),
    shard("a zip as tokens", "tokens", "tokens", saved(a=ROWS), "tokens.npy cannot be read", "remove its shard"),
    shard("no bytes as tokens", "tokens", "tokens", b"", "tokens.npy cannot be read", "remove its shard"),
    shard("tokens of int64", "tokens", "tokens", ROWS.astype(int), "tokens.npy: int64 (8, 4), expected uint16"),
    shard("tokens of one axis", "tokens", "tokens", ROWS[:, 0], "tokens.npy: uint16 (8,), expected"),
    shard("too few tokens", "tokens", "tokens", ROWS[:3], "differ in their number of rows", "write it again"),
    shard("labels of floats", "tokens", "labels", np.zeros(8), "labels.npy: float64 (8,), expected int64"),
    shard("labels as a matrix", "tokens", "labels", np.zeros((8, 1), int), "labels.npy: int64 (8, 1)"),
    shard("a label too large", "tokens", "labels", np.full(8, 2), "labels 2..2 of the 2 classes"),
    shard("a negative label", "tokens", "labels", np.full(8, -1), "labels -1..-1 of the 2 classes"),
    shard("too few ids", "tokens", "ids", np.arange(3), "differ in their number of rows"),
    shard("latents of other type", "latents", "latents", np.zeros((8, 4, 4)), "latents.npy: float64 (8, 4, 4)"),
    shard("latents of other shape", "latents", "latents", np.zeros((8, 4, 5), np.float32), "latents (8, 4, 5)"),
    shard("latents cut off", "latents", "latents", array((8, 4, 4), "<f4", bytes(9)), "latents.npy cannot be read"),
    removed("no tokens", "tokens/shard-00000/tokens.npy", "tokens.npy does not exist"),
    removed("no manifest of tokens", "tokens/manifest.json", "expected a folder of", "run the same command again"),
    manifest("shards elsewhere", "tokens", "'../../etc'", "without a path", shards=["../../etc"]),
    manifest("shards at the root", "tokens", "'/etc'", "without a path", shards=["/etc"]),
    manifest("shards of numbers", "tokens", PLACE, shards=[1, 2]),
    manifest("shards as text", "tokens", PLACE, shards="shard-00000"),
    manifest("no shards", "tokens", "holds no tokens", shards=[]),
    manifest("a shard twice", "tokens", "differ in their number of rows", shards=["shard-00000"] * 2),
    manifest("a shard that is not there", "tokens", "shard-7", "does not exist", shards=["shard-7"]),
    manifest("classes as a number", "tokens", PLACE, class_names=10**12),
    manifest("a count of text in a manifest", "tokens", PLACE, count="8"),
    manifest("a count of a trillion", "tokens", "differ in their number of rows", count=10**12),
    manifest("a version of the future in a manifest", "tokens", "version 99, expected 1", version=99),
    manifest("a tokenizer of numbers", "tokens", PLACE, tokenizer=3),
    manifest("a codebook of text", "tokens", "codebook_size is 'many'", codebook_size="many"),
    manifest("a codebook of a billion", "tokens", "codebook_size is 1000000000", codebook_size=10**9),
    manifest("a mean of text", "latents", "mean is", mean=["a"] * 4),
    manifest("a mean of two", "latents", "mean is", "expected 4 numbers", mean=[0.0, 1.0]),
    manifest("a deviation of zero", "latents", "std is", std=[0.0] * 4),
    manifest("a mean of NaN", "latents", "mean is", mean=[float("nan")] * 4),
    manifest("a latent shape of text", "latents", "latent_shape", latent_shape="4 x 4"),
]

LINE = '{"class_id": 0, "tokens": [1, 2, 3]}\n'
IMPORT = "pretokenize bad.jsonl out --codebook_size 16 --num_classes 2"


def jsonl(name: str, content: bytes | str, *says: str) -> Case:
    return Case(name, file("bad.jsonl", content), IMPORT, ("bad.jsonl", *says))


JSONL = [
    jsonl("no lines", "", "the file is empty"),
    jsonl("blank lines", "\n\n\n", "the file is empty"),
    jsonl("lines of text", "hello\n" * 3, "no valid line", "line 1"),
    jsonl("lines of zeros", bytes(3000), "no valid line", "line 1"),
    jsonl("more bad lines than good", LINE + "x\n" * 20, "20 of 21 lines are not valid", "Nothing was written"),
    jsonl("a line of 2 MB", LINE + "[" + "1," * 10**6 + "1]\n", "line 2 has over 1,048,576 bytes"),
    jsonl("deep lines", ("[" * 50_000 + "\n") * 3, "no valid line", "line 1"),
    jsonl("a million bad lines", LINE + "x\n" * 10**6, "lines are not valid", "repair or remove them"),
    jsonl("tokens beyond the codebook", LINE.replace("3]", "16]") * 2, "expected 0..15, found 1..16"),
    jsonl("negative tokens", LINE.replace("3]", "-3]"), "expected 0..15, found -3"),
    jsonl("tokens of huge size", LINE.replace("3]", "9" * 400 + "]"), "no valid line"),
    jsonl("tokens of 5000 digits", LINE.replace("3]", "9" * 5000 + "]"), "no valid line"),
    jsonl("ragged tokens", LINE.replace("3]", "[3]]"), "no valid line"),
    jsonl("no tokens in a line", '{"class_id": 0, "tokens": []}\n', "expected whole numbers"),
    jsonl("a class too large", LINE.replace("0", "2"), "class_id: expected a whole number in 0..1"),
    jsonl("a class of true", LINE.replace("0", "true"), "class_id: expected a whole number"),
    jsonl("a class of NaN", LINE.replace("0", "NaN"), "class_id: expected a whole number"),
]

ROW = {"name": "a", "codebook_size": 256, "rfid": 1.0, "pfid": 2.0, "gfid": 3.0}


def figures(name: str, rows: object, *says: str) -> Case:
    content = rows if isinstance(rows, bytes | str) else json.dumps(rows)
    return Case(name, file("bad.json", content), "explain correlation bad.json --output out", ("bad.json", *says))


FIGURES = [
    figures("figures of no JSON", "{", "cannot be read as JSON"),
    figures("figures not in UTF-8", b'["\xff"]', "cannot be read as JSON"),
    figures("deep figures", "[" * 10**5, "cannot be read as JSON", "nested too deeply"),
    figures("figures of 40 MB", b"[" + b"1," * (20 << 20) + b"1]", "larger than 33,554,432 bytes"),
    figures("figures as an object", {"a": 1}, "entry 0 lacks"),
    figures("figures of lists", [[1, 2]], "entry 0 lacks"),
    figures("figures without gFID", [{k: v for k, v in ROW.items() if k != "gfid"}], "entry 0 lacks gfid"),
    figures("figures of text", [ROW | {"rfid": "low"}], "rfid is 'low', expected a finite number"),
    figures("figures of NaN", [ROW | {"rfid": float("nan")}], "rfid is nan, expected a finite number"),
    figures("figures of 400 digits", [ROW | {"rfid": 10**400}], "rfid is 1000", "expected a finite number"),
    figures("figures of true", [ROW | {"codebook_size": True}], "codebook_size is True"),
]


@pytest.mark.parametrize("case", parameters(NPZ, SHARDS, JSONL, FIGURES))
def test_numbers(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)
