"""Which decode attention is taken: the fastest that can run, once and for all; and what each of them computes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from robustok import doctor
from robustok.models.generators import rar_decoding
from robustok.ops.decoding import appending, attention
from robustok.ops.decoding.measured_choice import choose_fastest


def missing():
    raise ImportError("No module named 'flash_attn'")


def choose(file, times, key="a GPU", **more):
    """The choice between functions that give their own name, by a timer that looks it up in `times`."""
    runs = {name: lambda name=name: name for name in times} | more
    return choose_fastest(key, runs, file, lambda run: times[run()])


def test_the_fastest_that_can_run_wins(tmp_path):
    file = tmp_path / "new/attention.json"
    times = {"triton": 0.3, "sdpa": 0.2, "flash-attn": 0.1}
    assert choose(file, times) == "flash-attn"
    assert choose(file, times, "another", **{"flash-attn": missing}) == "sdpa"
    known = json.loads(file.read_text())
    assert known["a GPU"] == {"taken": "flash-attn"} | times
    assert known["another"]["flash-attn"] == "cannot run: No module named 'flash_attn'"


def test_a_choice_is_kept(tmp_path):
    """Ways differ in rounding: a process that starts later draws the same tokens, whatever it would have measured."""
    file = tmp_path / "attention.json"
    assert choose(file, {"triton": 1.0, "sdpa": 2.0}) == "triton"
    assert choose(file, {"triton": 2.0, "sdpa": 1.0}) == "triton"
    assert choose(file, {"triton": 2.0, "sdpa": 1.0}, "another") == "sdpa"


def test_nothing_can_run_or_memory_is_out(tmp_path):
    def no_memory():
        raise torch.OutOfMemoryError

    with pytest.raises(RuntimeError, match=r"no candidate can run.*flash_attn"):
        choose(tmp_path / "a.json", {}, only=missing)
    with pytest.raises(torch.OutOfMemoryError):
        choose(tmp_path / "a.json", {"sdpa": 1.0}, triton=no_memory)
    assert not (tmp_path / "a.json").exists()


def test_the_doctor_says_what_was_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    choose(appending.choices_file(), {"triton": 0.25, "sdpa": 0.5}, **{"flash-attn": missing})
    doctor.main([])
    text = capsys.readouterr().out
    assert "decode attention on a GPU: triton" in text and "0.2500 ms" in text and "No module" in text
    assert list(tmp_path.iterdir())


def fake_kvcache(q, k_cache, v_cache, cache_seqlens):
    """flash_attn_with_kvcache as its documentation has it: q (S, n, H, width), caches (S, T, H, width), int32 (S,)."""
    assert cache_seqlens.dtype == torch.int32 and cache_seqlens.shape == q.shape[:1]
    out = [
        torch.einsum("nht,thw->nhw", (torch.einsum("nhw,thw->nht", a, k[:n]) / a.shape[-1] ** 0.5).softmax(-1), v[:n])
        for a, k, v, n in zip(q.double(), k_cache.double(), v_cache.double(), cache_seqlens, strict=True)
    ]
    return torch.stack(out).to(q.dtype)


WAYS = {"sdpa": attention.sdpa_attention, "flash-attn": attention.flash_attention}


@pytest.mark.parametrize("places", [None, [[5]], [[5], [0], [8]]])
@pytest.mark.parametrize("way", ["sdpa", "flash-attn"])
def test_ways_compute_the_same(way, places, monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_with_kvcache=fake_kvcache))
    torch.manual_seed(0)
    query, caches = torch.randn(3, 2, 1, 48).half(), torch.randn(2, 3, 2, 9, 48).half()
    places = None if places is None else torch.tensor(places)
    length = 7 if places is None else 9
    found = WAYS[way](query, *caches, length, places)
    last = torch.tensor([length - 1]) if places is None else places[:, 0]
    score = (query.double() @ caches[0].double().mT / 48**0.5)[:, :, 0]
    hidden = torch.arange(9) > last.expand(3)[:, None, None]
    expected = score.masked_fill(hidden, -torch.inf).softmax(-1)[:, :, None] @ caches[1].double()
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)


def test_flash_attn_can_be_compiled_around(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(flash_attn_with_kvcache=fake_kvcache))
    arguments = torch.randn(3, 2, 1, 48), *torch.randn(2, 3, 2, 9, 48), torch.tensor([1, 9, 4], dtype=torch.int32)
    torch.library.opcheck(attention._flash, arguments, test_utils=("test_schema", "test_faketensor"))


def test_flash_attn_refuses_what_it_does_not_take():
    query, caches = torch.zeros(1, 1, 1, 8), torch.zeros(2, 1, 1, 4, 8)
    with pytest.raises(TypeError, match=r"found torch\.float32"):
        attention.flash_attention(query, *caches, 4)


def test_on_a_cpu_nothing_is_measured(tmp_path):
    assert appending.fastest_attention(torch.zeros(1, 1, 4, 8), tmp_path / "attention.json") is appending.append_sdpa
    assert not list(tmp_path.iterdir())


def test_the_sampler_takes_every_step_the_chosen_way(make_model, monkeypatch, tmp_path):
    asked, calls = [], []

    def way(new, *arguments):
        calls.append(new.qkv.shape)
        return appending.append_sdpa(new, *arguments)

    def choice(keys, file):
        asked.append((keys.shape, file))
        return way

    monkeypatch.setattr(rar_decoding, "fastest_attention", choice)
    sampler = make_model().sampler(guidance_scale=2.0, choices=tmp_path / "attention.json")
    for seed in (0, 1):
        sampler.generate(torch.tensor([0, 1, 4]), seed=seed)
    assert asked == [((6, 2, 25, 16), tmp_path / "attention.json")]  # two streams an image; chosen once for this size
    assert calls == [(6, 3 * 32)] * 2 * 23 * 2  # both runs, steps 1..23, both layers
