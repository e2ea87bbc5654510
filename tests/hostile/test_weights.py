"""Bad files of weights: damaged, of another kind, or made to exhaust memory and time."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustok.core.files import sha256

from .forging import (
    doubled,
    doubled_lists,
    entry,
    file,
    in_dict,
    named,
    safetensors,
    saved,
    text,
    torch_old,
    torch_zip,
    whole,
)
from .table import Case, check, parameters

GOLDEN = Path(__file__).parents[1] / "golden"
PUBLISHED = GOLDEN / "rar" / "pytorch_model.bin"
READ_PT, READ = "cannot be read as a torch checkpoint", "x.safetensors cannot be read as safetensors"
CURE = "fetch it again"
PLAIN = {"model": {"x": torch.ones(4)}}
STORAGE = b"(" + text("storage") + named("torch.FloatStorage") + text("0") + text("cpu") + b"K\x04tQ"
REBUILD = named("torch._utils._rebuild_tensor_v2")


def tensor(size: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85", offset: bytes = b"K\x00") -> bytes:
    """What pushes a tensor over a storage of four numbers."""
    return REBUILD + b"(" + STORAGE + offset + size + stride + b"\x89}tR"


def pt(name: str, content: bytes, *says: str, argv: str = "convert bad.pt out", **options) -> Case:
    return Case(name, file("bad.pt", content), argv, ("bad.pt", *says), **options)


def cut(data: bytes, share: float) -> bytes:
    return data[: int(share * len(data))]


def bomb() -> bytes:
    return torch_zip(whole(b"}"), {"byteorder": b"\0" * (3 << 26)}, compressed=("byteorder",))


EVALUATE = "evaluate tokenizer bad.pt --images digits --network classifier --weights classifier --output out"


def names(size: int) -> bytes:
    """A zip file whose end says that its table of names has so many bytes."""
    return bytes(size) + b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, size, 0, 0)


FOUR = struct.pack("<4f", 1, 2, 3, 4)
LARGEST = b"\x8a\x08" + b"\xff" * 7 + b"\x7f"  # 2**63 - 1
OLD, NEW = saved(PLAIN, old=True), saved(PLAIN)
PICKLES = [
    pt("an empty file", b"", READ_PT, CURE),
    pt("text", b"hello, these are my weights", "is a text file; expected weights"),
    pt("a Git-LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid x", "git lfs pull"),
    pt("a web page", b"<!DOCTYPE html><html>", "web page", "fetch"),
    pt("a server's answer", b'<?xml version="1.0"?><Error/>', "XML", "fetch"),
    pt("a cut zip", cut(PUBLISHED.read_bytes(), 0.5), READ_PT, "end of a zip file is missing"),
    pt("a cut old file", cut(OLD, 0.6), READ_PT, "truncated"),
    pt("an old file without its last byte", OLD[:-1], READ_PT, "truncated"),
    pt("an old file cut in its first pickle", OLD[:9], READ_PT, "truncated"),
    pt("a plain pickle", whole(b"}"), READ_PT, "torch.save did not write"),
    pt("a tar of 2016", b"storages".ljust(257, b"\0") + b"ustar\0" + b"\0" * 500, "tar archive", "newer torch"),
    pt("a zip of something else", b"PK\5\6" + b"\0" * 18, "without data.pkl"),
    pt("a number", saved(3), "holds a int", "expected a state dict"),
    pt("a whole module", saved([torch.ones(1)]), "holds a list", "expected a state dict"),
    pt("no tensors", saved({"model": {}, "epoch": 3}), "no known layout", "expected tensors"),
    pt("weights of another network", saved({"model": {"conv.w": torch.ones(3)}}), "no known layout: found conv.w"),
    pt("a table of 16 MB of names", names(20 << 20), READ_PT, "bytes of names, expected at most"),
    pt("big-endian", torch_zip(whole(b"}"), {"byteorder": b"big"}), "big-endian"),
    pt("compressed pickle", torch_zip(whole(b"N0" * 10**6 + b"}"), compressed=("data.pkl",)), "compressed data.pkl"),
    pt("compressed byteorder", bomb(), "compressed byteorder"),
    pt("compressed storage", torch_zip(whole(b"}"), {"data/0": bytes(1 << 20)}, compressed=("data/0",)), "compressed"),
    pt("pairs of pairs", torch_zip(in_dict(doubled(b"]"))), "more values than"),
    pt("pairs of pairs as a key", torch_zip(whole(b"}" + doubled(b")") + b"Ns")), "more values than"),
    pt("old pairs of pairs", torch_old(in_dict(doubled(b")"))), "more values than"),
    pt("lists of lists", torch_zip(in_dict(doubled_lists())), "values, 62 one in the other"),
    pt("a list in itself", torch_zip(in_dict(b"]q\x00h\x00a")), "holds itself"),
    pt("a dict in itself", torch_zip(in_dict(b"}q\x00" + text("x") + b"h\x00s")), "holds itself"),
    pt("deep lists", torch_zip(in_dict(b"]" * 100_000 + b"a" * 99_999)), READ_PT, "nested too deeply"),
    pt("a table of 4 billion objects", torch_zip(in_dict(b"}r\xff\xff\xff\xff")), "a table of 4,294,967,295"),
    pt("a string of 8 EB", torch_zip(whole(b"\x8d" + b"\xff" * 7 + b"\x7f")), READ_PT, CURE),
    pt("bytes of 8 GB", torch_zip(whole(b"\x96" + struct.pack("<Q", 8 << 30)), {}), READ_PT, CURE),
    pt("a number of 100,000 bytes", torch_zip(in_dict(b"\x8b" + struct.pack("<i", 10**5) + b"\x01" * 10**5)), "bits"),
    pt("many operations", torch_zip(whole(b"}" + b"N0" * 1_100_000)), "more values than"),
    pt("not a storage", torch_zip(in_dict(b"(" + text("module") + b"NNNNtQ"), {"data/0": FOUR}), READ_PT),
    pt("a storage that is not there", torch_zip(in_dict(STORAGE)), READ_PT, CURE),
    pt("a storage of other size", torch_zip(in_dict(STORAGE), {"data/0": FOUR * 2}), "32 bytes stored, 16 expected"),
    pt("a tensor beyond its storage", torch_zip(in_dict(tensor(b"K\x05\x85")), {"data/0": FOUR}), READ_PT),
    pt("a negative offset", torch_zip(in_dict(tensor(offset=b"J\xff\xff\xff\xff")), {"data/0": FOUR}), READ_PT),
    pt(
        "a tensor of a billion from four numbers",
        torch_zip(in_dict(tensor(b"J\0\0\0\x40\x85", b"K\x00\x85")), {"data/0": FOUR}),
        "1073741824",
    ),
    pt("an old storage of other size", torch_old(in_dict(STORAGE), ("0",), struct.pack("<q", 9) + FOUR), "9 elements"),
    pt(
        "an old storage of 8 EB",
        torch_old(in_dict(STORAGE.replace(b"K\x04t", LARGEST + b"t"))),
        READ_PT,
    ),
    pt("no argument", torch_zip(whole(b"R")), READ_PT, CURE),
    pt("nothing known of that number", torch_zip(whole(b"h\x07")), READ_PT, CURE),
    pt("read by doctor", cut(NEW, 0.7), READ_PT, argv="doctor --tokenizer bad.pt"),
    pt("read by evaluate", cut(OLD, 0.7), READ_PT, argv=EVALUATE, needs=("classifier",)),
    pt("read by sample", cut(NEW, 0.7), READ_PT, argv="sample --generator bad.pt --output out"),
    pt("read by pretokenize", cut(OLD, 0.7), READ_PT, argv="pretokenize digits out --tokenizer bad.pt"),
]


def published(name: str, change: Callable[[dict], object], *says: str) -> Case:
    """A published generator with something changed in its state dict."""

    def make(folder: Path) -> None:
        state = dict(torch.load(PUBLISHED, weights_only=True))
        change(state)
        torch.save(state, folder / "bad.pt")

    return Case(name, make, "convert bad.pt out", ("bad.pt", *says))


def rescaled(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], object]:
    return lambda state: state.update({key: change(state[key])})


LAYER = "blocks.0.attn.qkv.weight"
LAYOUTS = [
    published("a tensor too few", lambda state: state.pop(LAYER), "missing", LAYER),
    published("a tensor too many", lambda state: state.update({"extra.weight": torch.ones(1)}), "unexpected", "extra"),
    published("another shape", rescaled(LAYER, lambda t: t[:-1]), "of another shape", "instead of"),
    published("whole numbers", rescaled(LAYER, lambda t: t.long()), "of another type", "torch.int64 instead of"),
    published("complex numbers", rescaled(LAYER, lambda t: t.to(torch.complex64)), "ComplexFloatStorage"),
    published("NaN", rescaled(LAYER, lambda t: t * float("nan")), "NaN or infinity", "earlier checkpoint"),
    published("infinity", rescaled(LAYER, lambda t: t / 0), "NaN or infinity"),
    published("a table without axes", rescaled("pos_embed", lambda t: torch.tensor(1.0)), "bad.pt"),
    published("an empty table", rescaled("embeddings.weight", lambda t: t[:0]), "bad.pt"),
    published("block 999999999", lambda state: state.update({"blocks.999999999.x": torch.ones(1)}), "999999999"),
    published("a block of 5000 digits", lambda state: state.update({f"blocks.{'9' * 5000}.x": torch.ones(1)}), "999"),
]


def st(name: str, content: bytes, *says: str) -> Case:
    return Case(name, file("x.safetensors", content), "convert x.safetensors out", says)


def many(count: int) -> bytes:
    return safetensors(b"{" + b",".join(b'"%d":{}' % n for n in range(count)) + b"}")


SAFETENSORS = [
    st("an empty safetensors", b"", READ, CURE),
    st("a header without end", safetensors({"x": entry()}, FOUR[:4], size=10**4), READ),
    st("a header larger than memory", safetensors({}, size=2**63 - 1), READ, "a header of 9,223,372,036,854,775,807"),
    st("a header of no JSON", safetensors(b"hello"), READ, CURE),
    st("a header of a list", safetensors(b"[1, 2]"), READ),
    st("a header that is not UTF-8", safetensors(b'{"\xff": 1}'), READ),
    st("a deep header", safetensors(b'{"a":' + b"[" * 10**5 + b"]" * 10**5 + b"}"), READ, "nested too deeply"),
    st("a million tensors", many(10**6), READ, "at most"),
    st("110,000 tensors", many(110_000), READ, "110,000 tensors"),
    st("a name twice", safetensors(b'{"a":1,"a":2}'), READ, "there twice"),
    st("overlapping tensors", safetensors({"a": entry(), "b": entry()}, FOUR[:4]), READ),
    st("a gap", safetensors({"a": entry(start=4, stop=8)}, FOUR[:8]), READ),
    st("bytes that are not there", safetensors({"a": entry((4,), 0, 16)}, FOUR[:8]), READ),
    st("more bytes than tensors", safetensors({"a": entry()}, FOUR), READ),
    st("a size that does not fit", safetensors({"a": entry((9,))}, FOUR[:4]), READ),
    st("a size beyond 64 bits", safetensors({"a": entry((2**62, 8))}, FOUR[:4]), READ),
    st("a negative size", safetensors({"a": entry((-1,))}, FOUR[:4]), READ),
    st("an unknown type", safetensors({"a": entry(dtype="F99")}, FOUR[:4]), READ),
    st("a cut file", safetensors({"a": entry()}, FOUR[:4])[:-1], READ),
    st("no tensors in safetensors", safetensors({}), "x.safetensors: no known layout"),
]


def damaged(name: str, change: Callable[[Path], object], *says: str) -> Case:
    """A checkpoint folder with something changed."""
    return Case(name, lambda root: change(root / "tokenizer"), "convert tokenizer out", says, needs=("tokenizer",))


def folder(name: str, change: Callable[[Path], object], *says: str) -> Case:
    """The same, with the new sizes and hashes in its manifest.json."""

    def make(checkpoint: Path) -> None:
        change(checkpoint)
        seal(checkpoint)

    return damaged(name, make, *says)


def seal(checkpoint: Path) -> None:
    files = {path.name: path for path in checkpoint.iterdir() if path.name != "manifest.json"}
    about = {name: {"bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()}
    (checkpoint / "manifest.json").write_text(json.dumps({"files": about}))


def weights(change: Callable[[dict], object], name: str = "ema") -> Callable[[Path], object]:
    def make(checkpoint: Path) -> None:
        path = checkpoint / f"{name}.safetensors"
        state = {key: tensor.clone() for key, tensor in load_file(path).items()}
        change(state)
        save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)

    return make


def manifest(**entries: object) -> Callable[[Path], object]:
    return lambda checkpoint: (checkpoint / "manifest.json").write_text(json.dumps(entries))


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CODES = "quantizer.codebook"
ABOUT = {"bytes": 1, "sha256": "0"}
FOLDERS = [
    damaged("no manifest", lambda f: (f / "manifest.json").unlink(), "manifest.json"),
    damaged("a manifest of nothing", manifest(), "manifest.json holds no sizes and hashes"),
    damaged("a manifest of numbers", manifest(files=3), "manifest.json holds no sizes and hashes"),
    damaged("a manifest without weights", manifest(files={}), "tokenizer has no weights"),
    damaged("a manifest that leaves its folder", manifest(files={"../x": ABOUT}), "'../x'", "without a path"),
    damaged("an absolute name", manifest(files={"/etc/passwd": ABOUT}), "'/etc/passwd'", "without a path"),
    damaged("a flipped bit", lambda f: flipped(f / "ema.safetensors"), "ema.safetensors is damaged", "SHA-256"),
    damaged("a cut file of weights", lambda f: (f / "ema.safetensors").write_bytes(b"x"), "found 1 bytes"),
    damaged("a missing file", lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    folder(
        "weights that are JSON", lambda f: (f / "ema.safetensors").write_text("{}"), "ema.safetensors cannot be read"
    ),
    folder("another codebook", weights(lambda s: s.update({CODES: s[CODES][:8]})), "of another shape", "(8, 4)"),
    folder("another type of numbers", weights(lambda s: s.update({CODES: s[CODES].int()})), "of another type", "int32"),
    folder("NaN in a codebook", weights(lambda s: s[CODES].fill_(float("nan"))), "NaN or infinity", CODES),
    folder("NaN in the other weights", weights(lambda s: s[CODES].fill_(float("nan")), "model"), "NaN or infinity"),
    folder("weights under other names", weights(lambda s: s.update(y=s.pop(CODES))), "missing", "unexpected"),
    folder("source.json as a list", lambda f: (f / "source.json").write_text("[]"), "source.json", "one JSON object"),
    folder("source.json of nothing", lambda f: (f / "source.json").write_text("{}"), "source.json cannot be read"),
    folder("upstream.json as a list", lambda f: (f / "upstream.json").write_text("[]"), "upstream.json"),
    folder("recipe.json without end", lambda f: (f / "recipe.json").write_text("{"), "recipe.json"),
]


@pytest.mark.parametrize("case", parameters(PICKLES, LAYOUTS, SAFETENSORS, FOLDERS))
def test_weights(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)
