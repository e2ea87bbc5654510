"""Token shards: what is written is read back, work that stopped goes on, other people's lines are read and written."""

import json
import tracemalloc

import numpy as np
import pytest
import torch

from robustok.core.errors import UserError
from robustok.data.jsonl import export_jsonl, import_jsonl
from robustok.data.rows import Rows
from robustok.data.tokens import TokenWriter, open_tokens, write_tokens

ABOUT = {"tokenizer": "abc", "codebook_size": 50_000, "class_names": ["cat", "dog"]}


def rows(count: int, shape=(16,), codes: int = 50_000):
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randint(codes, (count, *shape), generator=generator)
    return tokens, torch.arange(count) % 2, torch.arange(count) * 3


@pytest.mark.parametrize("shape", [(16,), (4, 2)])
def test_written_tokens_are_read_back(tmp_path, shape):
    tokens, labels, ids = rows(100, shape)
    writer = TokenWriter(tmp_path, ABOUT, shard_rows=30)
    for number in writer.missing(100):
        part = slice(number * 30, number * 30 + 30)
        writer.write(number, tokens[part], labels[part], ids[part])
    found = writer.finish(100)
    assert found.tokens.shape == (100, *shape)
    assert torch.equal(found.labels, labels)
    assert torch.equal(found.ids, ids)
    assert found.manifest["class_names"] == ["cat", "dog"]
    expected = tokens.numpy()
    every_seventh = np.arange(100) % 7 == 0
    slices = (slice(None), slice(25, 65, 3), slice(80, 10, -7), slice(0, 0))
    arrays = (np.array([99, 0, 30, 29, 0]), np.array([[-1, -100], [5, -71]]), np.array([], np.int64), every_seventh)
    for index in (*slices, *arrays, 31, -1, np.int64(-70)):
        assert np.array_equal(found.tokens[index], expected[index])
    assert found.tokens[0].dtype == np.uint16


@pytest.mark.parametrize("index", [np.array([3, 150_000_000, -1]), slice(5, 9), slice(-3, None), -7])
def test_reading_a_batch_costs_nothing_for_the_rows_not_asked_for(index):
    """Two shards of a hundred million rows each, which take no memory: one row repeated."""
    shard = np.broadcast_to(np.arange(4, dtype=np.uint16), (100_000_000, 4))
    rows = Rows([shard, shard])
    tracemalloc.start()
    found = rows[index]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, np.broadcast_to(np.arange(4), found.shape))
    assert peak < 100_000


@pytest.mark.parametrize("index", [100, -101, np.array([0, 100]), np.array([-101])])
def test_rows_that_are_not_there_are_refused(index):
    with pytest.raises(IndexError):
        Rows([np.zeros((60, 4), np.uint16), np.zeros((40, 4), np.uint16)])[index]


def test_processes_share_shards_whatever_has_been_written_meanwhile(tmp_path):
    tokens, labels, ids = rows(70)
    writer = TokenWriter(tmp_path, ABOUT, shard_rows=10)
    assert writer.missing(70, rank=0, world=2) == [0, 2, 4, 6]
    writer.write(0, tokens[:10], labels[:10], ids[:10])
    assert writer.missing(70, rank=0, world=2) == [2, 4, 6]
    assert writer.missing(70, rank=1, world=2) == [1, 3, 5]


