"""from_pretrained, save_pretrained, push_to_hub: the same weights to the bit, and a card that claims nothing false."""

import inspect
import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

import robustok
from robustok import load_generator, load_tokenizer
from robustok.checkpoints.writing import save
from robustok.convert import main as convert
from robustok.core.errors import RunError, UserError
from robustok.formats.sources import UnlicensedWeights
from robustok.model_configs import MAETokConfig, SiTConfig, TokenizerConfig
from robustok.models.generators.sit import SiT
from robustok.models.registry import FAMILIES
from robustok.models.tokenizers.maetok import MAETok
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

MAETOK = Path(__file__).parents[1] / "golden_peers" / "maetok_sit"
SMALL = dict(image_size=8, patch_size=4, width=16, depth=1, heads=2)


def equal(a, b):
    mine, other = a.state_dict(), b.state_dict()
    return type(a) is type(b) and mine.keys() == other.keys() and all(torch.equal(mine[k], other[k]) for k in mine)


def card(folder):
    """(the facts at the head, the text) of a card."""
    _, head, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), text


@pytest.fixture
def run(tmp_path):
    """A run's folder as training leaves it, with its tokenizer evaluated."""
    torch.manual_seed(0)
    model = ViTTokenizer(TokenizerConfig(**SMALL, codebook_size=8, code_width=4))
    documents = {
        "config": {"kind": "tokenizer", "config": asdict(model.config)},
        "state": {"step": 7, "settings": {"seed": 3, "data": {"root": "/home/somebody/photos", "val": 100}}},
    }
    stage = tmp_path / "runs" / "mine" / "tokenizer"
    other = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    save(stage / "step-7", {"ema": model.state_dict(), "model": other}, documents)
    (stage / "stage.json").write_text(json.dumps({"best": "step-7"}))
    (stage.parent / "evaluation").mkdir()
    measured = {"distance": "FD-photos", "tokenizer": {"psnr": 21.5, "pfd": {"0.9": 3.25}}, "generator": {"gfd": 9.0}}
    (stage.parent / "evaluation" / "metrics.json").write_text(json.dumps(measured))
    return stage


def test_every_family_knows_its_name():
    assert {family.build.kind: family.kind for family in FAMILIES.values()} == {kind: kind for kind in FAMILIES}


def test_a_tokenizer_of_a_run_and_back(run, tmp_path):
    loaded = robustok.Tokenizer.from_pretrained(run)
    assert equal(loaded, load_tokenizer(run))
    loaded.save_pretrained(tmp_path / "saved")
    again = robustok.Tokenizer.from_pretrained(tmp_path / "saved")
    assert equal(again, loaded) and again.config == loaded.config
    head, text = card(tmp_path / "saved")
    assert head == {"library_name": "robustok", "tags": ["robustok", "image-tokenizer", "tokenizer"]}
    for said in ("7 steps", "seed: 3", "root: photos", "| psnr | 21.5 |", "| pfd.0.9 | 3.25 |", "FD-photos"):
        assert said in text, said
    assert "None is stated" in text
    assert "somebody" not in text and "gfd |" not in text  # nobody's disk, no other stage's figures
    again.save_pretrained(tmp_path / "twice")
    assert card(tmp_path / "twice") == (head, text)  # what is known goes along


@pytest.mark.parametrize("change", ["trained further", "not the averaged weights", "another checkpoint is the best"])
def test_figures_of_other_weights_are_left_out(run, tmp_path, change):
    tokenizer = load_tokenizer(run, "model" if change == "not the averaged weights" else "ema")
    if change == "trained further":
        tokenizer.codebook.data[0, 0] += 1
    if change == "another checkpoint is the best":
        (run / "stage.json").write_text(json.dumps({"best": "step-9"}))
        tokenizer = load_tokenizer(run / "step-7")
    tokenizer.save_pretrained(tmp_path / "saved")
    text = card(tmp_path / "saved")[1]
    assert "21.5" not in text and "Figures" not in text
    assert ("seed: 3" in text) == (change == "another checkpoint is the best")
    assert equal(load_tokenizer(tmp_path / "saved"), tokenizer)


@pytest.mark.parametrize("licence", [None, "MIT", "as that page says"])
def test_licence_and_source_of_a_published_file(tmp_path, licence):
    for there, name in (("config.json", "config.json"), ("model.safetensors", "model.safetensors")):
        shutil.copy(MAETOK / f"ae_ape_{there}", tmp_path / name)
    tokenizer = load_tokenizer(tmp_path, num_heads=4)
    source = replace(tokenizer.origin.source, licence=licence)
    assert source.repository == "Hhhhhhao/continuous_tokenizer"
    tokenizer.origin = replace(tokenizer.origin, source=source)
    tokenizer.save_pretrained(tmp_path / "saved")
    head, text = card(tmp_path / "saved")
    assert head.get("license") == ("mit" if licence == "MIT" else None) and source.repository in text
    assert ("without a licence" if licence is None else f"published under: {licence}.") in text
    with pytest.warns(UnlicensedWeights) if licence is None else nullcontext():
        again = load_tokenizer(tmp_path / "saved")
    assert (again.origin.source.repository, again.origin.source.licence) == (source.repository, licence)
    assert again.origin.upstream == tokenizer.origin.upstream and equal(again, tokenizer)
    convert([str(tmp_path / "saved"), str(tmp_path / "converted")])
    assert load_tokenizer(tmp_path / "converted").origin.source == again.origin.source


