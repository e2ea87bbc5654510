"""Run by world_change.py under torchrun: robustok.train, whose second process kills itself after some optimiser steps.

It does so once: torchrun starts all of them again, and says in their environment how often it did.
"""

import os
import signal
import sys

from torch.optim.optimizer import register_optimizer_step_post_hook

from robustok.core.cli import run_verb
from robustok.train import main

steps_left = int(sys.argv.pop(1))


def count(*_) -> None:
    global steps_left
    steps_left -= 1
    if steps_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    register_optimizer_step_post_hook(count)
sys.exit(run_verb(main))
