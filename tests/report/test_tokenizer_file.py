"""doctor --tokenizer says what a file is and how it works; untrained weights are a finding, not a failure."""

import json
from pathlib import Path

import pytest

from robustok import doctor
from robustok.core.cli import run_verb

PEERS = Path(__file__).parents[1] / "golden_peers"


def test_a_discrete_tokenizer_as_json(capsys):
    file = PEERS / "maskgit_vqgan" / "maskgit_f16_tiny.bin"
    argv = ["--tokenizer", str(file), "--image_size", "32", "--images", "digits", "--json"]
    assert run_verb(doctor.main, argv) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["layout"].startswith("MaskGIT-VQGAN (it has encoder.down.0") and found["family"] == "conv_tokenizer"
    assert found["value_range"] == [0.0, 1.0] and found["image_size"] == 32
    assert found["source"]["licence"] == "Apache-2.0" and found["source"]["resize"].startswith("shorter side, bilinear")
    assert found["codes"]["similarity"] == "l2" and 1 <= found["codes"]["used"] <= found["codes"]["K"]
    seen = found["reconstruction"]
    assert seen["count"] == 16 and set(seen["psnr"]) == {"[0, 1]", "[-1, 1]", "[0, 255]"}
    assert seen["poor"] and "poor in every range" in seen["verdict"]  # the weights are random


@pytest.mark.filterwarnings("ignore::robustok.formats.sources.UnlicensedWeights")
def test_a_continuous_tokenizer_for_people(capsys):
    file = PEERS / "maetok_sit" / "softvq_ape_model.safetensors"
    assert run_verb(doctor.main, ["--tokenizer", str(file), "--num_heads", "2"]) == 0
    said = capsys.readouterr().out
    words = ("MAETok or SoftVQ tokenizer (it has", "continuous: no codebook", "published without a licence")
    for word in (*words, "two photographs", "as if in [0, 1]", "mean colours alone", "poor in every range"):
        assert word in said


def test_what_cannot_be_opened_exits_with_2(tmp_path, capsys):
    assert run_verb(doctor.main, ["--tokenizer", str(tmp_path / "none.pt")]) == 2
    assert run_verb(doctor.main, ["--tokenizer", str(PEERS / "llamagen" / "gpt_tiny.pt")]) == 2
    assert "expected a tokenizer" in capsys.readouterr().err
