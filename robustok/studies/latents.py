"""Which wrong latents resemble a generator's: MMD over alpha and delta (figure 6), of a finished run."""

from __future__ import annotations

from pathlib import Path

import torch

from ..core.files import read_record, write_json
from ..core.random import derive_seed
from ..data.images import open_images
from ..data.loader import in_order
from ..evaluation.explaining import latent_discrepancy
from ..evaluation.pfid import delta_set
from ..generation.batches import generate_batches
from ..generation.classes import classes_as_in
from ..job.command_line import parse_run_config, run_config_parser
from ..models.load import load_generator, load_tokenizer
from ..models.registry import sampler_settings, trained_family

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
FILE = "latents.json"  # of a run

Table = dict[tuple[float, int], float]


def latent_table(folder: Path) -> Table:
    """(alpha, delta) -> squared MMD between the codes of generated tokens and of perturbed real ones, of the run in
    this folder; computed once. Real ones are those of its test images, and as many are generated, of their classes.
    """
    file = folder / FILE
    if not file.is_file():
        table = _measured(folder)
        write_json(file, {"mmd": [[*setting, value] for setting, value in table.items()]})
    return {(alpha, int(delta)): value for alpha, delta, value in read_record(file)["mmd"]}


@torch.inference_mode()
def _measured(folder: Path) -> Table:
    config, _ = parse_run_config(run_config_parser("robustok.study", None), ["--config", str(folder / "config.yaml")])
    tokenizer = load_tokenizer(folder / "tokenizer").eval()
    generator = load_generator(folder / "generator").eval()
    images = open_images(config.data, tokenizer.image_size)
    sampling = getattr(config, trained_family(config, "generator").sampling)
    classes = classes_as_in(images.test.labels, len(images.test), images.num_classes)
    sampler, seed = generator.sampler(**sampler_settings(sampling)), derive_seed(config.seed, "sample", "latents")
    generated = torch.cat([*generate_batches(sampler, classes, seed=seed, batch_size=sampling.batch_size)])
    return latent_discrepancy(tokenizer, in_order(images.test), generated, _settings(tokenizer.codebook.shape[-2]))


def _settings(codes: int) -> list[tuple[float, int]]:
    """Around the settings of pFID: also fewer neighbours and more."""
    protocol = delta_set(codes)
    deltas = sorted({1, 2, *protocol, 2 * protocol[-1], min(codes, 8 * protocol[-1])})
    return [(alpha, delta) for alpha in ALPHAS for delta in deltas]
