"""The published size: it builds from its preset and takes one main-training step with all losses on a CPU."""

import pytest
import torch

from robustok.data.images import open_images
from robustok.job.command_line import parse_run_config, run_config_parser
from robustok.models.frozen.dino import DINOBackbone, DINOTeacher
from robustok.models.frozen.lpips import LPIPS
from robustok.models.frozen.networks import FrozenNetworks
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.models.vit import ViT
from robustok.presets import preset_path
from robustok.training.loop import Fit
from robustok.training.run import Run
from robustok.training.stages.tokenizer import TokenizerStage

SETTINGS = {
    "data.root": "null",
    "data.val": 2,
    "data.test": 2,
    "device": "cpu",
    "precision": "float32",
    "tokenizer_training.batch_size": 2,
    "perturbation.beta": 0.5,
    "losses.adversarial_start": 0,
}


@pytest.fixture
def stage(tmp_path):
    """Main training of the preset robustok-b on enlarged digits, with frozen networks of the right size."""
    parser = run_config_parser("test", str(preset_path("robustok-b")))
    options = [f"--{name}={value}" for name, value in (SETTINGS | {"runs": tmp_path}).items()]
    config, _ = parse_run_config(parser, options)
    torch.manual_seed(0)
    vit = ViT(grid=16, patch_size=16, width=768, depth=12, heads=12, mlp_ratio=4.0, layer_scale=1e-5)
    frozen = FrozenNetworks(DINOTeacher(vit), LPIPS().eval().requires_grad_(False), DINOBackbone())
    run = Run(config)
    yield TokenizerStage(run, open_images(config.data, 256), frozen, ViTTokenizer(config.tokenizer))
    run.close()


def test_one_step_with_all_losses(stage):
    # ViT-B has 86 M parameters; two of them, the decoder's without a patch embedding
    assert 165e6 < sum(p.numel() for p in stage.model.parameters()) < 175e6
    fit = Fit(stage, stage.run)
    before = {name: p.detach().clone() for name, p in stage.model.named_parameters() if "blocks" not in name}
    terms = fit._take_step(next(fit._batches()))
    wanted = {
        "reconstruction",
        "perceptual",
        "vq",
        "commit",
        "semantic",
        "adversarial",
        "adaptive_weight",
        "discriminator",
    }
    assert wanted <= terms.keys()
    assert all(value.isfinite() for value in terms.values())
    # one of the two images is perturbed, each of its tokens but for the draws of the nearest code itself
    assert 0.45 < terms["perturbed"] <= 0.5
    still = [name for name, p in stage.model.named_parameters() if name in before and torch.equal(p, before[name])]
    assert still == []
