"""How a training step perturbs latents: the same call for every kind, with one codebook, several, and none."""

import pytest
import torch

from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.perturbation import Perturbation, kind_for
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.ops.perturbation import KINDS

SHAPE = {"image_size": 16, "width": 32, "depth": 1, "heads": 2, "codebook_size": 64, "code_width": 8}
IDS = torch.tensor([4, 9, 2, 7])


def images() -> torch.Tensor:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1


def tokenizer(**changes) -> ViTTokenizer:
    torch.manual_seed(0)
    return ViTTokenizer(TokenizerConfig(**SHAPE | {"patch_size": 4} | changes)).eval()


def step(kind: str, **changes) -> Perturbation:
    given = {"alpha": 0.7, "beta": 1.0, "delta": 9, "seed": 5, "num_images": 2, "sample_ids": IDS, "strength": 0.5}
    return Perturbation(kind=kind, **{**given, **changes})


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_only_what_the_decoder_gets_is_perturbed(kind, codebooks):
    """Losses, usage, clean latents and the images beyond num_images are those of a step without perturbation."""
    model = tokenizer(codebooks=codebooks)
    clean, moved = model(images()), model(images(), perturbation=step(kind))
    for name in ("z_q_clean", "nearest", "vq_loss", "commit_loss", "usage"):
        assert torch.equal(getattr(clean, name), getattr(moved, name)), name
    assert torch.equal(clean.z_q[2:], moved.z_q[2:]) and torch.equal(clean.indices[2:], moved.indices[2:])
    share = (moved.indices != moved.nearest)[:2].float().mean()
    assert 0.3 < share <= 1 and not torch.equal(clean.images[:2], moved.images[:2])
    assert (moved.indices == -1).any() == (kind in ("gaussian", "interpolate", "mask"))
    moved.images.square().sum().backward()
    assert model.quant_conv.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_perturbed_the_same_in_any_micro_batch(kind):
    model = tokenizer()
    whole = model(images(), perturbation=step(kind, num_images=3))
    parts = [
        model(images()[part], perturbation=step(kind, num_images=count, sample_ids=IDS[part]))
        for part, count in ((slice(0, 1), 1), (slice(1, 4), 2))
    ]
    torch.testing.assert_close(torch.cat([part.z_q for part in parts]), whole.z_q, rtol=0, atol=1e-5)


def test_the_adversary_raises_the_error_more_than_near_codes_do():
    """And leaves no gradient behind on the way."""
    model = tokenizer()
    error = {}
    for kind in ("neighbor", "adversarial"):
        steps = [step(kind, num_images=4, alpha=0.3, seed=seed) for seed in range(10)]
        with torch.no_grad():
            error[kind] = sum((model(images(), perturbation=s).images - images()).square().mean() for s in steps)
    assert error["adversarial"] > error["neighbor"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_strengths_are_those_of_the_images_up_to_the_largest():
    moved = step("gaussian", alpha=1.0, num_images=400, sample_ids=torch.arange(400)).apply(torch.zeros(400, 30, 10))
    spread = moved[0].flatten(1).std(1)
    assert spread.min() < 0.02 and 0.47 < spread.max() < 0.55 and 0.22 < spread.mean() < 0.28


def test_the_kind_follows_from_the_tokenizer_where_it_is_not_asked_for():
    model = tokenizer()
    assert (kind_for(model, None), kind_for(model, "mask")) == ("neighbor", "mask")
    continuous = object()
    assert (kind_for(continuous, None), kind_for(continuous, "gaussian")) == (None, "gaussian")
    with pytest.raises(ValueError, match="found uniform, which replaces codes"):
        kind_for(continuous, "uniform")