def test_unfinished_folders_are_refused_and_go_on(tmp_path):
    tokens, labels, ids = rows(20)
    writer = TokenWriter(tmp_path, ABOUT, shard_rows=10)
    writer.write(1, tokens[10:], labels[10:], ids[10:])
    (tmp_path / ".shard-00000.0123456789abcdef.tmp").mkdir()  # left by processes that were killed
    (tmp_path / ".begun.json.0123456789abcdef.tmp").touch()
    with pytest.raises(UserError, match="begun but not finished"):
        open_tokens(tmp_path)
    with pytest.raises(ValueError, match="not written yet"):
        writer.finish(20)
    again = TokenWriter(tmp_path, ABOUT, shard_rows=10)
    assert again.missing(20) == [0]
    again.write(0, tokens[:10], labels[:10], ids[:10])
    assert np.array_equal(again.finish(20).tokens[:], tokens.numpy())
    left = {"begun.json", "manifest.json", "shard-00000", "shard-00001", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == left


def test_a_folder_of_other_tokens_is_refused(tmp_path):
    write_tokens(tmp_path, *rows(5), ABOUT)
    with pytest.raises(UserError, match="tokenizer 'abc' there, 'other' now"):
        TokenWriter(tmp_path, {**ABOUT, "tokenizer": "other"})


def test_tokens_outside_the_codebook_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found .*50000, expected 0\.\.49999"):
        write_tokens(tmp_path / "a", torch.tensor([[0, 50_000]]), torch.tensor([0]), torch.tensor([0]), ABOUT)
    with pytest.raises(UserError, match="1 to 65536"):
        TokenWriter(tmp_path / "b", {**ABOUT, "codebook_size": 65_537})


def test_damaged_shards_are_named(tmp_path):
    write_tokens(tmp_path, *rows(50), ABOUT)
    path = tmp_path / "shard-00000" / "tokens.npy"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"shard-00000/tokens\.npy"):
        open_tokens(tmp_path)


def test_a_folder_without_tokens_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no manifest\.json"):
        open_tokens(tmp_path)


def test_lines_of_json_survive_the_way_there_and_back(tmp_path):
    tokens, labels, _ = rows(25, codes=64)
    lines = [json.dumps({"class_id": int(c), "tokens": t.tolist()}) + "\n" for c, t in zip(labels, tokens, strict=True)]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    found, problems = import_jsonl(
        tmp_path / "in.jsonl", tmp_path / "tokens", codebook_size=64, num_classes=2, shard_rows=10
    )
    assert problems == []
    assert np.array_equal(found.tokens[:], tokens.numpy())
    assert torch.equal(found.labels, labels)
    export_jsonl(found, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "".join(lines)


def test_bad_lines_are_named_by_number_and_the_rest_is_kept(tmp_path):
    good = '{"class_id": 1, "tokens": [1, 2, 3]}'
    bad = {
        2: ("not json", "expected {"),
        3: ('{"class_id": 1}', "expected {"),
        6: ('{"class_id": 9, "tokens": [1, 2, 3]}', "class_id: expected a whole number in 0..3, found 9"),
        7: ('{"class_id": "1", "tokens": [1, 2, 3]}', "class_id"),
        8: ('{"class_id": 1, "tokens": [1, 2, 64]}', "tokens: expected 0..63, found 1..64"),
        9: ('{"class_id": 1, "tokens": [1, -2, 3]}', "tokens: expected 0..63"),
        10: ('{"class_id": 1, "tokens": [1, 2]}', "expected (3,) tokens"),
        11: ('{"class_id": 1, "tokens": [1.0, 2.0, 3.0]}', "whole numbers"),
        13: ('{"class_id": 1, "tokens": [[1], [2, 3]]}', "expected {"),
        14: ("\xff\xfe", "expected {"),
    }
    lines = [bad[number][0] if number in bad else good for number in range(1, 17)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), encoding="latin-1")
    found, problems = import_jsonl(tmp_path / "in.jsonl", tmp_path / "tokens", codebook_size=64, num_classes=4)
    assert found.ids.tolist() == [0, 3, 4, 11, 14, 15]  # lines 1, 4, 5, 12, 15 and 16
    assert found.tokens[:].tolist() == [[1, 2, 3]] * 6
    assert [int(problem.split(":")[0].removeprefix("line ")) for problem in problems] == list(bad)
    for problem, (_, reason) in zip(problems, bad.values(), strict=True):
        assert reason in problem


def test_a_file_without_a_valid_line_is_refused(tmp_path):
    (tmp_path / "in.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="no valid line; line 1"):
        import_jsonl(tmp_path / "in.jsonl", tmp_path / "tokens", codebook_size=64, num_classes=4)
    assert not (tmp_path / "tokens").exists()
