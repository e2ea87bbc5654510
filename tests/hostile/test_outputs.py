"""Names that come out of data (entries of a list, classes, keys) lead to no file outside the output."""

from pathlib import Path

import pytest

from .making import END, GREY, member
from .table import Case, check, parameters

NAMES = ("../../escaped", "/tmp/escaped", "<script>alert(1)</script>", "a\\x1b[2J\\nb", "..", "C:\\\\escaped")


def benchmark(folder: Path) -> None:
    entries = "".join(f'  - {{name: "{name}", file: none.pt, published: {{rfid: 1.0}}}}\n' for name in NAMES)
    (folder / "bad.yaml").write_text(f"tokenizers:\n{entries}")


def classes(folder: Path) -> None:
    for number, name in enumerate(("a\x1b[2J\nb", "<script>", "..hidden", "\udcff", "robustok: all is well")):
        path = folder / "photos" / name
        path.mkdir(parents=True)
        (path / f"{number}.png").write_bytes(GREY[:-12] + b"\0" * number + GREY[-12:])


def keys(folder: Path) -> None:
    names = (b"ok/0.png", b"cat\n\x1b[2J/1.png", b"C:\\x/2.png", b"~root/3.png", b"ok/../../4.png", b"/tmp/5.png")
    (folder / "bad.tar").write_bytes(b"".join(map(member, names)) + END)


TOKENIZE = "deep/er/out --tokenizer tokenizer --device cpu"
CASES = [
    Case(
        "entries of a benchmark",
        benchmark,
        "evaluate benchmark bad.yaml --files . --output deep/er/out --device cpu",
        ("../../escaped", "deep/er/out/report.html"),
        code=0,
        may_leave=("deep/er/out/*",),
    ),
    Case(
        "names of classes",
        classes,
        f"pretokenize photos {TOKENIZE}",
        ("deep/er/out: 4 sequences of 4 tokens",),
        code=0,
        needs=("tokenizer",),
        may_leave=("deep/er/out/*",),
    ),
    Case(
        "names of members",
        keys,
        f"pretokenize bad.tar {TOKENIZE}",
        ("'ok/../../4.png': its name leaves the archive", "deep/er/out: 4 sequences of 4 tokens"),
        code=0,
        needs=("tokenizer",),
        may_leave=("deep/er/out/*",),
    ),
    Case(
        "names of classes under a sheet",
        classes,
        "check_data photos --sheet deep/er/out/sheet.png",
        ("a\\x1b[2J\\nb: 1", "<script>: 1", "\\xff: 1", "deep/er/out/sheet.png"),
        code=0,
        may_leave=("deep/er/out/sheet.png",),
    ),
]


@pytest.mark.parametrize("case", parameters(CASES))
def test_outputs(case: Case, tmp_path: Path, good: Path, server):
    said = check(case, tmp_path, good, server)
    assert "\x1b" not in said and not Path("/tmp/escaped").exists()
    for page in tmp_path.rglob("*.html"):
        text = page.read_text()
        assert "<script>alert" not in text and "&lt;script&gt;alert" in text and "\x1b" not in text
