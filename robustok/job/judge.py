"""Judging a run: its tokenizer by itself, and what its generator gives before and after post-training."""

from __future__ import annotations

import resource
import sys
import time

import numpy as np
import torch
from torch import Tensor

from ..data.transforms import from_uint8, to_uint8
from ..evaluation import frechet_distance, pfid, psnr
from ..training.checkpoints import write_json
from ..training.run import read_log
from .pipeline import Pipeline
from .report import summary_rows, verdicts, write_report

TIMED = ("classifier", "tokenizer", "tokens", "generator", "pairs", "post")


@torch.inference_mode()
def judge(pipeline: Pipeline) -> tuple[dict, dict[str, Tensor]]:
    """(metrics, pictures) of a finished run, on the images that only judge.

    Distances are Fréchet distances of the run's frozen features, named in `distance`: rfd of plain reconstructions,
    pfd the mean over the 15 perturbed settings, gfd of class-balanced samples. Shares are from 0 to 1.
    """
    images = pipeline.images
    originals = images.judge.load(torch.arange(len(images.judge)))
    reference = pipeline.statistics(originals)
    tokenizer = pipeline.load_tokenizer("tokenizer")
    result = pfid(tokenizer, originals, pipeline.frozen.features, batch_size=pipeline.config.evaluation.batch_size)
    reconstructed = _reconstruct(tokenizer, originals)
    tokens, classes = pipeline.sample(pipeline.config.evaluation.samples_per_class, "judge")
    metrics = {
        "distance": pipeline.frozen.distance_name,
        "modes": list(pipeline.config.pairs.modes),
        "images": {
            "train": len(images.train),
            "stop": len(images.stop),
            "judge": len(originals),
            "samples": len(tokens),
        },
        "real_fd": frechet_distance(pipeline.statistics(images.train.load(torch.arange(len(images.train)))), reference),
        "classifier": {"accuracy": _share_read_as(pipeline, originals, images.judge.labels)},
        "tokenizer": {
            "psnr": psnr(reconstructed, originals).mean().item(),
            "codebook_usage": _codebook_usage(pipeline, tokenizer),
            "rfd": result.rfid,
            "pfd": result.mean,
            "pfd_table": [[alpha, delta, value] for (alpha, delta), value in result.table.items()],
        },
    }
    pictures = {
        "originals": originals,
        "reconstructed": reconstructed,
        "perturbed": _reconstruct(tokenizer, originals, *max(result.table)),
    }
    decoders = {"generator": tokenizer} | {
        pipeline.post_folder(mode): pipeline.load_tokenizer(pipeline.post_folder(mode))
        for mode in pipeline.config.pairs.modes
    }
    for name, decoder in decoders.items():
        generated = pipeline.decode(decoder, tokens)
        metrics[name.replace("-", "_")] = {
            "gfd": frechet_distance(pipeline.statistics(generated), reference),
            "class_agreement": _share_read_as(pipeline, generated, classes),
            "rfd": frechet_distance(pipeline.statistics(_reconstruct(decoder, originals)), reference),
        }
        pictures[name] = generated
    return metrics, pictures


def evaluate(pipeline: Pipeline) -> None:
    """Judges a run, and writes a table to the terminal, evaluation/metrics.json and report.html in its folder."""
    from rich.console import Console
    from rich.table import Table

    start = time.monotonic()
    run = pipeline.run
    metrics, pictures = judge(pipeline)
    metrics |= _costs(pipeline, time.monotonic() - start)
    (run.folder / "evaluation").mkdir(exist_ok=True)
    write_json(run.folder / "evaluation" / "metrics.json", metrics)
    write_report(run.folder / "report.html", pipeline, metrics, pictures, read_log(run.folder / "log.jsonl"))
    table = Table("", "value", "what it is", title=f"{pipeline.config.name}: {metrics['distance']} is no FID")
    for name, value, meaning in summary_rows(metrics):
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else value, meaning)
    console = Console()
    console.print(table)
    console.print("\n".join([*verdicts(metrics), f"{run.folder / 'report.html'} holds the pictures"]), highlight=False)


def _costs(pipeline: Pipeline, evaluating: float) -> dict:
    """Seconds of every stage, and the most memory that this process has held."""
    stages = [*TIMED, *(pipeline.post_folder(mode) for mode in pipeline.config.pairs.modes[1:])]
    seconds = {stage: pipeline.run.stage_state(stage).get("seconds", 0.0) for stage in stages}
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"seconds": seconds | {"evaluation": round(evaluating, 2)}, "peak_memory_bytes": peak}


def _reconstruct(tokenizer, originals: Tensor, alpha: float = 0.0, delta: int = 1) -> Tensor:
    device = tokenizer.codebook.device
    parts, ids = originals.split(100), torch.arange(len(originals)).split(100)
    return torch.cat([
        to_uint8(tokenizer.reconstruct(from_uint8(part.to(device)), alpha, delta, sample_ids=who.to(device)))
        for part, who in zip(parts, ids, strict=True)
    ]).cpu()  # fmt: skip


def _codebook_usage(pipeline: Pipeline, tokenizer) -> float:
    """Share of codes that the tokens of the training images use."""
    return len(np.unique(pipeline.training_tokens().tokens[:])) / len(tokenizer.codebook)


def _share_read_as(pipeline: Pipeline, images: Tensor, classes: Tensor) -> float:
    """Share of uint8 images that the classifier reads as the class asked for."""
    return (pipeline.frozen.features(images).logits.argmax(1).cpu() == classes).double().mean().item()