def test_of_fresh_weights_nothing_is_invented(tmp_path):
    tokenizer = MAETok(MAETokConfig(**SMALL, num_latents=4, latent_width=2, targets=(), hidden=(0, 0)))
    tokenizer.save_pretrained(tmp_path / "saved")
    head, text = card(tmp_path / "saved")
    assert "license" not in head and "None is stated" in text and "Not known here" in text


def test_latent_statistics_stand_in_the_config(tmp_path):
    shape = dict(num_latents=4, latent_width=2)
    mae = MAETok(MAETokConfig(**SMALL, **shape, latent_mean=0.25, latent_std=2.0, targets=(), hidden=(0, 0)))
    mae.save_pretrained(tmp_path / "tokenizer")
    stored = json.loads((tmp_path / "tokenizer" / "config.json").read_text())["config"]
    assert (stored["latent_mean"], stored["latent_std"]) == (0.25, 2.0)
    scale = dict(latent_mean=(0.5, -1.0), latent_std=(2.0, 0.5))
    generator = SiT(SiTConfig(width=16, depth=1, heads=2, num_classes=3, **shape, **scale)).eval()
    generator.save_pretrained(tmp_path / "generator")
    again = robustok.Generator.from_pretrained(tmp_path / "generator")
    assert again.config == generator.config and equal(again, generator)
    assert equal(load_generator(tmp_path / "generator"), generator)
    assert "Generator.from_pretrained" in card(tmp_path / "generator")[1]
    with pytest.raises(UserError, match="expected a tokenizer"):
        robustok.Tokenizer.from_pretrained(tmp_path / "generator")


def test_a_card_may_be_edited(run, tmp_path):
    """The sizes of the other files are vouched for."""
    load_tokenizer(run).save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "README.md").write_text("mine")
    load_tokenizer(tmp_path / "saved")


def test_nothing_is_overwritten(run, tmp_path):
    (tmp_path / "photo.jpg").write_text("")
    with pytest.raises(UserError, match="holds something already"):
        load_tokenizer(run).save_pretrained(tmp_path)
    assert (tmp_path / "photo.jpg").exists()


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """huggingface_hub without a connection: its own signatures, and a folder in place of the hub."""
    library = pytest.importorskip("huggingface_hub")
    calls = {}

    class Hub:
        def __init__(self, token):
            assert token is None

        def create_repo(self, repo_id, **given):
            calls["create"] = given
            return library.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, **given):
            calls["files"] = {path.name: path.read_bytes() for path in given["folder_path"].iterdir()}
            calls["upload"] = given
            return type("Commit", (), {"commit_url": "https://huggingface.co/somebody/mine/commit/0"})

    monkeypatch.setattr(library, "HfApi", Hub)
    return calls


def test_push_to_hub(run, tmp_path, hub):
    tokenizer = load_tokenizer(run)
    assert tokenizer.push_to_hub("somebody/mine", private=True).endswith("/commit/0")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert hub["files"] == {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    assert hub["create"] == {"private": True, "exist_ok": True} and hub["upload"]["repo_id"] == "somebody/mine"
    from huggingface_hub.hf_api import HfApi

    for name, given in (("create_repo", hub["create"]), ("upload_folder", hub["upload"])):
        assert given.keys() <= inspect.signature(getattr(HfApi, name)).parameters.keys()


def test_what_the_hub_says_is_one_sentence(run, monkeypatch):
    library = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(library.HfApi, "create_repo", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no way")))
    with pytest.raises(RunError, match="somebody/mine could not be uploaded: no way"):
        load_tokenizer(run).push_to_hub("somebody/mine")


def test_without_the_library_one_sentence(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'robustok\[hub\]'"):
        load_tokenizer(run).push_to_hub("somebody/mine")


@pytest.mark.parametrize("offline", [True, False])
def test_downloads_are_asked_for(run, tmp_path, monkeypatch, offline):
    library = pytest.importorskip("huggingface_hub")
    load_tokenizer(run).save_pretrained(tmp_path / "saved")
    asked = []

    def download(repository, **given):
        asked.append((repository, given))
        return str(tmp_path / "saved")

    monkeypatch.setattr(library, "snapshot_download", download)
    given = {} if offline else {"local_files_only": False, "revision": "v1"}
    assert equal(robustok.Tokenizer.from_pretrained("somebody/mine", **given), load_tokenizer(run))
    expected = {"local_files_only": offline, "revision": None if offline else "v1", "token": None, "cache_dir": None}
    assert asked == [("somebody/mine", expected)]
