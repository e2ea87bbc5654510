"""A run trains the families that its settings name, each with the settings of its own section."""

from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from robustok.checkpoints.writing import save
from robustok.config import FamilyConfig, RunConfig, StartConfig
from robustok.core.errors import UserError
from robustok.job.outline import Outline
from robustok.job.preflight import check_settings
from robustok.model_configs import RARConfig
from robustok.models.registry import FAMILIES, Family, sections_of, trained_config, trained_family
from robustok.models.starting import generator_to_train
from robustok.train import main
from robustok.training.run import Run

ROLES = ("tokenizer", "generator")


@dataclass(frozen=True)
class TableConfig:
    width: int = 4
    codebook_size: int | None = None
    num_classes: int | None = None
    num_tokens: int | None = None


class Table(nn.Module):
    """A toy generator: one row of logits for each class and place."""

    def __init__(self, config: TableConfig):
        if config.width % 2:
            raise ValueError(f"width: found {config.width}, expected an even number")
        super().__init__()
        self.config, self.codebook_size, self.num_tokens = config, config.codebook_size, config.num_tokens
        self.logits = nn.Parameter(torch.zeros(config.num_classes, config.num_tokens, config.codebook_size))


@dataclass(frozen=True)
class RunOfTables(RunConfig):
    table: TableConfig = field(default_factory=TableConfig)


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setitem(FAMILIES, "table", Family("table", "generator", TableConfig, Table, section="table"))
    return RunOfTables(family=FamilyConfig(generator="table"))


def test_without_a_word_a_run_trains_the_vit_tokenizer_and_rar():
    run = RunConfig()
    assert [trained_family(run, role).kind for role in ROLES] == ["tokenizer", "rar"]
    assert [trained_config(run, role) for role in ROLES] == [run.tokenizer, run.generator]
    assert sections_of(run, ("seed", *ROLES)) == {"seed", *ROLES, "order"}
    assert sections_of(replace(run, family=FamilyConfig(generator="sit")), ("generator", "sampling")) == {
        *("sit", "flow_sampling")
    }


def test_the_settings_of_the_trained_family_count(tables, tmp_path):
    """They are checked, and what was trained under others is refused; another family's settings do not matter."""
    assert trained_config(tables, "generator") is tables.table
    images = SimpleNamespace(num_classes=10)
    for run in (tables, replace(tables, generator=replace(tables.generator, heads=5))):  # RAR is not trained
        check_settings(run)
        assert Outline(run, images, ()).generator.config.width == 4
    with pytest.raises(UserError, match="width: found 3, expected an even number"):
        _ = Outline(replace(tables, table=TableConfig(width=3)), images, ()).generator
    run = Run(replace(tables, runs=str(tmp_path), device="cpu"))
    run.update_stage("generator", finished=True, settings=run.settings(("generator", "seed")))
    assert set(run.stage_record("generator")["settings"]) == {"table", "seed", "images"}
    run.config = replace(run.config, generator=replace(run.config.generator, width=32))
    assert run.is_finished("generator", ("generator", "seed"))
    run.config = replace(run.config, table=TableConfig(width=8))
    with pytest.raises(UserError, match=r"table\.width: stored 4, now 8"):
        run.is_finished("generator", ("generator", "seed"))
    run.config = replace(run.config, family=FamilyConfig())
    with pytest.raises(UserError, match=r"table\.width: stored 4, now None"):
        run.is_finished("generator", ("generator", "seed"))
    run.close()


def test_a_new_generator_is_of_the_family(tables):
    tokenizer = FAMILIES["tokenizer"].build(tables.tokenizer)
    model = generator_to_train(tables, tokenizer, num_classes=3)
    assert isinstance(model, Table) and model.config == TableConfig(4, codebook_size=256, num_classes=3, num_tokens=16)
    with pytest.raises(UserError, match=r"table\.num_tokens: found 5, but tokenizer and data have 16"):
        generator_to_train(replace(tables, table=TableConfig(num_tokens=5)), tokenizer, num_classes=3)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--family.generator", "rra"), r"family\.generator: found 'rra', expected one of rar"),
        (("--family.tokenizer", "conv_tokenizer"), r"family\.tokenizer: found 'conv_tokenizer', expected one of tok"),
        (("--family.tokenizer", "rar"), r"family\.tokenizer: found 'rar', expected one of tokenizer"),
    ],
)
def test_a_kind_that_no_run_trains_is_refused(option, message):
    with pytest.raises(UserError, match=message):
        main([*option, "--dry_run"])


def test_a_model_to_start_from_must_be_of_the_trained_family(tables, tmp_path):
    shape = RARConfig(width=8, depth=1, heads=2, mlp_width=8, codebook_size=256, num_classes=3, num_tokens=16)
    state = FAMILIES["rar"].build(shape).state_dict()
    about = {"kind": "rar", "config": asdict(shape)}
    save(tmp_path / "rar", {"model": state, "ema": state}, {"config": about})
    run = replace(tables, start=StartConfig(generator=str(tmp_path / "rar")))
    with pytest.raises(UserError, match=r"holds a rar; expected a table, .*--family\.generator rar"):
        generator_to_train(run, FAMILIES["tokenizer"].build(tables.tokenizer), num_classes=3)
