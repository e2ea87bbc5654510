"""Loading and converting checkpoints of every layout, and what is said about wrong ones."""

import argparse
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from robustok import load_generator, load_tokenizer
from robustok.core.errors import UserError
from robustok.formats.pickles import read_pickled
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.generators.rar import RAR
from robustok.models.load import check_codebooks, meta_model
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer


@pytest.mark.parametrize("weights", ["ema", "model"])
def test_released_tokenizer(released, golden, images, weights):
    tokenizer = load_tokenizer(released, weights, num_heads=2)
    prefix = "ema_" if weights == "ema" else ""
    assert torch.equal(tokenizer.tokenize(images), golden("tokenizer_io")[prefix + "indices"].long())
    assert not tokenizer.training and tokenizer.image_size == 256 and tokenizer.grid == 16 and tokenizer.normalize
    assert tokenizer.codebook.shape == (512, 16)


def test_released_generator(generator_file, golden_path, golden, near):
    generator = load_generator(generator_file)
    assert generator.config == RARConfig(64, 3, 4, 256, codebook_size=512, num_classes=10, num_tokens=256)
    assert not generator.training
    expected = read_pickled(generator_file)
    for name, tensor in generator.state_dict().items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name].float())


def test_other_sizes_are_read_off_the_tensors(tmp_path):
    """Encoder and decoder of different widths and depths, fewer latents, another patch, no LayerScale."""
    config = TokenizerConfig(
        image_size=48,
        patch_size=12,
        width=96,
        depth=3,
        heads=4,
        decoder_width=64,
        decoder_depth=1,
        decoder_heads=4,
        mlp_ratio=2.0,
        layer_scale=None,
        drop_path=0.1,
        num_latents=9,
        codebook_size=40,
        code_width=6,
    )
    source = ViTTokenizer(config).eval()
    from robustok.formats.robustok_release import to_released

    torch.save(
        {"model": to_released(source.state_dict(), config, {}), "ema": {}, "args": argparse.Namespace()},
        tmp_path / "other.pt",
    )
    found = load_tokenizer(tmp_path / "other.pt", "model", num_heads=4)
    assert found.config == config
    images = torch.rand(2, 3, 48, 48) * 2 - 1
    assert torch.equal(found.reconstruct(images), source.reconstruct(images))
    with pytest.raises(UserError, match="without 'ema' weights; it has 'model'"):
        load_tokenizer(tmp_path / "other.pt", num_heads=4)


def test_heads_of_an_unusual_width_must_be_given(released):
    with pytest.raises(UserError, match=r"width 64 is no standard size .* give num_heads"):
        load_tokenizer(released)
    with pytest.raises(UserError, match="num_heads must divide the width 64, found 3"):
        load_tokenizer(released, num_heads=3)


def test_keys_and_shapes_that_do_not_fit(released, tmp_path):
    content = read_pickled(released)
    state = content["ema"]
    dropped = [name for name in state if ".blocks.1.mlp." in name and name.startswith("encoder")]
    for name in dropped:
        del state[name]
    state["decoder.surprise"] = torch.zeros(1)
    state["decoder.mask_token"] = torch.zeros(1, 1, 32)
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(UserError) as error:
        load_tokenizer(tmp_path / "wrong.pt", num_heads=2)
    message = str(error.value)
    assert "recognised as released RobusTok tokenizer (it has encoder.latent_tokens" in message
    assert "4 missing: encoder.vit.blocks.1.mlp.fc1.weight" in message
    assert "1 unexpected: decoder.surprise" in message
    assert "1 of another shape: decoder.mask_token (1, 1, 32) instead of (1, 1, 64)" in message


def test_many_wrong_keys_are_named_ten_at_a_time(released, tmp_path):
    content = read_pickled(released)
    content["ema"] |= {f"extra.{i:02d}": torch.zeros(1) for i in range(25)}
    torch.save(content, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=r"25 unexpected: extra\.00, .*extra\.09 and 15 more"):
        load_tokenizer(tmp_path / "wrong.pt", num_heads=2)


