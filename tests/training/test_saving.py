"""A save that is stopped anywhere leaves a whole checkpoint, and training goes on from it."""

import errno
import os
import re
import resource
import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustok.checkpoints import writing
from robustok.checkpoints.reading import damage, steps
from robustok.config import RunConfig, TrainingConfig
from robustok.core.errors import RunError
from robustok.training import resuming
from robustok.training.ema import EMA
from robustok.training.optimizers import TrainedModule
from robustok.training.run import Run

# The functions of the interpreter by which files come, change and go; safetensors writes its own.
ON_DISK = {"open", "write", "fsync", "mkdir", "rename", "replace", "unlink", "rmdir", "close", "serialize_file"}
MOST = 400  # calls of a save


class Training:
    """A small stage whose tensors are all of one value, and its run."""

    def __init__(self, folder, value: float):
        network = nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(network.parameters())
        parameters = dict(network.named_parameters())
        network(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        trained = TrainedModule("toy", network, network, parameters, optimizer, lambda step: 0.1)
        self.stage = SimpleNamespace(
            name="toy",
            kind="toy",
            sections=(),
            training=TrainingConfig(),
            model=network,
            trained=[trained],
            validation=None,
            extra_state=dict,
            upstream={},
            model_config=dict,
        )
        self.ema = EMA(network, 0.9)
        self.folder = folder
        self.run = self.open()
        self.fill(value)

    def open(self) -> Run:
        return Run(RunConfig(runs=str(self.folder), name="run", device="cpu"))

    def fill(self, value: float) -> None:
        states = self.stage.trained[0].optimizer.state.values()
        for tensor in [*self.stage.model.parameters(), *self.ema.state_dict(self.stage.model).values()]:
            tensor.data.fill_(value)
        for state in states:
            state["exp_avg"].fill_(value)

    def values(self) -> set[float]:
        averages = [state["exp_avg"] for state in self.stage.trained[0].optimizer.state.values()]
        tensors = [*self.stage.model.parameters(), *self.ema.state_dict(self.stage.model).values(), *averages]
        return {value for tensor in tensors for value in tensor.detach().flatten().tolist()}

    def save(self, step: int, value: float) -> None:
        self.fill(value)
        resuming.save(self.stage, self.ema, resuming.StageState(step=step), self.run)

    def resume(self) -> int:
        """As a new process does."""
        self.run.close()
        self.run = self.open()
        self.fill(-1.0)
        return resuming.resume(self.stage, self.ema, self.run).step


def after_call(number: int, act) -> None:
    """Calls act() when the call of this number, of those in ON_DISK from now on, has returned."""
    seen = 0

    def count(frame, event, function) -> None:
        nonlocal seen
        if event == "c_return" and function.__name__ in ON_DISK:
            seen += 1
            if seen == number:
                act()

    sys.setprofile(count)


@pytest.fixture
def training(tmp_path):
    made = Training(tmp_path, 0.0)
    yield made
    made.run.close()


def killed_in_save(training, number: int, step: int, value: float) -> bool:
    """Saves in a child that is killed after its call `number`; False where it came to its end before."""
    child = os.fork()
    if child == 0:
        try:
            after_call(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
            training.save(step, value)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("step", [3, 2], ids=["the next step", "the same step again"])
def test_killed_after_every_write_sync_and_rename(training, tmp_path, step):
    folder = tmp_path / "run" / "toy"
    training.save(1, 1.0)
    training.save(2, 2.0)
    shutil.copytree(folder, tmp_path / "before")
    found = []
    for number in range(1, MOST):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "before", folder)
        if not killed_in_save(training, number, step, 3.0):
            break
        found.append((training.resume(), *training.values()))
        assert all(path in steps(folder) and damage(path) is None for path in folder.iterdir())
        assert len(steps(folder)) == training.stage.training.keep  # also where the save was done but for the removal
        training.save(step, 3.0)
        assert (training.resume(), training.values()) == (step, {3.0})
    assert 30 < number < MOST - 1
    assert set(found) == {(2, 2.0), (step, 3.0)} and found == sorted(found)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_after_any_call(tmp_path, number):
    """The last checkpoint stays, nothing half-written does, and the message says what is free and what is needed."""
    folder, tensors = tmp_path / "toy", {"model": {"weight": torch.ones(3)}}
    writing.save(folder / "step-1", tensors, {"state": {}})

    def fail():
        sys.setprofile(None)
        raise OSError(number, os.strerror(number))

    said = r"bytes free on its disk, 12 needed" if number == errno.ENOSPC else os.strerror(number)
    for call in range(1, MOST):
        after_call(call, fail)
        try:
            writing.save(folder / "step-2", tensors, {"state": {}})
        except RunError as error:
            assert re.search(rf"could not write the checkpoint {folder}/step-2: .*{said}.*untouched", str(error))
        else:
            break
        finally:
            sys.setprofile(None)
        assert folder / "step-1" in steps(folder)
        assert all(path in steps(folder) and damage(path) is None for path in folder.iterdir())
        shutil.rmtree(folder / "step-2", ignore_errors=True)
    assert 20 < call < MOST - 1


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_a_file_that_cannot_grow(training, tmp_path, share):
    """The system itself refuses to write more than so many bytes, to Python and to safetensors."""
    training.save(1, 1.0)
    size = int(share * max(path.stat().st_size for path in (tmp_path / "run/toy/step-1").iterdir()))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            training.save(2, 2.0)
        except RunError as error:
            code = 0 if re.search(r"no space left .*File too large.* bytes free .* needed", str(error)) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert [path.name for path in (tmp_path / "run" / "toy").iterdir()] == ["step-1"]
    assert (training.resume(), training.values()) == (1, {1.0})


def test_keep_says_how_many_stay_beside_the_best_of_each(training, tmp_path):
    """A kept checkpoint may be gone back to, and the best one that it knows with it."""
    folder = tmp_path / "run" / "toy"
    training.stage.training = TrainingConfig(keep=3)
    best = {1: "step-1", 2: "step-1", 3: "step-1", 4: "step-4", 5: "step-4"}
    for step, name in best.items():
        resuming.save(training.stage, training.ema, resuming.StageState(step, best=name, score=1.0), training.run)
    assert [path.name for path in steps(folder)] == ["step-1", "step-3", "step-4", "step-5"]
    (folder / "step-5" / "model.safetensors").write_bytes(b"")
    (folder / "step-4" / "ema.safetensors").unlink()
    assert training.resume() == 3 and [path.name for path in steps(folder)] == ["step-1", "step-3"]


def test_a_best_checkpoint_that_is_damaged_is_set_aside(training, tmp_path, capsys):
    folder = tmp_path / "run" / "toy"
    for step in (1, 2):
        resuming.save(training.stage, training.ema, resuming.StageState(step, best="step-1", score=1.0), training.run)
    (folder / "step-1" / "model.safetensors").write_bytes(b"")
    state = resuming.resume(training.stage, training.ema, training.run)
    assert (state.step, state.best, state.score) == (2, None, None)
    assert "the best one is chosen anew from step 2 on" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["step-1.damaged", "step-2"]
