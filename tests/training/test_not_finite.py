"""NaN and infinity, put in anywhere, reach no checkpoint: the step is left out, or the run stops before it writes."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from robustok.checkpoints.reading import steps
from robustok.config import LossConfig, TrainingConfig
from robustok.core import distributed
from robustok.core.errors import RunError
from robustok.training import resuming
from robustok.training.loop import Fit
from robustok.training.losses import LeCAM
from robustok.training.optimizers import TrainedModule, optimizer_state
from robustok.training.run import read_log
from robustok.training.stages import decoder, tokenizer

NAN = float("nan")
TRAINING = TrainingConfig(epochs=1, batch_size=8, lr=1e-3, warmup_epochs=0.0, ema=0.9, weight_decay=0.1)


def spoil(tensor: torch.Tensor, value: float = NAN) -> None:
    with torch.no_grad():
        tensor.view(-1)[0] = value


def moments(fit: Fit, module: int, entry: str) -> torch.Tensor:
    trained = fit.stage.trained[module]
    return trained.optimizer.state[next(p for p in trained.parameters.values() if p.grad is not None)][entry]


def poisoned(function: Callable) -> Callable:
    """The function with one entry of what it gives replaced by NaN."""

    def call(*args):
        result = function(*args).clone()
        return torch.where(torch.arange(result.numel()).view(result.shape) == 0, NAN, result)

    return call


def patched(where: object, name: str) -> Callable:
    return lambda fit, patch: patch.setattr(where, name, poisoned(getattr(where, name)))


def gradient(fit: Fit, patch) -> None:
    fit.stage.model.decoder.to_pixel.weight.register_hook(poisoned(lambda g: g))


def weight(path: str, value: float = NAN) -> Callable:
    return lambda fit, patch: spoil(fit.stage.model.state_dict()[path], value)


# What is spoilt before the third step -> (how, what the message must name)
PLACES = {
    "pixel": (patched(tokenizer, "from_uint8"), "the input of encoder.vit.patch_embed"),
    "reconstruction": (patched(decoder, "reconstruction_loss"), "reconstruction"),
    "perceptual": (
        lambda fit, patch: patch.setattr(type(fit.stage.frozen.perceptual), "forward", no_distance),
        "perceptual",
    ),
    "semantic": (patched(tokenizer, "semantic_loss"), "semantic"),
    "gradient": (gradient, "the gradient of decoder.to_pixel"),
    "encoder weight": (weight("encoder.level"), "model/encoder.level"),
    "decoder bias": (weight("decoder.to_pixel.bias", float("inf")), "model/decoder.to_pixel.bias"),
    "codebook": (weight("quantizer.codebook"), "codebook"),
    "average": (lambda fit, patch: spoil(fit.ema.average["quant_conv.bias"]), "ema/quant_conv.bias not finite"),
    "first moment": (lambda fit, patch: spoil(moments(fit, 0, "exp_avg")), "not finite"),
    "second moment": (lambda fit, patch: spoil(moments(fit, 0, "exp_avg_sq"), float("inf")), "exp_avg_sq"),
    "discriminator": (lambda fit, patch: spoil(next(iter(fit.stage.trained[1].parameters.values()))), "discriminator"),
    "its moments": (lambda fit, patch: spoil(moments(fit, 1, "exp_avg")), "discriminator"),
    "its buffer": (lambda fit, patch: spoil(buffer(fit)), "discriminator"),
    "LeCAM": (lambda fit, patch: spoil(fit.stage.adversary.lecam.state), "training/extra.lecam"),
}


def no_distance(self, a, b):
    return torch.full((len(a),), NAN) * a.flatten(1).sum(1)


def buffer(fit: Fit) -> torch.Tensor:
    return next(b for name, b in fit.stage.trained[1].network.named_buffers() if name.endswith("weight_u"))


def inject(fit: Fit, monkeypatch, how: Callable) -> None:
    """Calls how(fit, monkeypatch) before the third step."""
    take_step = fit._take_step

    def wrapped(batch):
        if fit.state.step == 2:
            how(fit, monkeypatch)
        return take_step(batch)

    fit._take_step = wrapped


@pytest.mark.parametrize("place", PLACES)
def test_no_checkpoint_holds_what_is_not_finite(tokenizer_stage, monkeypatch, place):
    how, named = PLACES[place]
    every_step = replace(TRAINING, save_every=1)
    stage = tokenizer_stage(losses=LossConfig(adversarial_start=0.0), tokenizer_training=every_step)
    training = Fit(stage, stage.run)
    inject(training, monkeypatch, how)
    with pytest.raises(RunError, match="not finite") as stopped:
        training.run_to_end()
    assert named in str(stopped.value)
    assert f"the last good one is {steps(stage.run.folder / 'tokenizer')[-1]}" in str(stopped.value)
    for file in (stage.run.folder / "tokenizer").glob("step-*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file


@pytest.mark.parametrize("in_gradient", [True, False])
def test_a_step_left_out_changes_nothing_but_the_average(tokenizer_stage, monkeypatch, in_gradient):
    """As a training in which nobody took that step; what the log says of it. A loss may be NaN though its gradient is
    finite.
    """
    sections = {"tokenizer_training": TRAINING}
    with monkeypatch.context() as patch:
        step = TrainedModule.step
        patch.setattr(TrainedModule, "step", lambda self, n: torch.tensor(1.0) if n == 2 else step(self, n))
        reference = tokenizer_stage(**sections)
        expected = Fit(reference, reference.run).run_to_end()
    stage = tokenizer_stage(name="y", **sections)
    loss = decoder.reconstruction_loss
    spoilt = poisoned(loss) if in_gradient else lambda *images: loss(*images) + NAN
    training = Fit(stage, stage.run)
    monkeypatch.setattr(decoder, "reconstruction_loss", lambda *a: (spoilt if training.state.step == 2 else loss)(*a))
    found = training.run_to_end()
    for file in ("model", "ema", "training"):
        tensors = load_file(found / f"{file}.safetensors")
        assert tensors.keys() == load_file(expected / f"{file}.safetensors").keys()
        assert all(torch.equal(tensors[k], v) for k, v in load_file(expected / f"{file}.safetensors").items()), file
    log = read_log(stage.run.folder / "log.jsonl")
    assert [line["text"] for line in log if "event" in line] == [
        "step 2 left out: reconstruction, tokenizer_grad_norm not finite (1 left out so far)"
    ]
    assert [line.get("skipped_steps") for line in log if "event" not in line] == [None] * 2 + [1] * 7
    assert json.loads((found / "state.json").read_text())["skipped"] == 1


def test_three_in_a_row_leave_a_bundle(tokenizer_stage, monkeypatch):
    stage = tokenizer_stage(log_every=6, tokenizer_training=TRAINING)
    training = Fit(stage, stage.run)
    inject(training, monkeypatch, weight("quant_conv.weight"))
    seen, take_step = [], training._take_step
    training._take_step = lambda batch: seen.append(batch.ids.tolist()) or take_step(batch)
    resuming.save(stage, training.ema, training.state, stage.run)
    with pytest.raises(RunError, match=r"stopped after steps 2, 3, 4, .* the weight quant_conv.weight of tokenizer"):
        training.run_to_end()
    (folder,) = (stage.run.folder / "tokenizer").glob("stopped-*")
    bundle = json.loads((folder / "bundle.json").read_text())
    assert folder.name == "stopped-at-step-4" and bundle["last_good_checkpoint"] == "step-0" and bundle["seed"] == 0
    assert [(s["step"], s["image_ids"]) for s in bundle["steps"]] == [(n, seen[n]) for n in (2, 3, 4)]
    assert bundle["steps"][0]["terms"]["reconstruction"] == "nan"
    assert bundle["first_not_finite"] == "the weight quant_conv.weight of tokenizer"


def stop_on_one_of_two(rank: int, folder: str) -> None:
    """What process `rank` of two does: NaN comes up on the second one alone."""
    from conftest import make_stage  # beside this file, in whose folder the process runs

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    stage = make_stage(folder, tokenizer_training=TRAINING)
    training = Fit(stage, stage.run)
    if rank == 1:
        inject(training, pytest.MonkeyPatch(), patched(tokenizer, "from_uint8"))
    with pytest.raises(RunError, match=r"stopped after steps 2, 3, 4, .*patch_embed"):
        training.run_to_end()
    weights = torch.cat([p.detach().flatten() for trained in stage.trained for p in trained.parameters.values()])
    others = distributed.gathered(weights)
    assert weights.isfinite().all() and torch.equal(*others)
    dist.destroy_process_group()


def test_what_one_process_meets_all_leave_out_and_stop_by(tmp_path):
    code = "import os, sys, test_not_finite; test_not_finite.stop_on_one_of_two(int(sys.argv[1]), sys.argv[2])"
    code += "; os._exit(0)"  # as core.distributed.end does, and for its reason
    command = [sys.executable, "-c", code]
    options = {"stderr": subprocess.PIPE, "text": True, "cwd": Path(__file__).parent}
    processes = [subprocess.Popen([*command, str(rank), str(tmp_path)], **options) for rank in range(2)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=600)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()
    (file,) = tmp_path.glob("x/tokenizer/stopped-at-step-4/bundle.json")
    bundle = json.loads(file.read_text())
    assert bundle["processes"] == 2 and bundle["first_not_finite"].startswith("the input of encoder.vit.patch_embed")
    assert all(len(set(step["image_ids"])) == TRAINING.batch_size for step in bundle["steps"])


def test_a_fused_optimiser_is_told_on_the_device(device):
    """A step that is taken has the bits of one without the flag; one that is not changes no parameter and no state."""

    def made():
        torch.manual_seed(0)
        network = nn.Linear(50, 40).to(device)
        parameters = dict(network.named_parameters())
        optimizer = torch.optim.AdamW(parameters.values(), lr=0.1, weight_decay=0.1, fused=True)
        return TrainedModule("x", network, network, parameters, optimizer, lambda step: 0.1)

    def gradients(trained, value=1.0):
        draw = torch.Generator().manual_seed(1)
        for p in trained.parameters.values():
            p.grad = torch.randn(p.shape, generator=draw).to(device)
        spoil(p.grad, value)

    def everything(trained):
        return [*trained.parameters.values(), *optimizer_state(trained).values()]

    plain, guarded = made(), made()
    for _ in range(3):
        for trained in (plain, guarded):
            gradients(trained)
        plain.optimizer.step()
        assert guarded.step(0).isfinite()
        assert all(torch.equal(a, b) for a, b in zip(everything(guarded), everything(plain), strict=True))
    before = [tensor.clone() for tensor in everything(guarded)]
    gradients(guarded, float("inf"))
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")  # a step that waits for the device fails
    try:
        norm = guarded.step(0)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert not norm.isfinite()
    assert all(torch.equal(a, b) for a, b in zip(everything(guarded), before, strict=True))


def test_lecam_keeps_its_averages_where_logits_are_not_finite():
    lecam = LeCAM(torch.device("cpu"))
    lecam(torch.ones(3), torch.ones(3))
    before = lecam.state.clone()
    assert not lecam(torch.tensor([1.0, NAN]), torch.tensor([float("inf"), 1.0])).isfinite()
    assert torch.equal(lecam.state, before) and before.all()
