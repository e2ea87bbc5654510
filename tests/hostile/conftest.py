"""The server that runs verbs, and good inputs that cases damage."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.checkpoints import writing
from robustok.data.latents import write_latents
from robustok.data.tokens import write_tokens
from robustok.model_configs import TokenizerConfig
from robustok.models.frozen.classifier import Classifier
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

from .server import Server


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("said"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def good(tmp_path_factory, make_model) -> Path:
    """A folder of small good inputs: tokenizer/ and rar/ (checkpoints of one codebook: 4 tokens of 16 codes, 3
    classes), classifier/ (a network of features), photos/ (4 images of 16 x 16 in each of 2 classes), tokens/ and
    latents/ (8 rows).
    """
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=16, patch_size=8, width=16, depth=1, heads=2, codebook_size=16, code_width=4)
    rar, tokenizer, looks = make_model(4, 16, 3), ViTTokenizer(shape), {"num_classes": 2, "image_size": 16, "width": 16}
    models = {"rar": (rar, asdict(rar.config)), "tokenizer": (tokenizer, asdict(shape))}
    for kind, (model, config) in (models | {"classifier": (Classifier(**looks), looks)}).items():
        weights = {"model": model.state_dict(), "ema": model.state_dict()}
        writing.save(folder / kind, weights, {"config": {"kind": kind, "config": config}})
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    np.savez(folder / "samples.npz", arr_0=pixels, arr_1=np.arange(8) % 2)
    about = {"tokenizer": "abc", "class_names": ["cat", "dog"]}
    labels, ids = torch.arange(8) % 2, torch.arange(8)
    write_tokens(folder / "tokens", torch.randint(16, (8, 4)), labels, ids, about | {"codebook_size": 16})
    write_latents(folder / "latents", torch.randn(8, 4, 4), labels, ids, about | {"latent_shape": [4, 4]})
    return folder
