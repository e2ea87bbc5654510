"""Run by test_world_change.py: a generator is trained by some processes, and from its middle on by other ones.

Processes are forked here, where everything is imported already. Takes an empty folder and leaves in it a run for each
name of BEGUN and GONE_ON, with NAME.ids, the images of each step, and the run "killed", whose second process is killed
once under torchrun. All have the same steps to take.
"""

import atexit
import json
import os
import shutil
import socket
import subprocess
import sys
import traceback
from pathlib import Path

import torch.utils.tensorboard  # noqa: F401  here, before the processes part

import robustok.job.registry  # noqa: F401
from robustok.core.cli import run_verb
from robustok.train import main
from robustok.training import loop

STEPS, SAVED = 5, 3  # of the generator, and where the others go on
SETTINGS = {
    "device": "cpu",
    "log_every": 1,
    "data.val": 100,
    "data.test": 1597,  # 100 stay to be trained on: 4 steps an epoch, so the middle is the middle of an epoch
    "classifier.epochs": 0.5,
    "classifier.batch_size": 48,
    "tokenizer.width": 64,
    "tokenizer.depth": 1,
    "tokenizer.heads": 2,
    "tokenizer.codebook_size": 16,
    "tokenizer.code_width": 4,
    "codebook.continuous_steps": 0,
    "tokenizer_training.epochs": 0.5,
    "tokenizer_training.batch_size": 48,
    "post_training.batch_size": 48,
    "validation.every_epochs": 0.75,  # 3 steps
    "generator.width": 32,
    "generator.depth": 2,
    "generator.heads": 2,
    "generator.mlp_width": 64,
    "generator_training.epochs": STEPS / 4,
    "generator_training.batch_size": 24,
    "generator_training.accumulate": 2,
    "generator_training.clip_norm": 0.5,
    "generator_training.ema": 0.9,
    "generator_training.save_every": SAVED,
    "generator_training.keep": 9,
}
BEGUN = {"ddp2": (2, "ddp"), "fsdp2": (2, "fsdp")}  # name: (processes, how they share the network)
GONE_ON = {  # name: (the run whose middle it goes on from, processes, how they share)
    "ddp2-1": ("ddp2", 1, "ddp"),
    "ddp2-fsdp3": ("ddp2", 3, "fsdp"),
    "fsdp2-1": ("fsdp2", 1, "ddp"),
    "fsdp2-ddp4": ("fsdp2", 4, "ddp"),
}


def note_images(path: Path) -> None:
    """From now on the ids of each batch's images are added to this file, a line a batch of a process."""
    batches = loop.batches

    def noting(dataset, *, epoch, start=0, **settings):
        for number, batch in enumerate(batches(dataset, epoch=epoch, start=start, **settings), start):
            with path.open("a") as file:
                file.write(json.dumps([epoch, number, batch.ids.tolist()]) + "\n")
            yield batch

    loop.batches = noting


def fork(folder: Path, stage: str, name: str, processes: int, parallel: str) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    pids = []
    for rank in range(processes):
        pids.append(os.fork())
        if pids[-1] == 0:
            code = 70
            atexit._clear()  # what its parent does at its own end
            try:
                os.environ |= address | {"RANK": str(rank), "WORLD_SIZE": str(processes)}
                note_images(folder / f"{name}.ids")
                code = run_verb(main, options(folder, stage, name, parallel))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
    return pids


def wait(pids: list[int]) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    assert set(codes) == {0}, codes


def start_to_be_killed(folder: Path, name: str) -> subprocess.Popen:
    """torchrun of two processes, one of which is killed after the generator's step SAVED + 1 (killed_once.py)."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=3"]
    script = [str(Path(__file__).with_name("killed_once.py")), str(SAVED + 1)]
    return subprocess.Popen([sys.executable, *torchrun, *script, *options(folder, "generator", name, "ddp")])


def options(folder: Path, stage: str, name: str, parallel: str) -> list[str]:
    settings = SETTINGS | {"stage": stage, "runs": folder, "name": name, "parallel": parallel}
    return [f"--{key}={value}" for key, value in settings.items()]


def copied(folder: Path, source: str, name: str) -> None:
    """A copy of a run as it was at step SAVED of the generator."""
    shutil.copytree(folder / source, folder / name)
    if (folder / name / "generator").exists():
        shutil.rmtree(folder / name / "generator" / f"step-{STEPS}")
        (folder / name / "generator" / "stage.json").unlink()


if __name__ == "__main__":
    runs = Path(sys.argv[1])
    for made in ("tokenizer", "tokens"):
        wait(fork(runs, made, "base", 1, "ddp"))
    for begun in (*BEGUN, "killed"):
        copied(runs, "base", begun)
    killed = start_to_be_killed(runs, "killed")
    wait([pid for begun, how in BEGUN.items() for pid in fork(runs, "generator", begun, *how)])
    for gone_on, (begun, *_) in GONE_ON.items():
        copied(runs, begun, gone_on)
    wait([pid for gone_on, (_, *how) in GONE_ON.items() for pid in fork(runs, "generator", gone_on, *how)])
    assert killed.wait() == 0
