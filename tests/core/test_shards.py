"""Shares of an array of jobs, and what schedulers say of them."""

from argparse import ArgumentTypeError, Namespace

import pytest

from robustok.core.errors import UserError
from robustok.core.shards import ALL, NONE, Shard, my_shard, refuse_partial, scheduled, shard_of


def test_shares_are_disjoint_and_complete():
    units = list(range(23))
    shares = [Shard(number, 5).mine(units) for number in range(1, 6)]
    assert sorted(unit for share in shares for unit in share) == units
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert list(ALL.mine(units)) == units and list(NONE.mine(units)) == []


@pytest.mark.parametrize("text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1.5/3", "1/ 3"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ArgumentTypeError, match=r"expected i/N with i from 1 to N"):
        shard_of(text)


SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_STEP")
GRID_ENGINE = ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE")


@pytest.mark.parametrize(
    ("names", "values", "shard"),
    [
        (SLURM, (0, 0, 7, 1), (1, 8)),
        (SLURM, (7, 0, 7, 1), (8, 8)),
        (SLURM, (9, 5, 13, 4), (2, 3)),  # --array=5-13:4
        (GRID_ENGINE, (3, 1, 10, 1), (3, 10)),
        (GRID_ENGINE, ("undefined", "undefined", "undefined", "undefined"), None),  # a job that is no array
    ],
)
def test_schedulers_say_which_share(names, values, shard):
    expected = None if shard is None else Shard(*shard)
    assert scheduled(dict(zip(names, map(str, values), strict=True))) == expected
    assert scheduled({}) is None


def test_an_array_of_uneven_indices_is_refused():
    environment = dict(zip(SLURM, ("5", "1", "7", "1"), strict=True)) | {"SLURM_ARRAY_TASK_COUNT": "3"}
    with pytest.raises(UserError, match=r"one of 3 .* not evenly spaced; give each job its --shard i/N"):
        scheduled(environment)


def test_what_is_given_comes_before_what_the_scheduler_says(monkeypatch, capsys):
    for name, value in zip(SLURM, ("2", "1", "4", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert my_shard(Namespace(shard=Shard(1, 3))) == Shard(1, 3)
    assert capsys.readouterr().out == ""
    assert my_shard(Namespace(shard=None)) == Shard(2, 4)
    assert "job 2 of an array of Slurm: --shard 2/4" in capsys.readouterr().out


def test_missing_units_are_named(capsys):
    assert not refuse_partial(NONE, [], "out")
    assert refuse_partial(Shard(1, 3), [f"shard {n}" for n in range(7)], "out")
    assert "not there yet: shard 0, shard 1, shard 2, shard 3, shard 4 and 2 more" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--merge: of out there is no shard 2 yet"):
        refuse_partial(NONE, ["shard 2"], "out")
