"""Weights that were published without a licence are noted, once for each file and run, and never refused."""

import subprocess
import sys
import warnings
from pathlib import Path
from shutil import copy

import pytest

from robustok import load_tokenizer
from robustok.formats.sources import UnlicensedWeights
from robustok.models.load import open_checkpoint

PEERS = Path(__file__).parents[1] / "golden_peers"


@pytest.fixture
def unlicensed(tmp_path) -> Path:
    copy(PEERS / "maetok_sit" / "ae_ape_model.safetensors", tmp_path / "model.safetensors")
    copy(PEERS / "maetok_sit" / "ae_ape_config.json", tmp_path / "config.json")
    return tmp_path


def test_an_unlicensed_source_is_noted(unlicensed, monkeypatch):
    with pytest.warns(UnlicensedWeights, match=r"model\.safetensors \(MAETok\): published without a licence \(Hhhhhh"):
        load_tokenizer(unlicensed, num_heads=2)
    monkeypatch.setenv("RANK", "1")  # another process of torchrun says it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_tokenizer(unlicensed, num_heads=2)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("llamagen/vq_tiny.pt", "LlamaGen VQ"),
        ("maskgit_vqgan/maskgit_f16_tiny.bin", "MaskGIT-VQGAN"),
        ("ibq/ibq_ema_tiny.ckpt", "IBQ"),
    ],
)
def test_a_licensed_source_is_known_and_not_noted(file, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_checkpoint(PEERS / file, "tokenizer").source.name == name


def test_a_verb_notes_each_file_once(unlicensed):
    """Opened several times in one process."""
    program = f"from robustok import load_tokenizer\nfor _ in 1, 2, 3: load_tokenizer({str(unlicensed)!r}, num_heads=2)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr.count("published without a licence") == 1


def test_verbs_note_it(unlicensed, tmp_path_factory):
    ours = tmp_path_factory.mktemp("elsewhere") / "ours"
    argv = [str(unlicensed), str(ours), "--num_heads", "2"]
    run = subprocess.run([sys.executable, "-m", "robustok.convert", *argv], capture_output=True, text=True, check=True)
    assert run.stderr.count("published without a licence") == 1 and (ours / "config.json").is_file()
