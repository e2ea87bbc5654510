"""A small study whose runs are written by hand: figures that are known."""

import json

import pytest
import yaml

from robustok.studies.measured import Findings
from robustok.studies.plan import read_study

SETTINGS = {"base": "digits", "data": {"val": 200, "test": 300}}
ROWS = {
    "none": {"part": "perturbation", "says": "no perturbation", "settings": {"perturbation": {"beta": 0.0}}},
    "annealed-half": {"part": "perturbation", "says": "the recipe"},
    "sigma-0.7": {
        **{"part": "post-training", "says": "sigma 0.7", "seeds": [0]},
        **{"tokenizer": "annealed-half", "generator": "annealed-half", "settings": {"pairs": {"sigma": 0.7}}},
    },
}


@pytest.fixture
def study(tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"settings": SETTINGS, "seeds": [0, 1], "rows": ROWS}, sort_keys=False))
    return read_study(file)


def write_run(runs, name, *, pfd, gfd, post, log=()):
    """A finished run with these figures; what every run has else is the same for all."""
    folder = runs / name
    (folder / "evaluation").mkdir(parents=True)
    intervals = {"gfd_change_interval": [post - gfd - 0.01, post - gfd + 0.01], "gkd_change_interval": [-0.3, -0.1]}
    metrics = {
        "distance": "FD-digits",
        "images": {"train": 1297, "val": 200, "test": 300, "samples": 500},
        "modes": ["direct"],
        "seconds": {"tokenizer": 10.0, "generator": 5.0},
        "tokenizer": {
            "psnr": 16.0 + pfd,
            "rfd": 0.5,
            "pfd": pfd,
            "rkd": 0.01,
            "pkd": pfd / 10,
            "pfd_table": [[0.9, 3, 2.0], [0.5, 6, 1.5]],
        },
        "generator": {"gfd": gfd, "gkd": gfd / 10, "gfd_filters": 9 * gfd},
        "post": {"gfd": post, "gkd": post / 10, "gfd_filters": 9 * post, "best_step": 40, **intervals},
    }
    (folder / "evaluation/metrics.json").write_text(json.dumps(metrics))
    weights = {"reconstruction": 1.0, "perceptual": 0.1, "vq": 1.0, "commit": 0.25, "semantic": 0.1, "adversarial": 0.1}
    (folder / "config.yaml").write_text(yaml.safe_dump({"losses": weights, "perturbation": {"beta": 0.1}}))
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))


@pytest.fixture
def found(study, tmp_path):
    """pFD 2.0 and 1.9 without perturbation, 1.0 and 1.1 with it; gFD 3.0 and 3.2, 3.1 and 3.0."""
    runs = tmp_path / "runs"
    step = {"stage": "tokenizer", "step": 100, "reconstruction": 0.3, "perceptual": 1.0, "adversarial": -0.5}
    log = [step | {"adaptive_weight": 2.0, "vq": 0.05, "commit": 0.04, "semantic": 1.0}]
    for row, seed, pfd, gfd in (
        *(("none", 0, 2.0, 3.0), ("none", 1, 1.9, 3.2)),
        *(("annealed-half", 0, 1.0, 3.1), ("annealed-half", 1, 1.1, 3.0)),
    ):
        write_run(runs, f"{row}-{seed}", pfd=pfd, gfd=gfd, post=gfd - 0.3 - 0.01 * seed, log=log)
    write_run(runs, "sigma-0.7-0", pfd=1.0, gfd=3.1, post=2.7)
    return Findings(study, runs)
