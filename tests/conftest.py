"""What all rooms share: Triton's interpreter where there is no GPU (it decides at its import, so this comes first)."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from robustok.ops.vq.backends import registry

HAS_GPU = torch.cuda.is_available()
GPU = (pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA device"))
DEVICES = ("cpu", pytest.param("cuda", marks=GPU))


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    """The CPU and, marked gpu, the GPU: for what must hold on both."""
    return request.param


@pytest.fixture(params=DEVICES)
def kernel_device(request) -> str:
    """The same for Triton's kernels, which run on the CPU in the interpreter alone, which is off where a GPU is."""
    if request.param == "cpu" and (reason := registry.reasons(torch.device("cpu"))["triton"]):
        pytest.skip(reason)
    return request.param


def with_random_parameters(model: torch.nn.Module, spread: float) -> torch.nn.Module:
    """No branch is the identity, no bias zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0, spread, generator=generator)
    return model.eval()


@pytest.fixture(scope="session")
def make_model():
    """Small RAR networks whose parameters are all random."""
    from robustok.model_configs import RARConfig
    from robustok.models.generators.rar import RAR

    def make(num_tokens=24, codebook_size=40, num_classes=5, spread=0.3, **shape):
        shape = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 64} | shape
        config = RARConfig(codebook_size=codebook_size, num_classes=num_classes, num_tokens=num_tokens, **shape)
        return with_random_parameters(RAR(config), spread)

    return make


@pytest.fixture(scope="session")
def make_llamagen():
    """Small LlamaGen networks whose parameters are all random."""
    from robustok.model_configs import LlamaGenConfig
    from robustok.models.generators.llamagen import LlamaGen

    def make(num_tokens=25, codebook_size=40, num_classes=5, spread=0.3, **shape):
        shape = {"width": 32, "depth": 2, "heads": 4, "mlp_width": 48} | shape
        config = LlamaGenConfig(codebook_size=codebook_size, num_classes=num_classes, num_tokens=num_tokens, **shape)
        return with_random_parameters(LlamaGen(config), spread)

    return make


@pytest.fixture(scope="session")
def save_models():
    """save(folder, generator="generator"): checkpoints of a tokenizer, a RAR generator and a classifier that fit each
    other, small and random: 16 x 16 images of 3 classes, 4 tokens of 64 codes.
    """
    from dataclasses import asdict

    from robustok.checkpoints import writing
    from robustok.model_configs import RARConfig, TokenizerConfig
    from robustok.models.frozen.classifier import Classifier
    from robustok.models.generators.rar import RAR
    from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

    def save(folder, generator="generator"):
        torch.manual_seed(0)
        shape = TokenizerConfig(image_size=16, patch_size=8, width=32, depth=1, heads=2, codebook_size=64, code_width=4)
        order = RARConfig(width=32, depth=1, heads=2, mlp_width=64, codebook_size=64, num_classes=3, num_tokens=4)
        looks = {"num_classes": 3, "image_size": 16}
        for name, kind, model, config in (
            ("tokenizer", "tokenizer", ViTTokenizer(shape), asdict(shape)),
            (generator, "rar", RAR(order), asdict(order)),
            ("classifier", "classifier", Classifier(**looks), looks),
        ):
            weights = {"model": model.state_dict(), "ema": model.state_dict()}
            writing.save(folder / name / "step-1", weights, {"config": {"kind": kind, "config": config}})

    return save
