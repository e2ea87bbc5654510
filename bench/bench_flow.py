"""Flow generators beside a plain rendering of the published computation: sampling and training, on a CPU and a GPU."""

import pytest
import torch

from robustok.model_configs import SiTConfig
from robustok.models.generators.sit import SiT

from . import recording
from .flow_peers import PlainSiT, euler, velocity_loss

SMALL = SiTConfig(width=32, depth=2, heads=2, num_classes=8, num_latents=12, latent_width=4)
ON_CPU = SiTConfig(width=384, depth=6, heads=6, num_classes=1000, num_latents=128, latent_width=32)  # half of SiT-S
ON_GPU = SiTConfig(width=1152, depth=28, heads=16, num_classes=1000, num_latents=128, latent_width=32)  # SiT-XL
STEPS, SCALE = 3, 2.0


@pytest.fixture
def few_rounds(monkeypatch):
    """Calls that last seconds are repeated less."""
    monkeypatch.setattr(recording, "ROUNDS", {"cpu": 9, "cuda": 10})
    monkeypatch.setattr(recording, "WARM_UP_CALLS", 1)


def random_models(config: SiTConfig) -> tuple[SiT, PlainSiT]:
    """Ours and the plain one, of the same random weights."""
    torch.manual_seed(0)
    ours, plain = SiT(config), PlainSiT(config)
    for parameter in ours.parameters():
        parameter.data.normal_(0, 0.05)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


def inputs(config: SiTConfig, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, config.num_latents, config.latent_width), torch.arange(count) % config.num_classes


def test_sampling_on_cpu(timed, record, few_rounds):
    """Guided Euler steps: the same latents, and not slower than a plain loop; the published script doubles twice."""
    config = ON_CPU if timed else SMALL
    ours, plain = random_models(config)
    z, classes = inputs(config, 8)
    sampler = ours.sampler(steps=STEPS, solver="euler", guidance_scale=SCALE)
    variants = {
        "ours": lambda: sampler.follow(z, classes),
        "a plain loop": lambda: euler(plain, z, classes, config.num_classes, STEPS, SCALE, doubled=False),
        "the published script": lambda: euler(plain, z, classes, config.num_classes, STEPS, SCALE, doubled=True),
    }
    expected = variants["ours"]()
    for run in variants.values():
        torch.testing.assert_close(run(), expected, rtol=1e-4, atol=1e-4)
    if timed:
        timings = recording.measure(variants)
        what = f"SiT 384 x 6, 128 latents, guided, batch 8, {STEPS} Euler steps, {torch.get_num_threads()} threads"
        record.add_ratio("flow sampling", f"{what}, against a plain loop", 1.0, timings, "a plain loop", "ours")
        script = "the published script"
        record.add_ratio("flow sampling", f"{what}, against {script}", 1.9, timings, script, "ours")


def test_training_on_cpu(timed, record, few_rounds):
    """Loss, gradients and an optimiser's step: not slower than plain, with draws keyed by image."""
    config = ON_CPU if timed else SMALL
    ours, plain = random_models(config)
    latents, classes = inputs(config, 8)
    ids = torch.arange(8)

    def step(model, loss_of):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-5)

        def run():
            optimizer.zero_grad()
            loss_of().backward()
            optimizer.step()

        return run

    variants = {
        "ours": step(ours, lambda: ours.loss(latents, classes, seed=1, sample_ids=ids)[0]),
        "plain": step(plain, lambda: velocity_loss(plain, latents, classes, config.num_classes)),
    }
    if not timed:
        for run in variants.values():
            run()
        return
    timings = recording.measure(variants)
    what = f"SiT 384 x 6, 128 latents, batch 8, {torch.get_num_threads()} threads, against plain PyTorch"
    record.add_ratio("flow training", what, 1.0, timings, "plain", "ours")


def test_compiled_sampling_on_gpu(timed, record, gpu, few_rounds):
    """Compiled bfloat16 against the same eager: at least twice as fast."""
    goal = "flow sampling, compiled"
    device, config, count = gpu(goal), ON_GPU if timed else SMALL, 64 if timed else 2
    model = random_models(config)[0].to(device, torch.bfloat16)
    z, classes = (x.to(device) for x in inputs(config, count))
    settings = {"steps": STEPS, "solver": "euler", "guidance_scale": SCALE}
    eager, compiled = model.sampler(**settings), model.sampler(**settings, compile=True)
    timings = recording.measure(
        {"eager": lambda: eager.follow(z, classes), "ours": lambda: compiled.follow(z, classes)}, device
    )
    what = f"SiT-XL, 128 latents, guided, batch {count}, {STEPS} Euler steps"
    record.add_ratio(goal, what, 2.0, timings, "eager", "ours")
