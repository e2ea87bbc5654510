"""RAR against numbers recorded from the published implementation (tests/golden/rar_io.npz)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from robustok import load_generator
from robustok.samplers.settings import guidance_ramp

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def model():
    return load_generator(GOLDEN / "rar/pytorch_model.bin")


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLDEN / "rar_io.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if file[name].dtype.kind != "U"}
        return arrays | {"grad_names": file["grad_names"].tolist()}


def inputs(recorded):
    return recorded["tokens"].long(), recorded["class_labels"].long()


@pytest.mark.parametrize("kind", ["raster", "random", "random_uncond"])
def test_logits(model, recorded, kind):
    tokens, classes = inputs(recorded)
    orders = recorded["raster_orders" if kind == "raster" else "random_orders"].long()
    with torch.no_grad():
        logits = model.logits(tokens, None if kind == "random_uncond" else classes, order=orders)
    torch.testing.assert_close(logits.double().logsumexp(-1), recorded[f"{kind}_logsumexp"][:, :256], rtol=0, atol=3e-5)
    loss = F.cross_entropy(logits.double().flatten(0, 1), tokens.gather(1, orders).flatten())
    assert loss.item() == pytest.approx(recorded[f"{kind}_loss"].item(), abs=1e-6)
    if kind != "random_uncond":
        columns, places = recorded["vocab_subset"].long(), recorded["position_subset"].long()[:-1]
        expected = recorded[f"{kind}_logits_vocab_subset"][:, :256]
        torch.testing.assert_close(logits[..., columns], expected, rtol=0, atol=3e-5)
        expected = recorded[f"{kind}_logits_position_subset"][:, :-1]
        torch.testing.assert_close(logits[:, places], expected, rtol=0, atol=3e-5)
        assert torch.equal(logits.argmax(-1).int(), recorded[f"{kind}_argmax"][:, :256])


def test_gradients(model, recorded):
    tokens, classes = inputs(recorded)
    orders = recorded["random_orders"].long()
    loss = F.cross_entropy(model(tokens, classes, orders).flatten(0, 1), tokens.gather(1, orders).flatten())
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in recorded["grad_names"]])
    norms = torch.stack([g.double().norm() for g in gradients])
    torch.testing.assert_close(norms, recorded["random_grad_norm"], rtol=1e-3, atol=1e-7)
    dots = torch.stack(
        [(g.double() * parameters[n]).sum() for g, n in zip(gradients, recorded["grad_names"], strict=True)]
    )
    torch.testing.assert_close(dots, recorded["random_grad_dot_param"], rtol=1e-3, atol=1e-6)


def test_guided_logits(model, recorded):
    tokens, classes = inputs(recorded)
    scale, power, temperature = recorded["gen_config"].tolist()
    logits = model.guided_logits(tokens, classes, guidance_scale=scale, guidance_power=power, temperature=temperature)
    columns, steps = recorded["vocab_subset"].long(), recorded["gen_step_subset"].long()
    torch.testing.assert_close(logits[..., columns], recorded["gen_logits_vocab_subset"], rtol=0, atol=1.5e-4)
    torch.testing.assert_close(logits[:, steps], recorded["gen_logits_step_subset"], rtol=0, atol=1.5e-4)
    torch.testing.assert_close(logits.double().logsumexp(-1), recorded["gen_logsumexp"], rtol=0, atol=1.5e-4)


def test_guidance_ramp(recorded):
    scale, power, _ = recorded["gen_config"].tolist()
    torch.testing.assert_close(guidance_ramp(scale, power, 256), recorded["gen_cfg_scale"], rtol=1e-6, atol=0)
