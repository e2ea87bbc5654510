"""The final evaluation of a run: its tokenizer, and what its generator gives before and after post-training."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch import Tensor

from ..core import distributed
from ..core.device import peak_memory_bytes
from ..core.files import read_json, write_json
from ..core.text import say
from ..data.loader import in_order
from ..data.tokens import TokenSet
from ..evaluation import frechet_distance, psnr
from ..evaluation.intervals import FoldedFeatures, interval
from ..evaluation.passes import moments_and_agreement, moments_of
from ..evaluation.reconstruction import reconstructed
from ..evaluation.robustness import Robustness, robustness
from ..evaluation.skill import skill
from ..generation.batches import decode_batches
from ..models.interfaces import LoadedTokenizer
from ..report.results import print_table
from ..report.training_run import FinishedRun, summary_rows, verdicts, write_report
from ..training.run import read_log
from ..training.stages.post_training import PostTrainingStage
from .pipeline import Pipeline

FOLDER, METRICS, REPORT = "evaluation", "evaluation/metrics.json", "report.html"  # of a run
PICTURED = 20  # images of a strip
PICTURED_CLASSES, PICTURED_PER_CLASS = 10, 12  # of generated images


def evaluate_run(job: Pipeline) -> None:
    """Evaluates a run on the main process; what that needs and is not there yet, all processes make together.

    Figures of the same models under the same settings are not measured again.
    """
    depends_on = {"settings": job.run.settings(PostTrainingStage.sections), "results": _results(job)}
    record, written = job.run.stage_record(FOLDER), [job.run.folder / name for name in (METRICS, REPORT)]
    if all(record.get(name) == value for name, value in depends_on.items()) and all(map(Path.is_file, written)):
        if distributed.is_main():
            _show(job, read_json(job.run.folder / METRICS))
            say(f"Everything was done before; to evaluate again, remove {job.run.folder / FOLDER}")
        return
    _ = job.features  # trains the classifier on first use
    job.training_tokens()
    if distributed.is_main():
        _evaluate(job)
        job.run.update_stage(FOLDER, **depends_on)


def _results(job: Pipeline) -> dict[str, str]:
    """Folder of each model that is evaluated -> the checkpoint in use."""
    return {folder: str(job.result(folder)) for folder in ("tokenizer", "generator", *job.post_folders().values())}


def _evaluate(job: Pipeline) -> None:
    """Prints a table, and writes evaluation/metrics.json and report.html into the run's folder."""
    start = time.monotonic()
    folder = job.run.folder
    metrics, pictures = measure(job)
    metrics |= _costs(job, time.monotonic() - start)
    write_json(folder / METRICS, metrics)
    posts, log = list(job.post_folders().values()), read_log(folder / "log.jsonl")
    write_report(folder / REPORT, FinishedRun(job.config, job.images.class_names, posts, metrics, pictures, log))
    _show(job, metrics)


def _show(job: Pipeline, metrics: dict) -> None:
    """The table of the terminal, what it means, and where the report is."""
    title = f"{job.config.name} ({metrics['distance']} is not FID)"
    print_table(summary_rows(metrics), ("", "value", "what it is"), title)
    say("\n".join([*verdicts(metrics), f"Pictures: {job.run.folder / REPORT}"]))


