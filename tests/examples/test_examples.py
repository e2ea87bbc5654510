"""The examples do what they say, at a tiny size."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustok.evaluation import pfid

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_vq_vae(capsys):
    found = runpy.run_path(str(EXAMPLES / "vq_vae.py"))["main"](["--steps", "60"])
    plain, perturbed = found.values()
    assert plain[0] < plain[-1] and perturbed[-1] < plain[-1], "perturbation helps where all tokens are replaced"
    assert perturbed[0] < 0.2, "it learned: the mean digit leaves 0.29"
    assert "of codes used" in capsys.readouterr().out


class TinyVQModel(nn.Module):
    """The names of diffusers' VQModel that the example uses, on a network of two layers."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 4, 4, 4), nn.ConvTranspose2d(4, 3, 4, 4)
        self.quantize = SimpleNamespace(embedding=nn.Embedding(32, 4))

    def encode(self, images):
        return SimpleNamespace(latents=self.down(images))

    def decode(self, h, force_not_quantize=False):
        assert force_not_quantize
        return SimpleNamespace(sample=self.up(h))


def vq_model():
    """diffusers' own where it is installed."""
    try:
        from diffusers import VQModel
    except ImportError:
        return TinyVQModel()
    return VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=4,
        num_vq_embeddings=32,
    )


@torch.no_grad()
def test_pfid_of_a_vqmodel():
    torch.manual_seed(0)
    model = vq_model().eval()
    rows = runpy.run_path(str(EXAMPLES / "pfid_of_a_vqmodel.py"))["Rows"](model)
    x = torch.rand(2, 3, 16, 16) * 2 - 1
    z = model.encode(x).latents
    torch.testing.assert_close(rows.decode(rows.encode(x)), model.decode(z, force_not_quantize=True).sample)
    images = torch.randint(256, (12, 3, 16, 16), dtype=torch.uint8)
    pooled = lambda batch: SimpleNamespace(features=batch.float().mean((2, 3)))  # noqa: E731
    result = pfid(rows, images, pooled, alphas=(1.0,), deltas=(1, 32))
    assert result.table[1.0, 1] == pytest.approx(result.rfid) and result.table[1.0, 32] != result.rfid


def test_post_training(tmp_path, capsys):
    tiny = {"data.test": 1000, "classifier.epochs": 2, "evaluation.samples_per_class": 2}
    found = runpy.run_path(str(EXAMPLES / "post_training.py"))["main"]([str(tmp_path / "new")], **tiny)
    assert found["decoder.pt"] < 0.9 * found["vq.pt"], "the decoder learned"
    assert "their tokens are the same" in capsys.readouterr().out
