"""Emoji out of a package's tarball: pictures to the pixel, groups, what is refused; and the verb that fetches them."""

import gzip
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustok import fetch_data
from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.data import emoji
from robustok.data.emoji import LIST, PICTURES, content_hash, write_emoji
from robustok.data.images import open_source


def picture(seed: int, mode: str = "RGBA", side: int = 64) -> bytes:
    """A PNG of random colours and opacities."""
    shape = (side, side, len(mode))
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def entry(name: str, category: str, *tones: str) -> dict:
    """As in the package's list, as far as it is read."""
    made = {"unified": name.upper(), "image": f"{name}.png", "category": category}
    variations = {tone: {"unified": tone.upper(), "image": f"{name}-{tone}.png"} for tone in tones}
    return made | ({"skin_variations": variations} if tones else {})


ENTRIES = [
    entry("1f600", "Smileys & Emotion"),
    entry("1f44b", "People & Body", "1f3fb", "1f3ff"),
    entry("1f44d", "People & Body", "1f3fb"),
    entry("1f1e6", "Flags"),
    entry("1f1e7", "Flags"),  # drawn as the one before
    entry("1f1e8", "Flags"),
    entry("1f596", "People & Body", "1f3fb", "1f3ff"),  # drawn as two that were apart: 1f44d and 1f44b-1f3ff
    entry("1f3fb", "Component"),
]
FILES = [e["image"] for e in ENTRIES] + [
    tone["image"] for e in ENTRIES for tone in e.get("skin_variations", {}).values()
]


def members(entries=ENTRIES) -> dict[str, bytes]:
    """A small package, by name; other files and pictures of other sizes lie in it, too."""
    made = {PICTURES + name: picture(number) for number, name in enumerate(FILES)}
    made[PICTURES + "1f1e7.png"] = made[PICTURES + "1f1e6.png"]
    made[PICTURES + "1f596.png"] = made[PICTURES + "1f44d.png"]
    made[PICTURES + "1f596-1f3fb.png"] = made[PICTURES + "1f44b-1f3ff.png"]
    made[PICTURES + "1f1e8.png"] = picture(99, "LA")  # some are grey
    return made | {LIST: json.dumps(entries).encode()}


OTHERS = {"package/LICENSE": b"MIT", "package/img/google/32/1f600.png": b"smaller", "package/emoji.json.bak": b""}


