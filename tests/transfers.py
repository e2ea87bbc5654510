"""When what a GPU makes reaches the host; tensors that say they are on one stand for it."""

import pytest
import torch

from robustok.core import device

WHILE_THE_NEXT_IS_MADE = ["made 0", "made 1", "arrived 0", "made 2", "arrived 1", "arrived 2"]  # of three batches


class OnGPU(torch.Tensor):
    """A tensor that says it is on a GPU, as do its slices."""

    is_cuda = True


class Transfers:
    """What is made and copied to the host, in the order in which the host sees it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.log: list[str] = []
        self.monkeypatch = monkeypatch

    def of(self, owner: object, name: str) -> None:
        """Lets what a function gives be on a GPU."""
        make = getattr(owner, name)
        self.monkeypatch.setattr(device, "copied_to_host", self.copied)
        self.monkeypatch.setattr(owner, name, lambda *args, **kept: self.made(make(*args, **kept)))

    def made(self, rows: torch.Tensor) -> torch.Tensor:
        self.log.append(f"made {self.count()}")
        return rows.as_subclass(OnGPU)

    def copied(self, rows: torch.Tensor):
        assert rows.is_cuda
        number = self.count() - 1

        def wait() -> torch.Tensor:
            self.log.append(f"arrived {number}")
            return rows.as_subclass(torch.Tensor)

        return wait

    def count(self) -> int:
        return sum(entry.startswith("made") for entry in self.log)
