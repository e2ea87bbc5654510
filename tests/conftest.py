"""What all rooms share: Triton's interpreter where there is no GPU (it decides at its import, so this comes first)."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def make_model():
    """Small RAR networks whose parameters are all random: no branch is the identity, no bias zero."""
    from robustok.model_configs import RARConfig
    from robustok.models.generators.rar import RAR

    def make(num_tokens=24, codebook_size=40, num_classes=5, spread=0.3, **shape):
        shape = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64} | shape
        model = RAR(RARConfig(codebook_size=codebook_size, num_classes=num_classes, num_tokens=num_tokens, **shape))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data.normal_(0, spread, generator=generator)
        return model.eval()

    return make
