"""check_data and pretokenize as a user runs them: what they print, write and return."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok import check_data, evaluate, explain, pretokenize, sample, train
from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.data.tokens import open_tokens, write_tokens
from robustok.evaluation.streams import open_stream

GOLDEN = Path(__file__).parents[1] / "golden"
ABOUT = {"tokenizer": "abc", "codebook_size": 64, "class_names": ["cat", "dog"]}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def survey(capsys, path) -> tuple[int, dict]:
    code = run_verb(check_data.main, [str(path), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_check_data_counts_and_draws(photos, elsewhere, capsys):
    code, found = survey(capsys, photos)
    assert code == 0
    assert found["format"] == "folder with one sub-folder per class"
    assert found["images"] == 21
    assert found["classes"] == {"Dog": 6, "cat": 7, "eel": 8}
    sizes = sorted((Image.open(path).size for path in photos.rglob("*.png")), key=lambda size: (min(size), max(size)))
    assert list(found["sizes"].values()) == [list(sizes[0]), list(sizes[10]), list(sizes[20])]
    assert (found["bad"], found["duplicates"], found["ignored_files"]) == ([], [], 0)
    assert list(elsewhere.iterdir()) == []  # nothing is drawn unless asked for
    code = run_verb(check_data.main, [str(photos), "--json", "--sheet", "drawn/sheet.png"])
    assert (code, json.loads(capsys.readouterr().out)["sheet"]) == (0, "drawn/sheet.png")
    with Image.open(elsewhere / "drawn" / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L"))
    tiles = [pixels[y : y + 128, x : x + 128] for y in range(0, 568, 142) for x in range(0, 512, 128)]
    assert len(tiles) == 16
    assert min(tile.std() for tile in tiles) > 5  # each holds a picture


def test_check_data_names_what_is_wrong(photos, capsys):
    shutil.copy(photos / "cat" / "0.png", photos / "cat" / "same.png")
    shutil.copy(photos / "cat" / "1.png", photos / "Dog" / "same.png")
    (photos / "eel" / "0.png").write_bytes(b"broken")
    (photos / "eel" / "notes.txt").write_text("not an image")
    code, found = survey(capsys, photos)
    assert code == 0  # one bad image is within what training skips
    assert found["duplicates"] == [["Dog/same.png", "cat/1.png"], ["cat/0.png", "cat/same.png"]]
    assert found["conflicts"] == [["Dog/same.png", "cat/1.png"]]
    assert found["ignored_files"] == 1
    assert len(found["bad"]) == 1
    assert "eel/0.png: not a readable image" in found["bad"][0]
    assert run_verb(check_data.main, [str(photos)]) == 0
    text = capsys.readouterr().out
    assert "eel/0.png" in text
    assert "Dog/same.png = cat/1.png" in text


def test_check_data_fails_where_training_would(photos, capsys):
    for path in (photos / "cat").iterdir():
        path.write_bytes(b"")
    code, found = survey(capsys, photos)
    assert (code, found["usable"], found["unreadable_classes"]) == (1, False, ["cat"])
    assert run_verb(check_data.main, [str(photos / "nowhere")]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb, arguments, option",
    [
        (check_data, ". --sheet sheet.png", "--sheet"),
        (check_data, ". --sheet cat/sheet.png", "--sheet"),
        (pretokenize, ". ./tokens --tokenizer none", "DST"),
        (train, "--data.root . --dry_run", "runs"),
        (evaluate, "samples . --reference ../other.npz", "--output"),
        (evaluate, "samples ../other.npz --reference ../photos", "--output"),
        (evaluate, "reference . --save cat/statistics.npz", "--save"),
        (evaluate, "tokenizer none --images ../photos --output cat", "--output"),
        (explain, "elbow --images .", "--output"),
        (sample, "--generator none --tokenizer none --reference .", "--output"),
    ],
)
def test_what_is_written_never_lies_in_what_is_read(photos, monkeypatch, capsys, verb, arguments, option):
    monkeypatch.chdir(photos)
    before = sorted(photos.rglob("*"))
    assert run_verb(verb.main, arguments.split()) == 2
    assert f"robustok: {option}: " in (said := capsys.readouterr().err)
    assert "would lie inside" in said
    assert sorted(photos.rglob("*")) == before


def test_check_data_twice_in_its_own_folder(photos, monkeypatch, capsys):
    monkeypatch.chdir(photos)
    (photos / "cat" / "0.heic").write_bytes(b"")
    assert [survey(capsys, ".")[0] for _ in range(2)] == [0, 0]
    assert run_verb(check_data.main, ["."]) == 0
    assert "files not read as images: 1 .heic (pip install pillow-heif" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["digits", "sklearn:digits", "./digits"])
def test_digits_beside_a_folder_of_that_name(photos, elsewhere, capsys, word):
    assert survey(capsys, "sklearn:digits")[1]["images"] == 1797
    photos.rename(elsewhere / "digits")
    code = run_verb(check_data.main, [word, "--json"])
    said = capsys.readouterr()
    if word == "digits":
        assert code == 2
        assert "write sklearn:digits for the former and ./digits for the latter" in said.err
        with pytest.raises(UserError, match="may be scikit-learn's digits"):
            open_stream("digits", 8)
    else:
        expected = 21 if word == "./digits" else 1797
        assert (code, json.loads(said.out)["images"], len(open_stream(word, 8))) == (0, expected, expected)


def test_check_data_reads_token_shards(tmp_path, capsys):
    tokens = torch.tensor([[1, 2, 3], [1, 2, 63], [0, 0, 0]])
    write_tokens(tmp_path / "tokens", tokens, torch.tensor([0, 1, 1]), torch.arange(3), ABOUT)
    code, found = survey(capsys, tmp_path / "tokens")
    assert code == 0
    assert (found["sequences"], found["tokens"], found["codes_used"]) == (3, [3], 5)
    assert found["classes"] == {"cat": 1, "dog": 2}


def test_pretokenize_converts_lines_both_ways(tmp_path, capsys):
    source = tmp_path / "in.jsonl"
    source.write_text('{"class_id": 1, "tokens": [3, 4]}\noops\n{"class_id": 0, "tokens": [5, 6]}\n')
    assert run_verb(pretokenize.main, [str(source), str(tmp_path / "t")]) == 2
    assert "--codebook_size" in capsys.readouterr().err
    sizes = ["--codebook_size", "64", "--num_classes", "2"]
    assert run_verb(pretokenize.main, [str(source), str(tmp_path / "t"), *sizes]) == 0
    assert "line 2" in capsys.readouterr().err
    assert run_verb(pretokenize.main, [str(tmp_path / "t"), str(tmp_path / "out.jsonl")]) == 0
    lines = source.read_text().splitlines(keepends=True)
    assert (tmp_path / "out.jsonl").read_text() == lines[0] + lines[2]


def test_pretokenize_gives_the_tokens_of_the_released_code(tmp_path):
    """The golden tokenizer and images: the authors' indices, where the next code is not almost as near.

    Their pixels are (u - 128) / 128 and ours u / 127.5 - 1, which differ by up to 1/128.
    """
    recorded = np.load(GOLDEN / "tokenizer_io.npz")
    folder = tmp_path / "images"
    folder.mkdir()
    for number, image in enumerate(recorded["images_u8"]):
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number}.png")
    command = [str(folder), str(tmp_path / "t"), "--tokenizer", str(GOLDEN / "tokenizer_ckpt.pt"), "--weights", "model"]
    assert run_verb(pretokenize.main, [*command, "--num_heads", "2", "--device", "cpu"]) == 0
    found = open_tokens(tmp_path / "t")
    safe = recorded["index_margin"] > np.median(recorded["index_margin"])
    assert (found.tokens[:] == recorded["indices"])[safe].mean() > 0.99
    assert found.ids.tolist() == [0, 1]