def pack(path: Path, content: dict[str, bytes | tarfile.TarInfo]) -> Path:
    """A tarball; a TarInfo stands for itself."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in content.items():
            info = tarfile.TarInfo(name) if isinstance(data, bytes) else data
            info.size = len(data) if isinstance(data, bytes) else info.size
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def written(tmp_path: Path, content: dict, packed: dict | None = None) -> Path:
    """The folder made of a package of these members; packed: what the tarball has in their place."""
    archive = pack(tmp_path / "emoji.tgz", OTHERS | (content if packed is None else packed))
    write_emoji(archive, tmp_path / "emoji", content_hash(content))
    return tmp_path / "emoji"


def test_classes_pictures_and_groups(tmp_path):
    folder = written(tmp_path, members())
    assert not list(tmp_path.glob(".*"))
    source = open_source(folder)
    assert source.ignored == ["LICENSE.txt"]
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["LICENSE.txt", "groups.csv"]
    by_class = {"component": 1, "flags": 3, "people_and_body": 8, "smileys_and_emotion": 1}
    assert source.class_names == list(by_class)
    assert np.bincount(source.labels).tolist() == list(by_class.values())
    together: dict[int, set[str]] = {}
    for name, group in zip(source.names, source.groups.tolist(), strict=True):
        together.setdefault(group, set()).add(Path(name).stem)
    hands = {"1f44b", "1f44b-1f3fb", "1f44b-1f3ff", "1f44d", "1f44d-1f3fb", "1f596", "1f596-1f3fb", "1f596-1f3ff"}
    expected = [{"1f600"}, {"1f1e6", "1f1e7"}, {"1f1e8"}, {"1f3fb"}, hands]
    assert sorted(map(sorted, together.values())) == sorted(map(sorted, expected))


def test_pictures_lie_on_white_to_the_pixel(tmp_path):
    """Every colour in every opacity: c a + 255 (255 - a), over 255, rounded."""
    content = members()
    colour, opacity = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    table = np.stack([colour, 255 - colour, colour, opacity], -1).reshape(16, 64, 64, 4)
    entries = [entry(f"{number:x}", "Symbols") for number in range(16)]
    for number, part in enumerate(table):
        file = io.BytesIO()
        Image.fromarray(part).save(file, "PNG")
        content[f"{PICTURES}{number:x}.png"] = file.getvalue()
    folder = written(tmp_path, content | {LIST: json.dumps(entries).encode()})
    for number, part in enumerate(table.astype(np.int64)):
        with Image.open(folder / "symbols" / f"{number:x}.png") as image:
            assert (image.mode, image.format) == ("RGB", "PNG")
            found = np.asarray(image)
        alpha = part[..., 3:]
        assert np.array_equal(found, (2 * (part[..., :3] * alpha + 255 * (255 - alpha)) + 255) // 510)


def test_the_content_counts_not_how_it_was_packed(tmp_path):
    content = members()
    expected = content_hash(content)
    packed = dict(reversed((OTHERS | content).items()))
    assert emoji._read(pack(tmp_path / "other.tgz", packed)).keys() == content.keys()
    assert content_hash(emoji._read(tmp_path / "other.tgz")) == expected
    content[PICTURES + "1f600.png"] = picture(1)
    assert content_hash(content) != expected


def link(name: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "1f1e6.png"
    return info


def without(name: str) -> dict[str, bytes]:
    return {other: data for other, data in members().items() if other != name}


SMILE = PICTURES + "1f600.png"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (without(SMILE), "the list names package/img/google/64/1f600.png, which is not there"),
        (without(LIST), "KeyError: 'package/emoji.json'"),
        (members() | {LIST: b"[{]"}, "JSONDecodeError"),
        (members() | {LIST: b"[" * 100_000}, "it is nested too deeply"),
        (members() | {LIST: b"[1]"}, "TypeError"),
        (members([entry("1f600", "../x")]), "package/emoji.json names '../x'; expected the name of something"),
        (members([entry("1f600", "..")]), "package/emoji.json names '..'"),
        (members([entry("1f600", "/etc")]), "package/emoji.json names '/etc'"),
        (members([entry("../../64/1f600", "Flags")]), "package/emoji.json names '../../64/1f600.png'"),
        (members() | {SMILE: b"no picture"}, "UnidentifiedImageError"),
        (members() | {SMILE: picture(0)[:-100]}, "cannot be read as a package of emoji"),
        (members() | {SMILE: picture(0, side=65)}, "1f600.png has 65 x 65 pixels, expected 64 x 64"),
    ],
)
def test_a_package_that_holds_something_else(tmp_path, content, said):
    """Even where its hash is the one expected, there is one message and nothing is left."""
    with pytest.raises(UserError) as error:
        written(tmp_path, content)
    assert said in str(error.value) and "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["emoji.tgz"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_what_is_no_file_is_no_picture(tmp_path, kind):
    content = without(SMILE)
    with pytest.raises(UserError, match=r"the list names .*1f600\.png, which is not there"):
        written(tmp_path, content, content | {SMILE: link(SMILE, kind)})


def test_names_that_leave_the_archive_are_not_read(tmp_path):
    outside = PICTURES + "../../../../1f600.png"
    found = emoji._read(pack(tmp_path / "emoji.tgz", members() | {outside: b"outside"}))
    assert outside not in found and found.keys() == members().keys()


def test_another_package_is_refused_by_its_hash(tmp_path):
    archive = pack(tmp_path / "emoji.tgz", members())
    found = content_hash(members())
    with pytest.raises(UserError, match=rf"SHA-256 {found}, expected {emoji.CONTENT}; give the tarball that `npm pack"):
        write_emoji(archive, tmp_path / "emoji")


def test_files_that_are_no_tarball(tmp_path, monkeypatch):
    archive = pack(tmp_path / "emoji.tgz", members())
    data = archive.read_bytes()
    broken = {"empty": b"", "text": b"just a sentence", "half": data[: len(data) // 2], "tar": gzip.decompress(data)}
    broken["gzip"] = gzip.compress(b"no tar file" * 100)
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} cannot be read as a tarball \(.*\); give the tarball that `npm"):
            write_emoji(tmp_path / name, tmp_path / "out")
    with pytest.raises(UserError, match="nowhere does not exist; expected a tarball"):
        write_emoji(tmp_path / "nowhere", tmp_path / "out")
    monkeypatch.setattr(emoji, "_MOST_BYTES", 1 << 20)
    bomb = pack(tmp_path / "bomb.tgz", {"package/zeros": bytes(1 << 20)})
    with pytest.raises(UserError, match=r"bomb\.tgz unpacks to more than 1,048,576 bytes; give"):
        write_emoji(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_member_that_claims_more_than_there_is(tmp_path):
    """A header alone, of a picture of a terabyte."""
    info = tarfile.TarInfo(SMILE)
    info.size = 1 << 40
    (tmp_path / "claims.tgz").write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT)))
    with pytest.raises(UserError, match=r"claims\.tgz"):
        write_emoji(tmp_path / "claims.tgz", tmp_path / "out")


@pytest.fixture
def fetch(tmp_path, monkeypatch, capsys):
    """fetch(*arguments) runs the verb in an empty folder, where the small package is the one expected: its exit code,
    and what it printed. Programs are those of the folder `bin` alone.
    """
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "bin").mkdir()
    pack(tmp_path / "small.tgz", members())
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(fetch_data, "write_emoji", lambda *paths: write_emoji(*paths, content_hash(members())))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_verb(fetch_data.main, list(arguments))
        return code, *capsys.readouterr()

    return run


def npm(tmp_path: Path, body: str) -> None:
    """Puts a program `npm` into the folder `bin`."""
    program = tmp_path / "bin" / "npm"
    program.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys\n{body}\n")
    program.chmod(0o755)


def test_the_verb_writes_a_data_set_once(fetch, tmp_path):
    code, out, err = fetch("emoji", "--archive", "../small.tgz")
    assert (code, err) == (0, "")
    assert out == "data/emoji: 13 images; python -m robustok.train --data.root data/emoji trains on them\n"
    assert len(open_source("data/emoji").names) == 13
    before = Path("data/emoji").stat().st_mtime_ns
    code, out, err = fetch("emoji", "--archive", "../small.tgz")
    assert (code, out, err) == (0, "data/emoji is there; remove it to write it again\n", "")
    assert Path("data/emoji").stat().st_mtime_ns == before
    Path("taken").write_text("mine")
    code, out, err = fetch("emoji", "--archive", "../small.tgz", "--output", "taken")
    assert (code, out) == (2, "") and err.startswith("robustok: --output: taken is a file; expected a folder")
    assert Path("taken").read_text() == "mine"


def test_without_npm_it_says_what_to_do(fetch):
    code, out, err = fetch("emoji")
    assert (code, out) == (2, "") and not Path("data").exists()
    assert err.startswith(f"robustok: npm, which fetches {emoji.PACKAGE}, is not installed; install it, or get the")
    assert err.count("\n") == 1 and "--archive" in err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("sys.exit('npm error code E404\\nnpm error \\x1b[2J404 Not Found')", "npm error code E404 npm error"),
        ("sys.exit(1)", "no message"),
        ("", "no message"),  # it ends well, and left nothing
    ],
)
def test_what_npm_said_is_said(fetch, tmp_path, body, said):
    npm(tmp_path, body)
    code, out, err = fetch("emoji")
    assert (code, out) == (2, "") and not Path("data").exists()
    assert err.startswith(f"robustok: npm pack {emoji.PACKAGE} failed ({said}") and "--archive" in err
    assert err.count("\n") == 1 and "\x1b" not in err


def test_npm_fetches_the_package(fetch, tmp_path):
    """It is asked for the one version, in a folder that is gone afterwards."""
    npm(
        tmp_path,
        f"""pathlib.Path({str(tmp_path / "asked")!r}).write_text(f"{{sys.argv[1:]}} {{pathlib.Path.cwd()}}")
shutil.copy({str(tmp_path / "small.tgz")!r}, "emoji-datasource-google-16.0.0.tgz")
print("emoji-datasource-google-16.0.0.tgz")""",
    )
    assert fetch("emoji", "--output", "mine")[0] == 0
    assert len(open_source("mine").names) == 13
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"['pack', '{emoji.PACKAGE}'] ")
    folder = asked.rpartition(" ")[2]
    assert not os.path.exists(folder) and folder != str(Path.cwd())


def test_where_npm_brings_another_package_it_is_refused(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_data, "write_emoji", write_emoji)
    npm(tmp_path, f"shutil.copy({str(tmp_path / 'small.tgz')!r}, 'other.tgz')")
    code, out, err = fetch("emoji")
    assert (code, out) == (2, "") and f"expected {emoji.CONTENT}" in err and not Path("data").exists()
