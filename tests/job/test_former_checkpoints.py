"""Former checkpoints, whose optimisers numbered their parameters, resume to the bit."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from robustok.checkpoints import reading, writing
from robustok.core.files import read_json

# {stage or discriminator: {"decayed": names, "others": names}}: the parameter groups in the tiny main job of
# conftest.py, written by the code that numbered the parameters, through both groups.
ORDER = json.loads((Path(__file__).parents[1] / "golden" / "optimizer_order.json").read_text())
STAGES = ("classifier", "tokenizer", "generator", "post")


def with_numbers(training: dict, stage: str) -> dict:
    """The tensors of training.safetensors as they were called then."""
    numbered = {}
    for key, tensor in training.items():
        if key.startswith("optimizer."):
            _, module, rest = key.split(".", 2)
            name, _, entry = rest.rpartition(".")
            groups = ORDER["discriminator" if module == "discriminator" else stage]
            key = f"optimizer.{module}.{(groups['decayed'] + groups['others']).index(name)}.{entry}"
        numbered[key] = tensor
    return numbered


def make_former(checkpoint: Path, stage: str) -> None:
    """Rewrites a checkpoint as it was written then."""
    stems = [path.stem for path in checkpoint.glob("*.safetensors")]
    tensors = dict(zip(stems, reading.load(checkpoint, *stems), strict=True))
    tensors["training"] = with_numbers(tensors["training"], stage)
    assert any(key.startswith("optimizer.") and key.split(".")[2].isdigit() for key in tensors["training"])
    writing.save(checkpoint, tensors, {stem: read_json(checkpoint / f"{stem}.json") for stem in ("config", "state")})


@pytest.fixture
def halfway(job):
    """A run with two checkpoints of every stage: after the first steps, and at its end."""
    settings = {"classifier__save_every": 4, "tokenizer_training__save_every": 5, "generator_training__save_every": 4}
    settings |= {"post_training__save_every": 3, "stopping__patience": 9, "pairs__modes": "[direct]"}
    for stage in ("tokenizer", "generator", "pairs", "post"):
        run = job(stage, **settings)
    return run, settings


def test_resumes_to_the_bit(halfway, job):
    run, settings = halfway
    for stage in STAGES:
        *_, before, last = reading.steps(run / stage)
        expected = {path.stem: reading.load(last, path.stem)[0] for path in last.glob("*.safetensors")}
        shutil.rmtree(last)
        (run / stage / "stage.json").unlink()
        make_former(before, stage)
        job(stage, **settings)
        for stem, tensors in expected.items():
            (found,) = reading.load(last, stem)
            assert found.keys() == tensors.keys()
            different = [name for name, tensor in tensors.items() if not torch.equal(found[name], tensor)]
            assert different == [], f"{stage}, {stem}"
