"""Everything that a killed process may have been at, tiny: the stages of two runs, of tokens and of latents, and verbs.

Each is a command in a folder that holds what the ones before it have made. `content` says what it left, without what
differs from one time to the next.
"""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

# Figures of times, and of the use of the codebook over the steps since the process began.
TIMES = ("seconds", "images_per_second", "peak_memory_bytes", "usage", "perplexity")
SAVED = r"(step-[1-9]\d*|shard-\d+)"  # folders that a process goes on from
TRAINING = {"epochs": 1, "batch_size": 8, "save_every": 1, "warmup_epochs": 0.1, "ema": 0.9}
STAGES = ("classifier", "tokenizer_training", "generator_training", "post_training")
COMMON = {
    "runs": "runs",
    "device": "cpu",
    "log_every": 1,
    "data.root": "photos",
    "data.val": 8,
    "data.test": 8,
    "pairs.modes": "[direct,reencode]",
    "stopping.every_epochs": 0.5,
    "evaluation.samples_per_class": 4,
    "losses.adversarial_start": 0.3,
    "discriminator_warmup.epochs": 1,
} | {f"{stage}.{name}": value for stage in STAGES for name, value in TRAINING.items()}
TOKENS = COMMON | {
    "name": "tokens",
    "tokenizer.image_size": 16,
    "tokenizer.patch_size": 8,
    "tokenizer.width": 64,
    "tokenizer.depth": 1,
    "tokenizer.heads": 2,
    "tokenizer.codebook_size": 16,
    "tokenizer.code_width": 4,
    "codebook.continuous_steps": 1,
    "perturbation.delta": 4,
    "generator.width": 16,
    "generator.depth": 1,
    "generator.heads": 2,
    "generator.mlp_width": 16,
}
LATENTS = COMMON | {
    "name": "latents",
    "family.tokenizer": "maetok",
    "family.generator": "sit",
    "maetok.image_size": 16,
    "maetok.patch_size": 8,
    "maetok.width": 64,
    "maetok.depth": 1,
    "maetok.heads": 2,
    "maetok.num_latents": 4,
    "maetok.latent_width": 4,
    "maetok.auxiliary_width": 16,
    "maetok.auxiliary_depth": 1,
    "maetok.auxiliary_heads": 2,
    "sit.width": 16,
    "sit.depth": 1,
    "sit.heads": 2,
    "flow_sampling.steps": 2,
}


@dataclass(frozen=True)
class Work:
    """A command, and the folders that it makes."""

    name: str
    argv: list[str]
    makes: tuple[str, ...]


def of_stage(settings: dict, stage: str, *makes: str) -> Work:
    options = {**settings, "stage": stage}
    argv = ["train", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    run = settings["name"]
    return Work(f"{run}: {stage}", argv, tuple(f"runs/{run}/{made}" for made in makes or (stage,)))


def stages_of(settings: dict) -> list[Work]:
    stages = ("classifier", "tokenizer", "tokens", "generator", "pairs")
    works = [of_stage(settings, stage) for stage in stages]
    return [*works, of_stage(settings, "post", "post", "post-reencode"), of_stage(settings, "evaluate", "evaluation")]


WARM = {"name": "warm", "start.tokenizer": "plain", "start.generator": "runs/tokens/generator"}
SAMPLE = "sample --generator runs/tokens/generator --tokenizer runs/tokens/tokenizer --n 24 --batch_size 4"
SAMPLE += " --shard_images 8 --save npz png --reference photos --network classifier"
SAMPLE += " --weights runs/tokens/classifier --output sample"
BENCHMARK = "evaluate benchmark list.yaml --images photos --network classifier --weights runs/tokens/classifier"
TOKEN_WORKS = [
    *stages_of(TOKENS),
    of_stage(TOKENS | WARM, "discriminator", "classifier", "discriminator"),
    Work("sample", SAMPLE.split(), ("sample",)),
    Work("pretokenize", ["pretokenize", "photos", "shards", "--tokenizer", "runs/tokens/tokenizer"], ("shards",)),
    Work("evaluate benchmark", [*BENCHMARK.split(), "--output", "benchmark"], ("benchmark",)),
]
LATENT_WORKS = [
    *stages_of(LATENTS),
    Work("pretokenize latents", ["pretokenize", "photos", "rows", "--tokenizer", "runs/latents/tokenizer"], ("rows",)),
]


def make_inputs(folder: Path) -> None:
    """photos/, two classes of 20 images of 16 x 16, and the list of the benchmark."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    for number, image in enumerate(pixels):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    (folder / "list.yaml").write_text("tokenizers:\n- {name: ours, file: runs/tokens/tokenizer}\n")


def make_plain(folder: Path) -> None:
    """plain/: the tokenizer without its discriminator, so that post-training warms up a new one."""
    trained = folder / "runs/tokens/tokenizer"
    shutil.copytree(trained / json.loads((trained / "stage.json").read_text())["best"], folder / "plain")
    (folder / "plain/discriminator.safetensors").unlink()
    manifest = json.loads((folder / "plain/manifest.json").read_text())
    del manifest["files"]["discriminator.safetensors"]
    (folder / "plain/manifest.json").write_text(json.dumps(manifest))


def content(folder: Path, work: Work) -> dict[str, object]:
    """What the work left in the folder, by path; also what it should not have left."""
    found: dict[str, object] = {}
    for made in work.makes:
        for path in sorted((folder / made).rglob("*")):
            place = str(path.relative_to(folder))
            if path.is_file() and not _passing(place):
                found[place] = _what_is_in(path)
    logs = {folder / made for made in work.makes}
    for log in {made.parent / "log.jsonl" for made in logs if made.parent.parent.name == "runs"}:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        ours = [line for line in lines if log.with_name(line["stage"]) in logs]
        found[str(log.relative_to(folder))] = _without_times(ours)
    return found


def _passing(place: str) -> bool:
    """Locks, pages with times, and hashes of what holds times."""
    return bool(re.search(r"/(claims|locks)/|/\.lock$|\.html$|/step-\d+/manifest\.json$", place))


def _what_is_in(path: Path) -> object:
    if path.suffix == ".json":
        return _without_times(json.loads(path.read_text()))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: arrays[name].tobytes() for name in arrays}
    return path.read_bytes()


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_times(item) for name, item in value.items() if name not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value
