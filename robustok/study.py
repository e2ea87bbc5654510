"""A study: runs that differ in named settings, and what their figures say together.

python -m robustok.study                             all rows of configs/study/emoji.yaml, and the page
python -m robustok.study --rows none --seeds 0       one row, compared with what was found before
"""

import sys
from pathlib import Path

from .core.cli import run_verb
from .core.options import verb_parser
from .presets import FOLDER


def main(argv: list[str]) -> int:
    """Runs the rows; returns the exit code."""
    parser = verb_parser("study", __doc__)
    parser.add_argument("--file", type=Path, default=FOLDER / "study/emoji.yaml", help="the study (default: on emoji)")
    parser.add_argument("--rows", nargs="+", help="rows to run (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, help="seeds to run (default: each row's)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, which share the cores (default: 2)")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/study"), help="folder of the runs (default: runs/study)"
    )
    options = parser.parse_args(argv)
    from .studies.plan import read_study
    from .studies.running import Runner

    study = read_study(options.file)
    chosen = [
        (row, seed)
        for row, seed in study.runs()
        if (options.rows is None or row.name in options.rows) and (options.seeds is None or seed in options.seeds)
    ]
    Runner(study, options.runs, options.jobs).run(chosen)
    return 0


if __name__ == "__main__":
    sys.exit(run_verb(main))
