"""The main job: python -m robustok.train [--stage STAGE] [--config FILE] [--compile] [--SETTING VALUE ...]

    python -m robustok.train                                     the digits demo, from images to an evaluated tokenizer
    python -m robustok.train --name mine --data.root PHOTOS      the same on a folder of images
    torchrun --nproc_per_node 8 -m robustok.train --config configs/robustok-b.yaml --stage tokenizer --compile

The same command again resumes; finished stages are not run again.
"""

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
    named = any(argument.split("=")[0] == "--config" for argument in argv)
    parser = run_config_parser("robustok.train", None if named else str(preset_path("digits")))
    parser.add_argument("--stage", default="all", help="all in order, or one alone: " + ", ".join(STAGE_NAMES))
    parser.add_argument(
        "--dry_run", action="store_true", help="check the settings and the data, say what would be done, and end"
    )
    config, options = parse_run_config(parser, argv)
    from .job import preflight
    from .models.starting import with_started_families

    config, stages = with_started_families(config), _chosen(options["stage"])
    preflight.check_settings(config)
    preflight.check_stages(config, stages)
    check_output("runs", given_path(config.runs) / config.name, {"data.root": config.data.root})
    return _dry_run(config, stages) if options["dry_run"] else _run(config, stages)


def _chosen(stage: str) -> tuple[str, ...]:
    from .job.registry import STAGES

    if stage not in ("all", *STAGES):
        raise UserError(f"--stage: found {stage!r}, expected all or one of {', '.join(STAGES)}")
    return tuple(STAGES) if stage == "all" else (stage,)


def _run(config: RunConfig, stages: tuple[str, ...]) -> int:
    from .core import distributed
    from .core.device import resolve_device
    from .job import preflight
    from .job.pipeline import Pipeline
    from .job.registry import STAGES
    from .job.space import check_space
    from .training.run import Run, set_aside

    distributed.start(resolve_device(config.device))
    if config.resume == "never" and distributed.is_main():
        set_aside(given_path(config.runs) / config.name)
    opened = Run(config)
    try:
        pipeline = Pipeline(opened, STAGES)
        preflight.check_data(config, pipeline.images, stages, distributed.world())
        check_space(config, pipeline.images, stages)
        if distributed.is_main():
            _warn_of_never(config, pipeline.images, stages)
        for stage in stages:
            STAGES[stage].run(pipeline)
    except KeyboardInterrupt as stop:
        command = "python -m robustok.train " + shlex.join([*sys.argv[1:], "--resume", "auto"])
        raise KeyboardInterrupt(f"{stop or 'stopped'}\nto resume: {command}") from None
    finally:
        opened.close()
    distributed.stop()
    return 0


def _warn_of_never(config: RunConfig, images, stages: tuple[str, ...]) -> None:
    """Warns of parts that the run is too short for."""
    from .job.outlook import never

    for sentence in never(config, images, stages):
        warnings.warn(sentence, stacklevel=2)


def _dry_run(config: RunConfig, stages: tuple[str, ...]) -> int:
    from .data.images import open_images
    from .job import preflight
    from .job.outlook import described_stages
    from .job.space import check_space
    from .models.starting import tokenizer_shape

    images = open_images(config.data, tokenizer_shape(config).image_size)
    preflight.check_data(config, images, stages, world=1)
    counts = f"{len(images.train)} images to train on, {len(images.val)} for validation, {len(images.test)} to test"
    say(f"{config.runs}/{config.name}: {', '.join(stages)}")
    say(f"{counts}, {images.num_classes} classes")
    say("\n".join(described_stages(config, images, stages)) or "  no stage that trains")
    say(check_space(config, images, stages))
    say("settings are fine")
    _warn_of_never(config, images, stages)
    return 0


if __name__ == "__main__":
    sys.exit(run_verb(main))
