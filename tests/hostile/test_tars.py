"""Bad tar shards: what is wrong is named with its place, the rest of the shard is used, and nothing is unpacked."""

import bz2
import gzip
import lzma
import os
from pathlib import Path

import pytest

from .making import END, GREY, header, member, padded, pax
from .table import Case, check, parameters

FIRST, LAST = member(b"cat/0.png"), member(b"cat/9.png")
SECOND = len(FIRST)  # where a header begins
MINUS = b"\xff" * 12  # -1
SIZED = b"\x80" + b"\xff" * 11  # a size that no file has
BLOCK = 512


def tar(*parts: bytes):
    return lambda folder: (folder / "bad.tar").write_bytes(b"".join(parts))


def left_out(name: str, *parts: bytes, says: str, images: int = 2, code: int = 0) -> Case:
    """A tar of which something is left out and named; `images` are used."""
    said = ("bad.tar", says, f"images: {images}")
    return Case(name, tar(*parts), "check_data bad.tar", said, code)


def refused(name: str, *parts: bytes, says: tuple[str, ...]) -> Case:
    return Case(name, tar(*parts), "check_data bad.tar", ("bad.tar", *says))


def odd(name: str, kind: bytes, says: str = "not a regular file (link, device or sparse)") -> Case:
    """A member of a kind that is no file."""
    made = header(b"cat/odd.png", 0, kind, link=b"/etc/passwd")
    return left_out(name, FIRST, made, LAST, END, says=f"member 'cat/odd.png': {says}")


DAMAGED = "damaged header at byte"
KINDS = [
    odd("a hard link", b"1"),
    odd("a symbolic link", b"2"),
    odd("a character device", b"3"),
    odd("a block device", b"4"),
    odd("a member that is a named pipe", b"6"),
    odd("a sparse member", b"S"),
    left_out("a folder with data", FIRST, header(b"cat/odd.png/", 512, b"5"), LAST, END, says="tar shards"),
]
NAMES = [
    left_out("an absolute name", FIRST, member(b"/etc/x.png"), END, says="'/etc/x.png': its name leaves", images=1),
    left_out(
        "a name that climbs", FIRST, member(b"cat/../../x.png"), END, says="its name leaves the archive", images=1
    ),
    refused("classes of another case", FIRST, member(b"Cat/1.png"), END, says=("'Cat' and 'cat'", "rename one")),
    left_out("a repeated name", FIRST, FIRST, FIRST, LAST, END, says="'cat/0.png': a second one of its name"),
    left_out("a name with a line break", FIRST, member(b"cat/a\n\x1b[2J.png", b"x"), END, says="cat/a\\n\\x1b[2J.png"),
    left_out("a name that is no UTF-8 in a tar", FIRST, member(b"cat/\xff.png", b"x"), END, says="cat/\\xff.png"),
    left_out(
        "a name of a megabyte",
        *(FIRST, pax(path=b"cat/" + b"n" * 900_000 + b".png"), LAST, END),
        says="its name has 900008 characters, expected at most 4096",
        images=1,
    ),
]
SIZES = [
    left_out("a negative size", FIRST, header(b"cat/1.png", 0, octal=MINUS), END, says="its size is -1", images=1),
    left_out("a size beyond any file", FIRST, header(b"cat/1.png", 0, octal=SIZED), END, says="cut off by", images=1),
    left_out("a size of letters", FIRST, header(b"cat/1.png", 0, octal=b"abcdefghijk\0"), END, says=DAMAGED, images=1),
    left_out("an extended size below 0", FIRST, pax(size=b"-5"), LAST, END, says="its size is -5", images=1),
    left_out("an extended size that leads back", FIRST, pax(size=b"-1536"), LAST, END, says="leads back", images=1),
    left_out("an extended size of 30 digits", FIRST, pax(size=b"9" * 30), LAST, END, says="cut off by", images=1),
    left_out("an extended comment of 5 MB", FIRST, pax(comment=b"c" * 5_000_000), LAST, END, says=DAMAGED, images=1),
    left_out("a long name of 8 GiB", FIRST, header(b"name", 1 << 33, b"L"), LAST, END, says=DAMAGED, images=1),
    left_out("headers without end", FIRST, pax(comment=b"c") * 3000, LAST, END, says="too many headers", images=1),
    left_out("a sparse map of letters", FIRST, pax(GNU_sparse_map=b"0,1,2,x"), LAST, END, says=DAMAGED, images=1),
]
CUTS = [
    *(
        left_out(f"cut off at byte {place} of the second", (FIRST + LAST)[: SECOND + place], says=says, images=1)
        for place, says in ((1, DAMAGED), (100, DAMAGED), (511, DAMAGED), (512, "cut off"), (540, "cut off"))
    ),
    left_out("no end", FIRST, LAST, says="tar shards"),
    left_out("half an end", FIRST, LAST, bytes(BLOCK), says="tar shards"),
    left_out("a broken checksum", FIRST, b"x" + LAST[1:], LAST, says=f"{DAMAGED} {SECOND}", images=1),
    left_out("two archives in one file", FIRST, END, LAST, END, says="more data after the end", images=1),
    left_out("an archive in an archive", FIRST, LAST, member(b"cat/in.tar", FIRST + END), END, says="1 .tar"),
    refused("a tar cut off in its first header", FIRST[:100], says=("not an uncompressed tar file", "replace it")),
    refused("a tar of zeros", bytes(10_240), says=("no image in bad.tar",)),
    refused("an empty tar", says=("not an uncompressed tar file (empty file)",)),
    refused("an image called a tar", GREY, says=("not an uncompressed tar file",)),
    *(
        refused(f"a tar packed with {name}", pack(FIRST + LAST + END), says=(f"packed with {name}", "unpack"))
        for name, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress))
    ),
]


