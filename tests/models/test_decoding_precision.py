"""Decoding in bfloat16 against float32 on the CPU, for every family: images move by rounding and by no more."""

import pytest
import torch

from tests.small_tokenizers import CONFIGS, small_tokenizer


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", CONFIGS)
@torch.inference_mode()
def test_images_are_those_of_float32_on_the_cpu(family, precision, device):
    tokenizer = small_tokenizer(family)
    latents = torch.randn(3, *tokenizer.latent_shape, generator=torch.Generator().manual_seed(1))
    expected = tokenizer.decode(latents)
    tokenizer.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
        found = tokenizer.decode(latents.to(device))
    error = float((found.cpu().float() - expected).norm() / expected.norm())
    assert error <= {"float32": 1e-4, "bfloat16": 2e-2}[precision]
    assert (error > 1e-5) == (precision == "bfloat16")  # it did compute in it