@torch.inference_mode()
def measure(job: Pipeline) -> tuple[dict, dict[str, Tensor]]:
    """(metrics, pictures) of a finished run, on its test images.

    Distances are Fréchet distances of the features of the run's classifier, named in `distance`: rfd of plain
    reconstructions, pfd or nfd of those from wrong latents (evaluation/robustness.py), gfd of class-balanced samples,
    real_fd of the training images; gfd_interval and gfd_change_interval (after less before, on the same samples) are
    95 % intervals over the draw of the samples (evaluation/intervals.py). Where that classifier does poorly `notes` say
    so, and `distance` where it is no better than chance. Shares are from 0 to 1; best_step is the step of post-training
    that was kept, 0 the decoder as it came. Pictures are uint8 (n, 3, S, S).
    """
    images, tokenizer = job.images, job.load_tokenizer("tokenizer")
    reference, accuracy = moments_and_agreement(job.features, in_order(images.test), images.test.labels)
    judged = skill(accuracy, images.test.labels)
    robust = _robustness(job, tokenizer)
    made, classes = job.sample("judge")  # a name from before there was a test; another would draw other samples
    counts = {"train": len(images.train), "val": len(images.val), "test": len(images.test), "samples": len(made)}
    metrics = {
        "distance": job.distance_name if judged.verdict != "none" else f"{job.distance_name} (meaningless)",
        "notes": [said] if (said := judged.warning(job.distance_name)) else [],
        "modes": list(job.config.pairs.modes),
        "images": counts,
        "real_fd": frechet_distance(moments_of(job.features, in_order(images.train)), reference),
        "classifier": judged.describe(),
        "tokenizer": {"psnr": _psnr(job, tokenizer), **_usage(job, tokenizer), **robust.figures()},
    }
    originals = images.test.load(torch.arange(min(PICTURED, len(images.test))))
    pictures = {"originals": originals, "reconstructed": reconstructed(tokenizer, originals)}
    if robust.strongest is not None:
        pictures["perturbed"] = robust.strongest(originals)
    shown = made[_pictured_samples(job)]
    for folder in ("generator", *job.post_folders().values()):
        before = folder == "generator"
        decoder = tokenizer if before else job.load_tokenizer(folder)
        folded = FoldedFeatures(job.features)
        samples, agreement = moments_and_agreement(folded, decode_batches(decoder, made), classes)
        gfd, left_out = frechet_distance(samples, reference), folded.left_out(reference)
        found = (robust if before else _robustness(job, decoder)).figures() | {
            "gfd": gfd,
            "gfd_interval": interval(gfd, left_out),
            "class_agreement": agreement,
        }
        if before:
            start, start_left_out = gfd, left_out
        else:
            found["gfd_change_interval"] = interval(gfd - start, left_out - start_left_out)
            found["best_step"] = int(job.run.stage_record(folder)["best"].removeprefix("step-"))
        metrics[folder.replace("-", "_")] = found
        pictures[folder] = torch.cat([batch.cpu() for batch in decode_batches(decoder, shown)])
    return metrics, pictures


def _robustness(job: Pipeline, tokenizer: LoadedTokenizer) -> Robustness:
    return robustness(tokenizer, lambda: in_order(job.images.test), job.features)


def _psnr(job: Pipeline, tokenizer: LoadedTokenizer) -> float:
    qualities = [psnr(reconstructed(tokenizer, images), images) for images in in_order(job.images.test)]
    return torch.cat(qualities).mean().item()


def _usage(job: Pipeline, tokenizer: LoadedTokenizer) -> dict[str, float]:
    """The share of the codes that the training images use, where there are codes."""
    rows = job.training_tokens()
    if not isinstance(rows, TokenSet):
        return {}
    used = (rows.code_counts() > 0).sum()
    return {"codebook_usage": float(used / tokenizer.codebook.shape[-2])}


def _pictured_samples(job: Pipeline) -> list[int]:
    """Numbers of the samples that the report shows: the first few of the first classes, class by class."""
    per_class = job.config.evaluation.samples_per_class
    few = range(min(PICTURED_PER_CLASS, per_class))
    return [number * per_class + i for number in range(min(PICTURED_CLASSES, job.images.num_classes)) for i in few]


def _costs(job: Pipeline, evaluating: float) -> dict:
    """Seconds of every stage, and the most memory that this process has held."""
    kept = [name for name, stage in job.stages.items() if stage.sections]  # a result without any is not kept
    folders = dict.fromkeys([*kept, *job.post_folders().values()])
    seconds = {folder: job.run.stage_record(folder).get("seconds", 0.0) for folder in folders}
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"seconds": seconds | {"evaluation": round(evaluating, 2)}, "peak_memory_bytes": peak}
