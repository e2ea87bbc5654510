"""The main job: python -m robustok.train [--stage STAGE] [--config FILE] [--compile] [--SETTING VALUE ...]

    python -m robustok.train                                     the digits demo, from images to an evaluated tokenizer
    python -m robustok.train --name mine --data.root PHOTOS      the same on a folder of images
    torchrun --nproc_per_node 8 -m robustok.train --config configs/robustok-b.yaml --stage tokenizer --compile

The same command again resumes; finished stages are not run again.
"""

import os
import shlex
import sys
import warnings

from .config import RunConfig
from .core.cli import run_verb
from .core.errors import UserError
from .core.paths import check_output, given_path
from .core.text import say
from .job.command_line import parse_run_config, run_config_parser
from .presets import preset_path

STAGE_NAMES = ("classifier", "tokenizer", "tokens", "generator", "pairs", "discriminator", "post", "evaluate")


def main(argv: list[str]) -> int:
    """Parses the settings and runs the stages asked for; returns the exit code."""
    given = {argument.split("=")[0] for argument in argv}
    preset = None if "--config" in given else "images" if "--data.root" in given else "digits"
    parser = run_config_parser("robustok.train", None if preset is None else str(preset_path(preset)))
    parser.add_argument("--stage", default="all", help="all in order, or one alone: " + ", ".join(STAGE_NAMES))
    parser.add_argument(
        "--dry_run", action="store_true", help="check the settings and the data, say what would be done, and end"
    )
    config, options = parse_run_config(parser, argv)
    from .job import preflight
    from .job.decisions import as_begun
    from .models.starting import with_started_families

    stages = _chosen(options["stage"], config)
    config, file = as_begun(config)
    if file is not None and int(os.environ.get("RANK", "0")) == 0:
        say(f"what the settings leave open is as this run began: {file}")
    config = with_started_families(config)
    preflight.check_settings(config)
    preflight.check_stages(config, stages)
    check_output("runs", given_path(config.runs) / config.name, {"data.root": config.data.root})
    return _dry_run(config, stages) if options["dry_run"] else _run(config, stages)


def _chosen(stage: str, config: RunConfig) -> tuple[str, ...]:
    from .job.registry import STAGES

    stages = [name for name in STAGES if name != "classifier" or config.start.classifier is None]
    if stage not in ("all", *stages):
        given = f"; start.classifier = {config.start.classifier} is taken as it is" if stage == "classifier" else ""
        raise UserError(f"--stage: found {stage!r}, expected all or one of {', '.join(stages)}{given}")
    return tuple(stages) if stage == "all" else (stage,)


def _run(config: RunConfig, stages: tuple[str, ...]) -> int:
    from .core import distributed
    from .core.device import resolve_device
    from .job.memory import check_memory
    from .job.pipeline import Pipeline
    from .job.registry import STAGES
    from .job.space import check_space
    from .training.run import Run, set_aside

    distributed.start(resolve_device(config.device))
    opened = None
    try:
        outline = _checked(config, stages)
        check_space(outline)
        check_memory(outline, distributed.world())
        if config.resume == "never" and distributed.is_main():
            set_aside(given_path(config.runs) / config.name)
        opened = Run(outline.config)
        pipeline = Pipeline(opened, outline.images, STAGES)
        for stage in stages:
            STAGES[stage].run(pipeline)
    except KeyboardInterrupt as stop:
        command = _command_to_resume(sys.argv[1:], distributed.world())
        raise KeyboardInterrupt(f"{stop or 'stopped'}\nto resume: {command}") from None
    finally:
        if opened is not None:
            opened.close()
    return 0


def _command_to_resume(argv: list[str], world: int) -> str:
    launcher = "python" if world == 1 else "torchrun [its options as before]"
    return f"{launcher} -m robustok.train {shlex.join([*argv, '--resume', 'auto'])}"


def _checked(config: RunConfig, stages: tuple[str, ...]):
    """The run as it will be, with what its settings leave open decided; nothing is written yet. The main process says
    what was decided, and warns of parts that the run is too short for.
    """
    from .core import distributed
    from .core.device import resolve_device
    from .data.images import open_images
    from .job import decisions, outlook, preflight
    from .job.outline import Outline
    from .models.starting import tokenizer_shape

    images = open_images(config.data, tokenizer_shape(config).image_size)
    device = resolve_device(config.device).type
    config, made = decisions.decided(config, images, distributed.world(), device)
    outline = Outline(config, images, stages)
    preflight.check_run(outline, distributed.world())
    if distributed.is_main():
        _say_decided(outline, made)
        for sentence in outlook.never(outline):
            warnings.warn(sentence, stacklevel=2)
    return outline


def _say_decided(outline, made: list) -> None:
    """Says what was decided of the settings that these stages depend on."""
    from .job import decisions
    from .job.registry import STAGES
    from .models.registry import sections_of

    names = {name for stage in outline.stages for name in STAGES[stage].sections}
    names |= {"evaluation", "sampling"} if "evaluate" in outline.stages else set()
    relevant = sections_of(outline.config, names)
    if lines := decisions.lines(decision for decision in made if decision.name.partition(".")[0] in relevant):
        say("decided, as no setting says it (an option overrides each):")
        say("\n".join(lines))


def _dry_run(config: RunConfig, stages: tuple[str, ...]) -> int:
    from .core import distributed
    from .core.device import resolve_device
    from .job.duration import described_duration
    from .job.memory import check_memory
    from .job.outlook import described_stages
    from .job.space import check_space

    device = resolve_device(config.device)
    distributed.start(device)
    outline = _checked(config, stages)
    images = outline.images
    counts = f"{len(images.train)} images to train on, {len(images.val)} for validation, {len(images.test)} to test"
    said = [
        f"{config.runs}/{config.name}: {', '.join(stages)}",
        f"{counts}, {images.num_classes} classes",
        *(described_stages(outline) or ["  no stage that trains"]),
        *described_duration(outline, device, distributed.world()),
        check_space(outline),
        check_memory(outline, distributed.world()),
        "settings are fine",
    ]
    if distributed.is_main():
        say("\n".join(said))
    return 0


if __name__ == "__main__":
    sys.exit(run_verb(main))
