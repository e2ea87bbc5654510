"""A codebook that collapses is told once; codes that died start again, exactly as a resumed run would have it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from robustok.config import CodebookConfig
from robustok.core.errors import UserError
from robustok.core.random import SAMPLE, derive_seed, keyed_words
from robustok.job.limits import _check_restarts
from robustok.models.tokenizers.dead_codes import restart_dead
from robustok.training.loop import Fit
from robustok.training.run import read_log


def collapsed(stage):
    """All codes are one: the first of them takes every latent."""
    with torch.no_grad():
        stage.model.codebook.copy_(torch.ones(4).expand_as(stage.model.codebook))
    return stage


def stop_before(step: int, training: Fit) -> None:
    """Trains until this step is to be taken."""
    take_step = training._take_step

    def stop(batch):
        if training.state.step == step:
            raise InterruptedError
        return take_step(batch)

    training._take_step = stop
    with pytest.raises(InterruptedError):
        training.run_to_end()


def events(stage) -> list[tuple[int, str]]:
    log = read_log(stage.run.folder / "log.jsonl")
    return [(line["step"], line["text"]) for line in log if line.get("event") == "codebook_collapse"]


def test_a_collapse_is_told_once_also_by_a_resumed_run(tokenizer_stage, capsys):
    stage = collapsed(tokenizer_stage())
    stop_before(6, Fit(stage, stage.run))
    # 8 images of 4 tokens a step: the window of 64 is full after two
    said = "the codebook has collapsed: 6.25% of the 16 codes are in use over the last 64 tokens"
    assert [(step, text.partition(";")[0]) for step, text in events(stage)] == [(2, said)]
    stage.run.close()
    again = tokenizer_stage()
    Fit(again, again.run).run_to_end()
    assert len(events(again)) == 1
    assert capsys.readouterr().err.count("the codebook has collapsed") == 1


def test_a_healthy_codebook_and_one_that_is_not_used_yet_give_no_alarm(tokenizer_stage):
    stage = tokenizer_stage()
    Fit(stage, stage.run).run_to_end()
    assert events(stage) == []
    waiting = collapsed(tokenizer_stage(name="y", codebook=CodebookConfig(continuous_steps=100, usage_window=64)))
    Fit(waiting, waiting.run).run_to_end()
    assert events(waiting) == []


def test_dead_codes_go_where_the_draw_says():
    rows, codebook, seed = torch.arange(14.0).view(7, 2), torch.full((5, 2), -1.0), derive_seed(3, "restart", 4)
    unused = torch.tensor([0, 2, 9, 1, 3])
    dead = restart_dead(codebook, unused, 2, rows, seed)
    words = keyed_words(seed, SAMPLE, torch.arange(5), 0)[0].tolist()
    expected = [rows[words[k] % 7].tolist() if k in (1, 2, 4) else [-1.0, -1.0] for k in range(5)]
    assert codebook.tolist() == expected
    assert dead.tolist() == [False, True, True, False, True] and unused.tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("rows", [torch.full((3, 2), float("nan")), torch.zeros(0, 2)])
def test_no_code_goes_where_there_is_no_latent(rows):
    codebook, unused = torch.ones(2, 2), torch.tensor([5, 5])
    assert not restart_dead(codebook, unused, 1, rows, 0).any()
    assert codebook.eq(1).all() and unused.tolist() == [5, 5]


def test_restarts_start_moments_and_average_anew_and_resume_to_the_bit(tokenizer_stage, monkeypatch):
    sections = {"codebook": CodebookConfig(restart_dead_after=2, usage_window=64)}
    whole = collapsed(tokenizer_stage(**sections))
    training, restarted = Fit(whole, whole.run), []
    end_step = whole.end_step

    def watched(position):
        restarted.append(end_step(position))
        return restarted[-1]

    whole.end_step = watched
    update = training.ema.update

    def check():
        (name, dead), codebook = *restarted[-1].items(), whole.model.codebook
        state = whole.trained[0].optimizer.state[codebook]
        assert not state["exp_avg"][dead].any() and not state["exp_avg_sq"][dead].any()
        assert torch.equal(training.ema.average[name][dead], codebook.detach()[dead])
        update()

    training.ema.update = check
    expected = training.run_to_end()
    counts = [int(dead.sum()) for found in restarted for dead in found.values()]
    assert counts[:2] == [0, 15] and len(counts) == 9
    assert len(whole.model.codebook.detach().unique(dim=0)) == 16

    first = collapsed(tokenizer_stage(name="y", **sections))
    stop_before(3, Fit(first, first.run))
    first.run.close()
    second = tokenizer_stage(name="y", **sections)
    found = Fit(second, second.run).run_to_end()
    for file in ("model", "ema", "training"):
        a, b = (load_file(path / f"{file}.safetensors") for path in (found, expected))
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b), file
    assert "extra.unused_codes" in load_file(expected / "training.safetensors")


def test_codes_set_by_k_means_start_their_average_anew(tokenizer_stage):
    stage = tokenizer_stage(codebook=CodebookConfig(continuous_steps=1, usage_window=64))
    training, set_codes, begin_step = Fit(stage, stage.run), [], stage.begin_step

    def watched(position):
        replaced = begin_step(position)
        set_codes.extend(stage.model.codebook.detach().clone() for mask in replaced.values() if mask.all())
        return replaced

    stage.begin_step = watched
    stop_before(2, training)
    (codes,) = set_codes
    expected = 0.9 * codes + 0.1 * stage.model.codebook.detach()
    torch.testing.assert_close(training.ema.average["quantizer.codebook"], expected)


def test_codes_that_are_no_latents_places_are_not_restarted():
    run = SimpleNamespace(codebook=replace(CodebookConfig(), restart_dead_after=5))
    with pytest.raises(UserError, match=r"codebook\.restart_dead_after: found 5, expected null"):
        _check_restarts(run, SimpleNamespace(perturbable="itself"))
    _check_restarts(run, SimpleNamespace(perturbable="codes"))
