"""Judging a run: its tokenizer by itself, and what its generator gives before and after post-training."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..core.device import peak_memory_bytes
from ..core.files import write_json
from ..data.transforms import from_uint8, to_uint8
from ..evaluation import FeatureStatistics, frechet_distance, pfid, psnr
from ..models.tokenizers.vit_tokenizer import ViTTokenizer
from ..report.training_run import FinishedRun, summary_rows, verdicts, write_report
from ..training.run import read_log
from .pipeline import Pipeline

TIMED = ("classifier", "tokenizer", "tokens", "generator", "pairs")
PICTURED = 20  # images of a strip
PICTURED_CLASSES, PICTURED_PER_CLASS = 10, 12  # of generated images


def evaluate(pipeline: Pipeline) -> None:
    """Judges a run, and writes a table to the terminal, evaluation/metrics.json and report.html in its folder."""
    from rich.console import Console
    from rich.table import Table

    start = time.monotonic()
    folder = pipeline.run.folder
    metrics, pictures = judge(pipeline)
    metrics |= _costs(pipeline, time.monotonic() - start)
    (folder / "evaluation").mkdir(exist_ok=True)
    write_json(folder / "evaluation" / "metrics.json", metrics)
    posts = [pipeline.post_folder(mode) for mode in pipeline.config.pairs.modes]
    log = read_log(folder / "log.jsonl")
    run = FinishedRun(pipeline.config, pipeline.images.class_names, posts, metrics, pictures, log)
    write_report(folder / "report.html", run)
    table = Table("", "value", "what it is", title=f"{pipeline.config.name} ({metrics['distance']} is not FID)")
    for name, value, meaning in summary_rows(metrics):
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else value, meaning)
    console = Console()
    console.print(table)
    console.print(
        "\n".join([*verdicts(metrics), f"Pictures: {folder / 'report.html'}"]), highlight=False, soft_wrap=True
    )


@torch.inference_mode()
def judge(pipeline: Pipeline) -> tuple[dict, dict[str, Tensor]]:
    """(metrics, pictures) of a finished run, on its test images.

    Distances are Fréchet distances of the run's frozen features, named in `distance`: rfd of plain reconstructions,
    pfd the mean over the 15 perturbed settings, gfd of class-balanced samples, real_fd of the training images. Shares
    are from 0 to 1; best_step is the step of post-training that was kept, 0 the decoder as it came. Pictures are uint8
    (n, 3, S, S).
    """
    images, modes = pipeline.images, pipeline.config.pairs.modes
    tokenizer = pipeline.load_tokenizer("tokenizer")
    originals = images.test.load(torch.arange(min(PICTURED, len(images.test))))
    reference, accuracy, _ = _look(pipeline, pipeline.load(images.test), images.test.labels, range(0))
    result = pfid(tokenizer, pipeline.load(images.test), pipeline.features)
    tokens, classes = pipeline.sample(pipeline.config.evaluation.samples_per_class, "judge")
    metrics = {
        "distance": pipeline.distance_name,
        "modes": list(modes),
        "images": {"train": len(images.train), "val": len(images.val), "test": result.count, "samples": len(tokens)},
        "real_fd": frechet_distance(pipeline.statistics(pipeline.load(images.train)), reference),
        "classifier": {"accuracy": accuracy},
        "tokenizer": {
            "psnr": _psnr(pipeline, tokenizer),
            "codebook_usage": float((pipeline.training_tokens().code_counts() > 0).sum() / len(tokenizer.codebook)),
            "rfd": result.rfid,
            "pfd": result.mean,
            "pfd_table": [[alpha, delta, value] for (alpha, delta), value in result.table.items()],
        },
    }
    pictures = {
        "originals": originals,
        "reconstructed": _reconstruct(tokenizer, originals),
        "perturbed": _reconstruct(tokenizer, originals, *max(result.table)),
    }
    shown = list(_pictured_samples(pipeline))
    for name in ("generator", *(pipeline.post_folder(mode) for mode in modes)):
        decoder = tokenizer if name == "generator" else pipeline.load_tokenizer(name)
        samples, agreement, pictures[name] = _look(pipeline, pipeline.decode(decoder, tokens), classes, shown)
        again = (_reconstruct(decoder, batch) for batch in pipeline.load(images.test))
        metrics[name.replace("-", "_")] = {
            "gfd": frechet_distance(samples, reference),
            "class_agreement": agreement,
            "rfd": frechet_distance(pipeline.statistics(again), reference),
        }
    for folder in (pipeline.post_folder(mode) for mode in modes):
        best = pipeline.run.stage_record(folder)["best"]
        metrics[folder.replace("-", "_")]["best_step"] = int(best.removeprefix("step-"))
    return metrics, pictures


def _look(
    pipeline: Pipeline, batches: Iterable[Tensor], classes: Tensor, keep: Iterable[int]
) -> tuple[FeatureStatistics, float, Tensor | None]:
    """One pass over uint8 batches: (moments, share that is read as `classes` (n,), images of the numbers `keep`)."""
    statistics, right, done, wanted, kept = None, 0, 0, set(keep), []
    for images in batches:
        seen = pipeline.features(images)
        statistics = statistics or FeatureStatistics(seen.features.shape[1], seen.features.device)
        statistics.update(seen.features)
        right += (seen.logits.argmax(1).cpu() == classes[done : done + len(images)]).sum().item()
        kept += [images[i].cpu() for i in range(len(images)) if done + i in wanted]
        done += len(images)
    return statistics, right / done, torch.stack(kept) if kept else None


def _psnr(pipeline: Pipeline, tokenizer: ViTTokenizer) -> float:
    """Mean over the test images."""
    parts = [psnr(_reconstruct(tokenizer, images), images) for images in pipeline.load(pipeline.images.test)]
    return torch.cat(parts).mean().item()


def _reconstruct(tokenizer: ViTTokenizer, images: Tensor, alpha: float = 0.0, delta: int = 1) -> Tensor:
    """uint8 images -> their reconstructions, uint8, on the CPU."""
    return to_uint8(tokenizer.reconstruct(from_uint8(images.to(tokenizer.codebook.device)), alpha, delta)).cpu()


def _pictured_samples(pipeline: Pipeline) -> Iterator[int]:
    """Numbers of the samples that the report shows: the first few of the first classes, class by class."""
    per_class = pipeline.config.evaluation.samples_per_class
    for number in range(min(PICTURED_CLASSES, pipeline.images.num_classes)):
        yield from range(number * per_class, number * per_class + min(PICTURED_PER_CLASS, per_class))


def _costs(pipeline: Pipeline, evaluating: float) -> dict:
    """Seconds of every stage, and the most memory that this process has held."""
    stages = [*TIMED, *(pipeline.post_folder(mode) for mode in pipeline.config.pairs.modes)]
    seconds = {stage: pipeline.run.stage_record(stage).get("seconds", 0.0) for stage in stages}
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"seconds": seconds | {"evaluation": round(evaluating, 2)}, "peak_memory_bytes": peak}
