"""Lists of tokenizers: what is refused, and what the shipped ones say."""

import re
from pathlib import Path

import pytest
import yaml

from robustok.benchmark.entries import PUBLISHED, read_list
from robustok.benchmark.ranks import rank_cells, rank_records
from robustok.core.errors import UserError
from robustok.formats.llamagen_vq import LLAMAGEN_VQ
from robustok.formats.maskgit_vqgan import MASKGIT_VQGAN
from robustok.formats.vqgan import IBQ, TAMING

METHOD = (Path(__file__).parents[2] / "docs" / "METHOD.md").read_text()
NAMES = {"VQGAN": "VQGAN-16384"}


def published() -> dict[str, list[float]]:
    """Name -> rFID, pFID, gFID with LlamaGen-B, gFID with LlamaGen-L, as docs/METHOD.md has them."""
    line = next(line for line in METHOD.splitlines() if line.startswith("- Published: RobusTok rFID"))
    rows = re.findall(r"([\w-]+) (\d+\.\d+)/(\d+\.\d+)/(\d+\.\d+)", line)
    with_l = re.search(r"Under LlamaGen-L.*?: ([\d., ]+) in the same order", line)[1].split(", ")
    assert len(rows) == len(with_l) == 11
    return {name: [*map(float, values), float(last)] for (name, *values), last in zip(rows, with_l, strict=True)}


def test_the_shipped_list_is_as_published():
    listing, expected = read_list("published"), published()
    lc = expected.pop("VQGAN-LC")
    assert {e.name: [e.published[name] for name in PUBLISHED] for e in listing.tokenizers} == expected
    (note,) = (note for note in listing.notes if "VQGAN-LC" in note)
    assert "no row" in note and "100,000" in note and all(f"{value:.2f}" in note for value in lc)
    for entry in listing.tokenizers:
        assert entry.source and entry.codebook_size and "." in entry.file
        assert not re.search(r"https?:|\.(com|co|org)\b", f"{entry.source} {entry.download}")  # names, no hosts
        if size := re.search(r"-(\d+)$", entry.name):
            assert int(size[1]) == entry.codebook_size


@pytest.mark.parametrize("source", [TAMING, IBQ, LLAMAGEN_VQ.source, MASKGIT_VQGAN.source])
def test_the_shipped_list_says_what_the_layouts_say(source):
    entries = [entry for entry in read_list("published").tokenizers if entry.source == source.repository]
    entries = [entry for entry in entries if entry.file in source.files]
    assert entries and all(entry.licence == source.licence for entry in entries)


def test_within_one_codebook_size_published_pfid_ranks_as_gfid_does():
    """METHOD.md: it does, for LlamaGen-B, and rFID does not."""
    rows = [entry.published | {"codebook_size": entry.codebook_size} for entry in read_list("published").tokenizers]
    records = rank_records(rows, ["rfid", "pfid"], "gfid_llamagen_b")
    found = {(record["metric"], record["over"]): record for record in records}
    assert found["pfid", "pairs within one K"]["kendall"]["value"] == 1
    assert found["rfid", "pairs within one K"]["kendall"]["value"] < 0.5
    assert found["pfid", "across K"]["points"] == 10 and found["pfid", "across K"]["kendall"]["value"] < 1
    assert found["pfid", "K = 8192"]["spearman"] is None
    assert rank_cells(found["pfid", "K = 8192"])[2:] == (3, "too few (3)", "too few (3)")


def test_rank_records_of_rows_without_figures_are_none():
    assert rank_records([{"codebook_size": 4, "pfid": 1.0}], ["pfid"], "gfid") == []
    same = [{"codebook_size": None, "pfid": 1.0, "gfid": float(i)} for i in range(4)]
    (record,) = rank_records(same, ["pfid"], "gfid")
    assert record["over"] == "across K" and rank_cells(record)[3:] == ("-", "-")  # all alike


ENTRY = {"name": "a", "file": "a.pt"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "found no tokenizers"),
        ({"tokenizers": []}, "found no tokenizers"),
        ({"tokenizers": [ENTRY], "tokeniser": 1}, "tokeniser is unknown"),
        ({"tokenizers": ["a.pt"]}, "entry 1: found 'a.pt', expected settings"),
        ({"tokenizers": [ENTRY, {"name": "b"}]}, r"entry 2 \(b\), file: is missing; expected text"),
        ({"tokenizers": [{**ENTRY, "fiel": "b"}]}, r"entry 1 \(a\), fiel: no such setting; expected one of name, file"),
        (
            {"tokenizers": [{**ENTRY, "num_heads": "4"}]},
            r"\(a\), num_heads: found '4', expected a whole number",
        ),
        ({"tokenizers": [{**ENTRY, "num_heads": True}]}, "num_heads: found True"),
        ({"tokenizers": [{**ENTRY, "file": 3}]}, r"\(a\), file: found 3, expected text"),
        ({"tokenizers": [{**ENTRY, "generator": "g.pt"}]}, r"\(a\), generator: found 'g.pt', expected settings"),
        ({"tokenizers": [{**ENTRY, "generator": {"files": "g"}}]}, r"\(a\), generator, files: no such setting"),
        ({"tokenizers": [{**ENTRY, "generator": {}}]}, r"\(a\), generator, file: is missing"),
        ({"tokenizers": [{**ENTRY, "published": {"rfid": "low"}}]}, r"\(a\), published: found rfid: 'low'"),
        ({"tokenizers": [{**ENTRY, "published": {"fid": 1}}]}, r"\(a\), published: found fid: 1, expected numbers"),
        ({"tokenizers": [{**ENTRY, "image_size": "large"}]}, r"image_size: found 'large', expected pixels, as 256 or"),
        ({"tokenizers": [{**ENTRY, "image_size": [256, 0]}]}, r"image_size: found 0, expected a whole number from 1"),
        ({"tokenizers": [{**ENTRY, "image_size": [256]}]}, r"image_size: found '\[256\]', expected pixels"),
        ({"tokenizers": [ENTRY, ENTRY]}, "name: 2 entries are called 'a'"),
    ],
)
def test_a_list_that_is_wrong_is_one_message(tmp_path, content, said):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=said) as caught:
        read_list(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(("written", "read"), [(256, 256), ([384, 256], (384, 256)), ([256, 256], 256), (None, None)])
def test_sizes_are_numbers_or_pairs(tmp_path, written, read):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump({"tokenizers": [{**ENTRY, "image_size": written}]}))
    assert read_list(path).tokenizers[0].image_size == read


def test_an_unknown_list_names_the_shipped_ones():
    with pytest.raises(UserError, match="digits, published"):
        read_list("publisht")