def labelled(*classes: bytes) -> bytes:
    """Samples 0, 1, ... with these .cls members; None: without."""
    return b"".join(member(b"%d.png" % i) + member(b"%d.cls" % i, label) for i, label in enumerate(classes))


KEYS = [
    left_out("a key without a class", labelled(b"0", b"1"), member(b"k.png"), END, says="key 'k': has no .cls member"),
    left_out("a key without an image", labelled(b"0", b"1"), member(b"k.cls", b"1"), END, says="key 'k': has no image"),
    left_out("a class below 0", labelled(b"0", b"1", b"-1"), END, says="holds b'-1', expected the number of a class"),
    left_out("a class of 30 digits", labelled(b"0", b"1", b"9" * 30), END, says="expected the number of a class"),
    left_out(
        "a class of another script", labelled(b"0", b"1", "²".encode()), END, says="expected the number of a class"
    ),
    left_out("an empty class member", labelled(b"0", b"1", b""), END, says="holds b'', expected the number of a class"),
    Case(
        "keys that leave the output",
        tar(member(b"../../x.png"), member(b"/etc/x.png"), labelled(b"0", b"1")),
        "pretokenize bad.tar out/tokens --tokenizer tokenizer --device cpu",
        ("member '../../x.png': its name leaves the archive", "2 sequences of 4 tokens"),
        code=0,
        needs=("tokenizer",),
        may_leave=("out/tokens/*",),
    ),
]


def in_folder(make):
    """shards/good.tar beside what `make` puts into shards/."""

    def made(folder: Path) -> None:
        (folder / "shards").mkdir()
        (folder / "shards" / "good.tar").write_bytes(FIRST + LAST + END)
        make(folder / "shards")

    return made


FOLDERS = [
    Case(
        "a packed tar beside shards",
        in_folder(lambda folder: (folder / "a.tar.gz").write_bytes(gzip.compress(FIRST + END))),
        "check_data shards",
        ("a.tar.gz is compressed", "unpack it to .tar"),
    ),
    Case(
        "a shard that is a named pipe",
        in_folder(lambda folder: os.mkfifo(folder / "b.tar")),
        "check_data shards",
        ("shards/b.tar is a named pipe; expected a tar shard",),
    ),
    Case(
        "a shard that is a device",
        in_folder(lambda folder: (folder / "b.tar").symlink_to("/dev/zero")),
        "check_data shards",
        ("shards/b.tar is a device; expected a tar shard",),
    ),
    Case(
        "a shard that is a folder",
        in_folder(lambda folder: (folder / "b.tar").mkdir()),
        "check_data shards",
        ("shards/b.tar is a folder; expected a tar shard",),
    ),
    Case(
        "a shard that is a broken link",
        in_folder(lambda folder: (folder / "b.tar").symlink_to("nowhere")),
        "check_data shards",
        ("shards/b.tar is a broken link; expected a tar shard",),
    ),
]


@pytest.mark.parametrize("case", parameters(KINDS, NAMES, SIZES, CUTS, KEYS, FOLDERS))
def test_tars(case: Case, tmp_path: Path, good: Path, server):
    check(case, tmp_path, good, server)


def test_a_shard_of_many_members_takes_as_many_steps(tmp_path, monkeypatch):
    """Each header is read once: the time grows with their number alone, and none is kept."""
    from robustok.data import tar_headers
    from robustok.data.images import open_source

    reads = []
    read = tar_headers.Headers.read
    monkeypatch.setattr(tar_headers.Headers, "read", lambda self, size: reads.append(size) or read(self, size))
    counts = []
    for number in (1000, 2000):
        (tmp_path / "many.tar").write_bytes(b"".join(member(b"%d/%d.png" % (i % 7, i)) for i in range(number)) + END)
        reads.clear()
        assert len(open_source(tmp_path / "many.tar").names) == number
        counts.append(len(reads))
    assert counts[1] - counts[0] <= 2 * 1000 and max(reads) <= 1 << 20


def test_a_shard_that_changes_or_goes_while_it_is_read(tmp_path):
    from robustok.core.errors import UserError
    from robustok.data.images import open_source

    path = tmp_path / "a.tar"
    path.write_bytes(FIRST + padded(b"") + LAST + END)
    source = open_source(path)
    path.write_bytes(FIRST + LAST + END + bytes(BLOCK))
    with pytest.raises(UserError, match=r"a\.tar has changed since it was indexed; start again"):
        source.read(1)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"a\.tar is a named pipe"):
        source.read(1)
