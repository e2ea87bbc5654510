"""Sampling: the same logits as teacher forcing, the same tokens whatever the batch, the distribution asked for."""

import numpy as np
import pytest
import torch
from scipy import stats

from robustok.models.generators import rar_modulation
from robustok.ops.decoding.reference import gumbel_noise, keep_likely
from robustok.samplers.known_tokens import keep_mask
from robustok.samplers.settings import guidance_ramp

GUIDED = {"guidance_scale": 3.0, "guidance_power": 1.2, "temperature": 1.1}


@pytest.fixture(params=["rar", "llamagen", "llamagen with shared heads"])
def model(request, make_model, make_llamagen):
    """One of each kind of network that the sampler drives."""
    if request.param == "rar":
        return make_model()
    return make_llamagen(kv_heads=2 if "shared" in request.param else None)


SHAPES = [("rar", 24, 32, {"heads": 2}), ("rar", 1, 48, {"heads": 3}), ("rar", 7, 96, {"heads": 2})]
SHAPES += [("llamagen", 9, 32, {"heads": 4}), ("llamagen", 1, 24, {"heads": 3}), ("llamagen", 25, 64, {"heads": 2})]
SHAPES += [("llamagen", 16, 64, {"heads": 8, "kv_heads": 2}), ("llamagen", 9, 32, {"heads": 2, "kv_heads": 1})]
SHAPES += [("llamagen", 7, 48, {"heads": 3, "positions": "line"})]


@pytest.mark.parametrize(("family", "num_tokens", "width", "shape"), SHAPES)
def test_cached_steps_equal_teacher_forcing(make_model, make_llamagen, family, num_tokens, width, shape):
    model = (make_model if family == "rar" else make_llamagen)(num_tokens, width=width, **shape)
    tokens, classes = torch.randint(0, 40, (3, num_tokens)), torch.tensor([4, 0, 4])
    with torch.no_grad():
        c, u = model.logits(tokens, classes).double(), model.logits(tokens, None).double()
    scale = guidance_ramp(3.0, 1.2, num_tokens).double()[:, None]
    found = model.guided_logits(tokens, classes, **GUIDED)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), (u + scale * (c - u)) / 1.1, rtol=0, atol=1e-4)
    found = model.guided_logits(tokens, classes, guidance_scale=1.0)
    torch.testing.assert_close(found.double(), c, rtol=0, atol=1e-4)


@pytest.mark.parametrize("filters", [{}, {"top_k": 7}, {"top_p": 0.6}])
def test_tokens_are_the_keyed_draws_from_the_guided_logits(make_model, filters, device):
    """On a GPU: what a captured graph of the step draws is what steps that are not captured give."""
    model, classes, ids = make_model().to(device), torch.tensor([1, 3]), torch.tensor([7, 2**40 + 1])
    tokens = model.generate(classes, seed=5, sample_ids=ids, **GUIDED, **filters).cpu()
    logits = model.guided_logits(tokens, classes, **GUIDED).cpu()
    for step in range(24):
        likely = keep_likely(logits[:, step], filters.get("top_k", 0), filters.get("top_p", 1.0))
        assert torch.equal(tokens[:, step], (likely + gumbel_noise(5, ids, step, 40)).argmax(-1))


@pytest.mark.parametrize("filters", [{}, {"top_k": 7, "top_p": 0.6}])
@pytest.mark.parametrize("power", [None, 1.2])
def test_temperature_zero_takes_the_likeliest_code(model, filters, power):
    classes, guidance = torch.tensor([1, 3]), {"guidance_scale": 3.0, "guidance_power": power}
    tokens = model.generate(classes, seed=5, temperature=0.0, **guidance, **filters)
    assert torch.equal(tokens, model.guided_logits(tokens, classes, temperature=0.0, **guidance).argmax(-1))
    assert torch.equal(tokens, model.generate(classes, seed=6, temperature=0.0, **guidance, **filters))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(model, seed):
    with pytest.raises(ValueError, match=f"seed: found {seed}, expected a whole number from 0 to"):
        model.generate(torch.tensor([1]), seed=seed, guidance_scale=1.0)


def test_tokens_do_not_depend_on_the_batch(model):
    classes = torch.arange(16) % 5
    whole = model.generate(classes, seed=1, **GUIDED)
    for size in (1, 7):
        ids = torch.arange(16).split(size)
        parts = [model.generate(classes[i], seed=1, sample_ids=i, **GUIDED) for i in ids]
        assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(model.generate(classes, seed=2, **GUIDED), whole)


