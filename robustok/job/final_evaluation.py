"""The final evaluation of a run: its tokenizer, and what its generator gives before and after post-training."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..core import distributed
from ..core.device import on_the_host, peak_memory_bytes
from ..core.files import read_record, write_json
from ..core.parsing import parsing
from ..core.text import say
from ..data.loader import in_order
from ..data.tokens import TokenSet
from ..evaluation import frechet_distance
from ..evaluation.explaining import Usage, code_counts, usage_of
from ..evaluation.intervals import Estimate, distances, recorded
from ..evaluation.judging import FoldedRows, named, unbiased_samples
from ..evaluation.passes import ReadClasses, moments_in, moments_of
from ..evaluation.reconstruction import mean_psnr, reconstructed
from ..evaluation.robustness import Robustness, robustness
from ..evaluation.skill import skill
from ..generation.batches import decode_batches
from ..models.interfaces import LoadedTokenizer
from ..report.judgement import FILTERS
from ..report.results import print_table
from ..report.run_figures import summary_rows, verdicts
from ..report.training_run import FinishedRun, write_report
from ..training.run import read_log
from ..training.stages.post_training import PostTrainingStage
from .pipeline import Pipeline

FOLDER, METRICS, REPORT = "evaluation", "evaluation/metrics.json", "report.html"  # of a run
PICTURED = 20  # test images whose reconstructions are shown, of which some under every setting of wrong latents
PICTURED_EVERYWHERE = 3
PICTURED_CLASSES, PICTURED_PER_CLASS = 10, 12  # of generated images


def evaluate_run(job: Pipeline) -> None:
    """Evaluates a run on the main process; what that needs and is not there yet, all processes make together.

    Figures of the same models under the same settings are not measured again.
    """
    depends_on = {"settings": job.run.settings(PostTrainingStage.sections), "results": _results(job)}
    record, written = job.run.stage_record(FOLDER), [job.run.folder / name for name in (METRICS, REPORT)]
    if all(record.get(name) == value for name, value in depends_on.items()) and all(map(Path.is_file, written)):
        if distributed.is_main():
            path = job.run.folder / METRICS
            with parsing(path, "figures of a run", f"remove {job.run.folder / FOLDER} to evaluate again"):
                _show(job, read_record(path))
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
    start, folder = time.monotonic(), job.run.folder
    run = measure(job)
    run.metrics |= _costs(job, time.monotonic() - start)
    write_json(folder / METRICS, run.metrics)
    write_report(folder / REPORT, run)
    _show(job, run.metrics)


def _show(job: Pipeline, metrics: dict) -> None:
    """The table of the terminal, what it means, and where the report is."""
    title = f"{job.config.name} ({metrics['distance']} is not FID)"
    print_table(summary_rows(metrics), ("", "value", "what it is"), title)
    say("\n".join([*verdicts(metrics), f"Pictures: {job.run.folder / REPORT}"]))


@torch.inference_mode()
def measure(job: Pipeline) -> FinishedRun:
    """Metrics and pictures of a run, on its test images; what the evaluation costs is not yet among the metrics.

    Distances are of the features of the run's classifier. Fréchet distances, named in `distance`: rfd of plain
    reconstructions, pfd or nfd of those from wrong latents (evaluation/robustness.py), gfd of samples that have the
    classes' shares of the data, real_fd of the training images. Beside each, where fewer than 50,000 images are judged
    by at most 512 features, the unbiased ones of evaluation/judging.py: rfd_inf and rkd, pkd, gfd_inf, gkd
    and gmind, and so on. Those of samples once more with _filters behind, of the untrained network's features, which no
    model learned by.
    NAME_interval and NAME_change_interval (of a post-trained decoder less the one before, on the same images or
    samples) are 95 % intervals over the draw of the test images, for gfd of the samples, for its unbiased ones of both
    (evaluation/intervals.py). Where that classifier does poorly `notes` say so, and `distance` where it is no better
    than chance. Shares are from 0 to 1; best_step is the step of post-training that was kept, 0 the decoder as it came.
    Pictures are uint8 (n, 3, S, S).
    """
    images, tokenizer = job.images, job.load_tokenizer("tokenizer")
    spaces, read = {"": job.features, FILTERS: job.second_features}, ReadClasses()
    reference = moments_in(spaces, in_order(images.test), FoldedRows, {"": read})
    training = moments_of(job.features, in_order(images.train), FoldedRows)
    judged, usage = skill(read.agreement(images.test.labels), images.test.labels), _usage(job, tokenizer)
    robust = _robustness(job, tokenizer)
    made, classes = job.sample("judge")  # a name from before there was a test; another would draw other samples
    counts = {"train": len(images.train), "val": len(images.val), "test": len(images.test), "samples": len(made)}
    codes = {} if usage is None else {"codebook_usage": usage.used, "codebook_perplexity": usage.perplexity}
    metrics = {
        "distance": job.distance_name if judged.verdict != "none" else f"{job.distance_name} (meaningless)",
        "notes": [said] if (said := judged.warning(job.distance_name)) else [],
        "modes": list(job.config.pairs.modes),
        "images": counts,
        "real_fd": frechet_distance(training.total(), reference[""].total()),
        **recorded(named("real_", unbiased_samples(training, reference[""]))),
        "classifier": judged.describe(),
        "tokenizer": {
            "psnr": mean_psnr(tokenizer, in_order(images.test)),
            **codes,
            **recorded(robust.estimates()),
            **robust.tables(),
        },
    }
    originals = images.test.load(torch.arange(min(PICTURED, len(images.test))))
    pictures = {"originals": originals, "reconstructed": reconstructed(tokenizer, originals)}
    perturbed = {} if robust.pictured is None else robust.pictured(originals)
    if perturbed:
        pictures["perturbed"] = perturbed[max(perturbed)]
    pictured = _pictured_samples(classes)
    shown = made[pictured]
    posts, start = list(job.post_folders().values()), None
    for folder in ("generator", *posts):
        decoder = tokenizer if start is None else job.load_tokenizer(folder)
        read = ReadClasses()
        samples = moments_in(spaces, decode_batches(decoder, made), FoldedRows, {"": read})
        stands = robust if start is None else _robustness(job, decoder)
        estimates = stands.estimates()
        for space, moments in samples.items():
            estimates |= {name + space: of for name, of in _of_samples(moments, reference[space]).items()}
        found = recorded(estimates, start) | stands.tables() | {"class_agreement": read.agreement(classes)}
        if start is None:
            start = estimates
        else:
            found["best_step"] = int(job.run.stage_record(folder)["best"].removeprefix("step-"))
        metrics[folder.replace("-", "_")] = found
        pictures[folder] = torch.cat([*on_the_host(decode_batches(decoder, shown))])
    return FinishedRun(
        config=job.config,
        class_names=images.class_names,
        post_stages=posts,
        metrics=metrics,
        pictures=pictures,
        drawn=classes[pictured],
        perturbed={setting: shown[:PICTURED_EVERYWHERE] for setting, shown in perturbed.items()},
        usage=usage,
        log=read_log(job.run.folder / "log.jsonl"),
    )


def _robustness(job: Pipeline, tokenizer: LoadedTokenizer) -> Robustness:
    return robustness(tokenizer, lambda: in_order(job.images.test), job.features)


def _of_samples(samples: FoldedRows, reference: FoldedRows) -> dict[str, Estimate]:
    return named("g", distances({"fd": samples}, reference.total()) | unbiased_samples(samples, reference))


def _usage(job: Pipeline, tokenizer: LoadedTokenizer) -> Usage | None:
    """How often the tokens of the training images have each code, where there are codes."""
    rows = job.training_tokens()
    if not isinstance(rows, TokenSet):
        return None
    shards = (torch.from_numpy(shard.astype(np.int64)) for shard in rows.tokens.parts)
    return usage_of(sum(code_counts(tokenizer, shard) for shard in shards))


def _pictured_samples(classes: Tensor) -> Tensor:
    """Numbers of the samples that the report shows: the first few of the first classes, class by class.

    classes: (N,) int64, of all samples.
    """
    return torch.cat([torch.where(classes == number)[0][:PICTURED_PER_CLASS] for number in range(PICTURED_CLASSES)])


def _costs(job: Pipeline, evaluating: float) -> dict:
    """Seconds of every stage, and the most memory that this process has held."""
    kept = [name for name, stage in job.stages.items() if stage.sections]  # a result without any is not kept
    folders = dict.fromkeys([*kept, *job.post_folders().values()])
    seconds = {folder: job.run.stage_record(folder).get("seconds", 0.0) for folder in folders}
    peak = peak_memory_bytes(torch.device("cpu"))
    return {"seconds": seconds | {"evaluation": round(evaluating, 2)}, "peak_memory_bytes": peak}
