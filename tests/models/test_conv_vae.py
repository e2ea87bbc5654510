"""diffusers' AutoencoderKL: random weights of the installed class, and other sizes in its layout there and back."""

import json
from dataclasses import replace

import pytest
import torch

from robustok import load_tokenizer
from robustok.checkpoints.checkpoint import Checkpoint
from robustok.core.errors import UserError
from robustok.formats.diffusers_vae import DIFFUSERS_VAE, to_published
from robustok.model_configs import ConvVAEConfig
from robustok.models.interfaces import ContinuousTokenizer, is_discrete
from robustok.models.tokenizers.conv_vae import ConvVAE

SMALL = ConvVAEConfig(image_size=32, widths=(32, 64), blocks=1, latent_width=3, scaling_factor=0.5)


def written(config, folder):
    """A folder as diffusers writes it, of random weights; and our tokenizer with them."""
    torch.manual_seed(0)
    tokenizer = ConvVAE(config).eval()
    content = DIFFUSERS_VAE.write(Checkpoint(folder, "ours", config, {"ema": tokenizer.state_dict()}))
    folder.rmdir()
    content.save(folder)
    return tokenizer


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"widths": (32, 64, 32), "blocks": 2, "middle_attention": False, "shift_factor": 0.1},
        {"quant_conv": False, "post_quant_conv": False, "latent_width": 5},
    ],
)
def test_sizes_survive_the_published_layout(changes, tmp_path):
    config = replace(SMALL, **changes)
    tokenizer = written(config, tmp_path)
    read = load_tokenizer(tmp_path)
    assert read.config == config
    assert isinstance(read, ContinuousTokenizer) and not is_discrete(read)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(read.reconstruct(images), tokenizer.reconstruct(images))
    with pytest.raises(UserError, match="multiple of"):
        load_tokenizer(tmp_path, image_size=33)
    assert load_tokenizer(tmp_path, image_size=64).grid == 2 * read.grid


def test_former_names_of_attention_are_read(tmp_path):
    tokenizer = written(SMALL, tmp_path)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = to_published(tokenizer.state_dict(), SMALL)
    for new, old in former.items():
        state = {key.replace(f".{new}.", f".{old}."): tensor for key, tensor in state.items()}
    torch.save(state, tmp_path / "old.pt")
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(load_tokenizer(tmp_path / "old.pt", image_size=32).encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm_num_groups": 16}, "norm_num_groups = 16"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
    ],
)
def test_other_networks_are_refused(settings, message, tmp_path):
    written(SMALL, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(UserError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("attention", [True, False])
@torch.no_grad()
def test_the_installed_class_gives_the_same(attention, tmp_path, near):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    levels = 3
    model = diffusers.AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=2,
        latent_channels=4,
        sample_size=32,
        mid_block_add_attention=attention,
    ).eval()
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    tokenizer, images = load_tokenizer(tmp_path), torch.rand(2, 3, 32, 32) * 2 - 1
    z = model.encode(images).latent_dist.mode()
    near(tokenizer.encode(images), z.flatten(2).mT)
    near(tokenizer.decode(z.flatten(2).mT), model.decode(z).sample)
    back = to_published(tokenizer.state_dict(), tokenizer.config)
    model.load_state_dict(back)
    near(model.decode(z).sample, tokenizer.decode(z.flatten(2).mT))