def test_tokens_do_not_depend_on_the_size_of_the_modulation_table(make_model, monkeypatch):
    model, classes = make_model(), torch.arange(5)
    keep = {"keep_tokens": torch.randint(0, 40, (5, 24)), "keep_ratio": 0.5}
    whole, around = model.generate(classes, seed=1, **GUIDED), model.generate(classes, seed=1, **keep, **GUIDED)
    monkeypatch.setattr(rar_modulation, "TABLE_BYTES", {"cpu": 1, "cuda": 1})
    assert torch.equal(model.generate(classes, seed=1, **GUIDED), whole)
    assert torch.equal(model.generate(classes, seed=1, **keep, **GUIDED), around)


def test_logits_do_not_depend_on_the_batch(make_model):
    """Modulation is computed once a class where a batch has more sequences than there are classes."""
    # In float64: some gradients are 0 but for rounding.
    model, classes = make_model().double(), torch.arange(16) % 6  # class 5 is the null class
    tokens, orders = torch.randint(0, 40, (16, 24)), torch.rand(16, 24).argsort(1)
    weights, losses = torch.randn(16, 24, 40, dtype=torch.float64), {}
    for size in (16, 1):
        parts = [torch.arange(16)[i : i + size] for i in range(0, 16, size)]
        logits = torch.cat([model(tokens[i], classes[i], orders[i]) for i in parts])
        losses[size] = logits, torch.autograd.grad((logits * weights).sum(), list(model.parameters()))
    torch.testing.assert_close(losses[16][0], losses[1][0], rtol=0, atol=1e-10)
    for whole, single in zip(losses[16][1], losses[1][1], strict=True):
        torch.testing.assert_close(whole, single, rtol=0, atol=1e-10)


def test_bfloat16_weights_give_float32_logits_close_to_theirs(model):
    tokens, classes = torch.randint(0, 40, (3, model.num_tokens)), torch.tensor([4, 0, 4])
    exact = model.guided_logits(tokens, classes, **GUIDED).log_softmax(-1)
    coarse = model.bfloat16().guided_logits(tokens, classes, **GUIDED)
    assert coarse.dtype == torch.float32
    divergence = (exact.exp() * (exact - coarse.log_softmax(-1))).sum(-1)
    assert divergence.mean() < 5e-3


def test_sampler_reuses_its_buffers(model, device):
    """And its captured graph, where there is one, for other classes and, anew, for another batch."""
    model.to(device)
    sampler = model.sampler(**GUIDED)
    for classes in (torch.tensor([0, 0, 0]), torch.tensor([0, 1, 4]), torch.tensor([2, 2])):
        found = sampler.generate(classes, seed=3)
        assert torch.equal(found, model.generate(classes, seed=3, **GUIDED))


@pytest.mark.parametrize("compiled", [False, True])
def test_step_on_the_device_equals_step_on_the_host(model, compiled):
    """The unit that a GPU captures as a graph reads its step number from memory, and compiles without a break."""
    classes = torch.tensor([0, 3, 1])
    sampler = model.sampler(**GUIDED)
    expected = sampler.generate(classes, seed=3)
    sampler.tokens[1:] = -1
    unit = torch.compile(sampler._advance, fullgraph=True, backend="eager") if compiled else sampler._advance
    sampler.step.zero_()
    with torch.no_grad():
        for step in range(1, model.num_tokens):
            sampler.decoder.prepare(step)
            sampler.step += 1
            unit()
    assert torch.equal(sampler.tokens.T, expected)


@pytest.mark.parametrize("settings", [GUIDED, {"guidance_scale": 1.0}])
@pytest.mark.parametrize("ratio", [0.0, 0.7, 1.0])
def test_kept_tokens_and_the_draws_between_them(model, settings, ratio, device):
    """One causal step for a run of kept tokens draws what going step by step would draw."""
    model.to(device)
    classes, ids, length = torch.arange(5), torch.arange(5) + 100, model.num_tokens
    keep_tokens = torch.randint(0, 40, (5, length), generator=torch.Generator().manual_seed(0))
    keep = {"keep_tokens": keep_tokens, "keep_ratio": ratio}
    found = model.generate(classes, seed=9, sample_ids=ids, **keep, **settings).cpu()
    kept = keep_mask(ratio, 9, ids, length)
    assert torch.equal(found[kept], keep_tokens[kept])
    logits = model.guided_logits(found, classes, **settings).cpu()
    drawn = torch.stack([(logits[:, step] + gumbel_noise(9, ids, step, 40)).argmax(-1) for step in range(length)], 1)
    assert torch.equal(found[~kept], drawn[~kept])
    if ratio == 0.0:
        assert torch.equal(found, model.generate(classes, seed=9, sample_ids=ids, **settings).cpu())


