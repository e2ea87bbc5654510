"""A stage is a class and a line of the table of stages: this one, a linear classifier, runs like the others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustok.core.errors import UserError
from robustok.data.transforms import from_uint8
from robustok.job.registry import STAGES, training_stage
from robustok.train import main
from robustok.training.optimizers import TrainedModule, learning_rate
from robustok.training.run import read_log
from robustok.training.stages.base import Stage


class ToyStage(Stage):
    """Logits linear in the pixels, by cross-entropy."""

    name = kind = "toy"
    sections = ("seed", "data", "classifier")

    def __init__(self, run, images):
        self.training, self.dataset = run.config.classifier, images.train
        torch.manual_seed(run.config.seed)
        self.model = nn.Linear(3 * images.train.image_size**2, images.num_classes).to(run.device)
        rate = learning_rate(self.training, len(self.dataset) // self.training.batch_size)
        self.trained = [TrainedModule.with_adamw("toy", self.model, self.training, rate, run)]

    def model_config(self):
        return {"inputs": self.model.in_features, "outputs": self.model.out_features}

    def objective(self, trained, batch, position):
        loss = F.cross_entropy(trained.module(from_uint8(batch.inputs).flatten(1)), batch.labels)
        return loss, {"loss": loss}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """toy(**settings) runs the stage in a temporary folder and returns the run's."""
    monkeypatch.setitem(STAGES, "toy", training_stage(ToyStage, lambda job: ToyStage(job.run, job.images)))

    def run(**settings):
        options = {"runs": tmp_path, "name": "x", "stage": "toy", "log_every": 5, "device": "cpu"}
        options |= {"classifier.epochs": 1} | {key.replace("__", "."): value for key, value in settings.items()}
        main([part for key, value in options.items() for part in (f"--{key}", str(value))])
        return tmp_path / "x"

    return run


def test_a_toy_stage_trains_logs_and_is_finished(toy):
    run = toy()
    losses = [line["loss"] for line in read_log(run / "log.jsonl") if line["stage"] == "toy"]
    assert losses[-1] < losses[0] / 2
    (checkpoint,) = (run / "toy").glob("step-*")
    files = {"model.safetensors", "ema.safetensors", "training.safetensors", "config.json", "state.json"}
    assert files < {path.name for path in checkpoint.iterdir()}
    before = checkpoint.stat().st_mtime_ns
    toy(tokenizer__width=64)  # no section of this stage
    assert checkpoint.stat().st_mtime_ns == before
    with pytest.raises(UserError, match=r"classifier\.lr: stored .*, now 0\.5"):
        toy(classifier__lr=0.5)
