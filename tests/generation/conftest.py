"""Shared by the tests of generation: a small generator and tokenizer on disk, and a count of the samplers made."""

from dataclasses import asdict

import pytest
import torch

from robustok.checkpoints import writing as checkpoints
from robustok.model_configs import TokenizerConfig
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.samplers.autoregressive import AutoregressiveSampler


@pytest.fixture(scope="package")
def checkpoint(make_model, tmp_path_factory):
    """Folders of a small generator and a small tokenizer of the same codebook: 4 tokens of 16 codes, 3 classes."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, codebook_size=16, code_width=4)
    models = {"rar": make_model(4, 16, 3), "tokenizer": ViTTokenizer(shape)}
    for kind, model in models.items():
        weights = {"model": model.state_dict(), "ema": model.state_dict()}
        checkpoints.save(folder / kind, weights, {"config": {"kind": kind, "config": asdict(model.config)}})
    return folder


@pytest.fixture
def samplers(monkeypatch) -> list[AutoregressiveSampler]:
    """The samplers that are constructed. On a GPU each of them captures a graph."""
    made, construct = [], AutoregressiveSampler.__init__

    def counted(self, *arguments, **settings):
        made.append(self)
        construct(self, *arguments, **settings)

    monkeypatch.setattr(AutoregressiveSampler, "__init__", counted)
    return made