def test_keep_mask_has_its_share_and_is_nested():
    ids = torch.arange(400)
    low, high = keep_mask(0.3, 1, ids, 100), keep_mask(0.7, 1, ids, 100)
    assert abs(high.double().mean() - 0.7) < 4 * (0.7 * 0.3 / 40_000) ** 0.5
    assert not (low & ~high).any()
    assert keep_mask(1.0, 1, ids, 100).all() and not keep_mask(0.0, 1, ids, 100).any()


@pytest.mark.parametrize("filters", [{}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 5, "top_p": 0.7}])
def test_distribution(make_model, filters):
    """Pairs of tokens are distributed as the product of guided, filtered softmax probabilities says."""
    size, count = 6, 6000
    model = make_model(num_tokens=2, codebook_size=size, num_classes=2, spread=0.2)
    settings = {"guidance_scale": 2.0, "temperature": 0.8}
    tokens = model.generate(torch.ones(count, dtype=torch.int64), seed=0, **settings, **filters)
    pairs = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    logits = model.guided_logits(pairs, torch.ones_like(pairs[:, 0]), **settings).double().numpy()
    first, second = (filtered_softmax(logits[:, step], **filters) for step in (0, 1))
    row = np.arange(size * size)
    expected = first[row, pairs[:, 0]] * second[row, pairs[:, 1]]
    observed = np.bincount((tokens[:, 0] * size + tokens[:, 1]).numpy(), minlength=size * size)
    assert not observed[expected == 0].any()
    possible = expected > 0
    assert stats.chisquare(observed[possible], count * expected[possible]).pvalue > 1e-3


def filtered_softmax(logits, top_k=0, top_p=1.0):
    """Entry by entry, from the definition: the top_k largest, then the fewest of them that reach top_p."""
    out = np.zeros_like(logits)
    for row, x in zip(out, logits, strict=True):
        order = np.argsort(-x)[: top_k or None]
        p = np.exp(x[order] - x[order[0]])
        p /= p.sum()
        needed = next(n for n in range(1, len(p) + 1) if p[:n].sum() >= top_p - 1e-12)
        row[order[:needed]] = p[:needed] / p[:needed].sum()
    return out


def test_bad_input(make_model):
    model, classes = make_model(), torch.tensor([0, 4])
    for arguments, message in [
        ({"classes": torch.tensor([0, 5])}, r"classes: found \[5\], expected integers 0..4"),
        ({"classes": torch.tensor([[0]])}, r"classes: found \(1, 1\)"),
        ({"sample_ids": torch.arange(3)}, r"sample_ids: found \(3,\)"),
        ({"keep_tokens": torch.zeros(2, 24, 1, dtype=torch.int64)}, r"keep_tokens: found \(2, 24, 1\)"),
        ({"keep_tokens": torch.full((2, 24), 40)}, "keep_tokens: found .40, .*expected integers 0..39"),
        ({"keep_tokens": torch.zeros(2, 24, dtype=torch.int64), "keep_ratio": 1.5}, "keep_ratio: found 1.5"),
        ({"temperature": -1.0}, "temperature: found -1.0"),
        ({"top_p": 0.0}, "top_p: found 0.0"),
        ({"top_k": -1}, "top_k: found -1"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.generate(**({"classes": classes, "seed": 0, "guidance_scale": 2.0} | arguments))


def test_tokens_of_the_wrong_rank_are_refused(make_model):
    model, tokens, classes = make_model(), torch.zeros(2, 24, 1, dtype=torch.int64), torch.tensor([0, 4])
    with pytest.raises(ValueError, match="tokens: found"):
        model.logits(tokens, classes)
    with pytest.raises(ValueError, match="tokens: found"):
        model.guided_logits(tokens, classes, guidance_scale=2.0)


def test_the_global_generator_is_untouched(make_model):
    model, before = make_model(), torch.get_rng_state()
    model.generate(torch.tensor([0]), seed=0, guidance_scale=2.0)
    assert torch.equal(torch.get_rng_state(), before)
