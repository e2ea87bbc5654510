"""How the processes of a run find each other: at a store that torchrun or the main process keeps.

torchrun keeps one store over its restarts, so what killed processes have left in it must not be taken for the word of
living ones: each start gets a part of the store to itself, under a name that the main process draws.
"""

import time
from datetime import timedelta
from secrets import token_hex

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from .errors import RunError
from .text import some_of


def meet(patience: timedelta) -> tuple[dist.Store, str, int, int]:
    """(the store, the name of this start's part of it, rank, number of processes), as torchrun's environment says.

    Raises RunError naming who has not come when all this time is over, and DistError where the store is not there.
    """
    store, rank, world = next(iter(rendezvous("env://", timeout=patience)))
    name = _welcome(store, world, patience) if rank == 0 else _arrive(store, rank, patience)
    return store, name, rank, world


def _arrive(store: dist.Store, rank: int, patience: timedelta) -> str:
    """Asks the main process for the name of this start, with a word that no former process has used."""
    me = token_hex(8)
    store.set(f"hello/{rank}", me)
    store.wait([f"welcome/{me}"], patience)
    name = store.get(f"welcome/{me}").decode()
    store.set(f"{name}/came/{rank}", "")
    return name


def _welcome(store: dist.Store, world: int, patience: timedelta) -> str:
    """Answers whoever asks, be it in vain as they are gone, until all have come."""
    name, until = token_hex(8), time.monotonic() + patience.total_seconds()
    missing = list(range(1, world))
    while missing:
        for rank in missing:
            if store.check([f"hello/{rank}"]):
                store.set(f"welcome/{store.get(f'hello/{rank}').decode()}", name)
        missing = [rank for rank in missing if not store.check([f"{name}/came/{rank}"])]
        if missing and time.monotonic() > until:
            raise RunError(f"processes {some_of(missing)} of {world} have not come in {patience}; see what they say")
        time.sleep(0.01)
    return name
