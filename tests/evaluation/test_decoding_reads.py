"""Decoding of tokens, and the passes that decode, read nothing back: no GPU is waited for until figures are made."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from robustok.data.transforms import from_uint8
from robustok.evaluation.perturbing import how_perturbable
from robustok.evaluation.pfid import perturbed_moments
from robustok.evaluation.reconstruction import evaluate_reconstruction
from robustok.evaluation.stored_latents import RowFile
from robustok.generation.batches import decode_batches
from robustok.models.interfaces import is_discrete
from tests.host_reads import reads_of
from tests.small_tokenizers import CONFIGS, small_tokenizer

# What reads on the CPU alone.
ON_THE_HOST = {
    ("ops/indices.py", "_check_range"),  # asserts on a GPU
    ("evaluation/metrics/moments.py", "_accumulate"),  # by SciPy, there
}


def network(images):
    return SimpleNamespace(features=images.float().mean((2, 3)))


class Stream:
    name = "noise"

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __iter__(self):
        return iter(self.images.split(6))


def noise(count):
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", CONFIGS)
def test_decoding_reads_nothing(name):
    model, images = small_tokenizer(name), from_uint8(noise(6))
    generated = model.tokenize(images) if is_discrete(model) else model.encode(images)
    found = reads_of(lambda: [*decode_batches(model, generated, 4)])
    assert set(found) - ON_THE_HOST == set()
    assert not is_discrete(model) or ("ops/indices.py", "_check_range") in found  # reads are seen


class Copies(TorchDispatchMode):
    """Notes of each copy to the meta device, which stands for a GPU here, whether the host does not wait for it."""

    def __init__(self):
        super().__init__()
        self.found: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.to.dtype_layout and kwargs.get("device") == torch.device("meta"):
            self.found.append(kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


def test_the_host_does_not_wait_for_copies_of_what_is_decoded():
    model = small_tokenizer("vae").to("meta")
    with Copies() as copies:
        images = [*decode_batches(model, torch.randn(6, *model.latent_shape), 4)]
    assert [len(batch) for batch in images] == [4, 2] and copies.found == [True, True]


def test_rows_in_a_file_are_those_appended(device):
    """A GPU's come back while it goes on; what it writes to them afterwards changes nothing."""
    rows, file = torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0)), RowFile()
    for part in rows.clone().to(device).split(3):
        file.append(part)
        part.zero_()
    assert len(file) == 7 and np.array_equal(file.array(), rows)
    assert torch.equal(file.read(slice(2, 5)), rows[2:5]) and torch.equal(file.read(torch.tensor([6, 0])), rows[[6, 0]])


def of_passes(model, images):
    """Reads of the passes that a tokenizer of this kind has, but for those on the CPU alone."""
    found = reads_of(lambda: evaluate_reconstruction(model, Stream(images), network))
    if is_discrete(model) and how_perturbable(model) != "none":
        settings = [(0.5, 3), (0.9, 7)]
        found += reads_of(lambda: perturbed_moments(model, images.split(6), network, settings, seed=0))
    return {where: count for where, count in found.items() if where not in ON_THE_HOST}


@pytest.mark.parametrize("name", CONFIGS)
def test_no_batch_of_a_pass_reads(name):
    """What makes figures of the moments reads, once, however many batches there were."""
    model = small_tokenizer(name)
    few, many = (of_passes(model, noise(count)) for count in (12, 30))
    assert few == many != {}