def test_mixed_up_files(released, generator_file, tmp_path):
    with pytest.raises(UserError, match=r"is a released RAR generator.*expected a tokenizer"):
        load_tokenizer(generator_file)
    with pytest.raises(UserError, match="is a released RobusTok tokenizer"):
        load_generator(released)  # heads are not asked for before that
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"no known layout: found conv\.weight; expected"):
        load_tokenizer(tmp_path / "other.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        load_tokenizer(tmp_path / "list.pt")
    with pytest.raises(UserError, match="does not exist"):
        load_tokenizer(tmp_path / "nothing.pt")


def test_hub_id_in_the_cache(released, tmp_path, monkeypatch):
    """A downloaded file is found by owner/name/file, without any connection."""
    constants = pytest.importorskip("huggingface_hub.constants")
    cached = tmp_path / "models--somebody--robustok"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    (cached / "snapshots" / ("0" * 40)).mkdir(parents=True)
    shutil.copy(released, cached / "snapshots" / ("0" * 40) / "main-train.pt")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_tokenizer("somebody/robustok/main-train.pt", num_heads=2).grid == 16
    with pytest.raises(UserError, match=r"no valid checkpoint: .* found main-train\.pt"):
        load_tokenizer("somebody/robustok")


def test_hub_id_that_is_not_in_the_cache():
    with pytest.raises(UserError, match=r"somebody/robustok does not exist.*(robustok\[hub\]|hf download)"):
        load_tokenizer("somebody/robustok")


def test_weights_by_another_name(released):
    with pytest.raises(ValueError, match='weights must be "ema" or "model", found \'best\''):
        load_tokenizer(released, "best", num_heads=2)


def test_damaged_folders(converted):
    path = converted / "ema.safetensors"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-4])
    with pytest.raises(UserError, match=r"ema\.safetensors is damaged: found \d+ bytes, expected"):
        load_tokenizer(converted)
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ema\.safetensors is damaged: its SHA-256"):
        load_tokenizer(converted)
    path.unlink()
    with pytest.raises(UserError, match=r"ema\.safetensors is missing"):
        load_tokenizer(converted)
    for content, message in {
        '{"kind": "toaster", "config": {}}': "kind must be one of tokenizer, .*rar, .*found 'toaster'",
        '{"kind": "tokenizer", "config": 3}': "config must hold the settings of a tokenizer, found 3",
        '{"kind": "tokenizer", "config": {"size": 3}}': "unknown settings of a tokenizer: size",
        "{": "cannot be read as JSON",
    }.items():
        (converted / "config.json").write_text(content)
        with pytest.raises(UserError, match=message):
            load_tokenizer(converted)
    (converted / "config.json").write_text('{"kind": "tokenizer", "config": {}}')
    for content, message in {"[]": "expected one JSON object", '{"files": 3}': "holds no sizes and hashes"}.items():
        (converted / "manifest.json").write_text(content)
        with pytest.raises(UserError, match=rf"manifest\.json.*{message}"):
            load_tokenizer(converted)


def test_stage_folder(converted, tmp_path):
    """The best step if the stage names one, else the newest valid one; else a reason for each."""
    stage = tmp_path / "tokenizer"
    for step in (5, 40, 300):
        shutil.copytree(converted, stage / f"step-{step}")
    tensors = load_file(stage / "step-40" / "ema.safetensors")
    save_file({k: v + 1 if k == "quantizer.codebook" else v for k, v in tensors.items()}, stage / "step-40/new")
    (stage / "step-40/new").rename(stage / "step-40" / "ema.safetensors")
    (stage / "stage.json").write_text('{"best": "step-5"}')
    first = load_tokenizer(stage).codebook
    (stage / "stage.json").write_text("{}")
    (stage / "step-300" / "config.json").unlink()
    assert torch.equal(load_tokenizer(stage).codebook, first)  # 300 is incomplete, 40 has another hash
    shutil.rmtree(stage / "step-5")
    with pytest.raises(UserError, match=r"holds no valid checkpoint: .*step-300.*missing.*step-40.*SHA-256"):
        load_tokenizer(stage)


def test_generator_of_another_codebook():
    tokenizer = meta_model(TokenizerConfig(codebook_size=256)).to_empty(device="cpu")
    generator = RAR(RARConfig(16, 1, 2, 16, codebook_size=512, num_classes=10, num_tokens=16))
    with pytest.raises(UserError, match="16 tokens of 512 codes, the tokenizer has 16 tokens of 256 codes"):
        check_codebooks(tokenizer, generator)


def test_tokens_are_counted_and_not_squared():
    """With residual scales there are more tokens than latents; a token of several codebooks is no token of RAR's."""
    generator = RAR(RARConfig(16, 1, 2, 16, codebook_size=256, num_classes=10, num_tokens=21))
    check_codebooks(meta_model(TokenizerConfig(scales=(1, 2, 4))).to_empty(device="cpu"), generator)
    with pytest.raises(UserError, match="21 tokens of 256 codes, the tokenizer has 16 tokens"):
        check_codebooks(meta_model(TokenizerConfig()).to_empty(device="cpu"), generator)
    with pytest.raises(UserError, match="the tokenizer has 2 codebooks"):
        check_codebooks(meta_model(TokenizerConfig(codebooks=2)).to_empty(device="cpu"), generator)


def test_sizes_that_contradict_the_file(generator_file):
    assert load_generator(generator_file, num_heads=4, num_tokens=256).config.heads == 4
    with pytest.raises(UserError, match="num_heads: given 8, but the file says 4; leave it out"):
        load_generator(generator_file, num_heads=8)
    with pytest.raises(UserError, match="num_tokens: given 64, but the file says 256"):
        load_generator(generator_file, num_tokens=64)


@pytest.mark.parametrize("dropped", ["encoder.model.cls_token", "quantize.embedding.weight", "decoder.model.cls_token"])
def test_sizes_that_cannot_be_read(released, tmp_path, dropped):
    content = read_pickled(released)
    del content["ema"][dropped]
    torch.save({"ema": content["ema"]}, tmp_path / "wrong.pt")
    with pytest.raises(UserError, match=f"recognised as released RobusTok tokenizer .* 1 missing: {dropped}"):
        load_tokenizer(tmp_path / "wrong.pt", num_heads=2)
