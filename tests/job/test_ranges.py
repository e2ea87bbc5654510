"""Every setting has a range or choices beside it, and what is outside is refused in one message that says them."""

import inspect
import math
from dataclasses import is_dataclass, replace
from typing import Literal, get_args, get_origin

import pytest

from robustok import config, model_configs, training_configs
from robustok.config import FlowSamplingConfig, PairsConfig, RunConfig, SamplingConfig
from robustok.core.errors import UserError
from robustok.core.settings import NAME, PATH, WORD, bounds, check_config, expected, walk
from robustok.job.preflight import check_settings
from robustok.model_configs import MAETokConfig, SiTConfig
from robustok.models.interfaces import makes_latents
from robustok.models.load import check_fits, meta_model
from robustok.models.registry import FAMILIES
from robustok.models.starting import without_values

CONFIGS = [
    kind
    for module in (config, model_configs, training_configs)
    for kind in vars(module).values()
    if inspect.isclass(kind) and is_dataclass(kind) and kind.__module__ == module.__name__
]
TEXTS = {PATH: ("", "a\0b"), NAME: ("", ".", "..", "a/b", "a\\b", "../x", "a\0b", "a\nb", "n" * 300), WORD: ("", "a b")}
MAETOK = {"family.tokenizer": "maetok", "family.generator": "sit"}


def run_with(**settings) -> RunConfig:
    """The default run with dotted settings."""
    run = RunConfig()
    for name, value in settings.items():
        section, _, field = name.partition(".")
        run = replace(run, **{section: replace(getattr(run, section), **{field: value}) if field else value})
    return run


def kinds(hint) -> set:
    """The types a setting may have: members of unions and of tuples, where all choices and switches are one kind."""
    if get_origin(hint) is Literal:
        return {bool}
    return set().union(*map(kinds, get_args(hint))) if get_args(hint) else {hint}


def outside(f, hint) -> list:
    """Values that a setting may not have, made from what it says of itself."""
    inside = kinds(hint)
    if inside & {int, float}:
        low, high, with_low, with_high = bounds(f)
        numbers = [math.nan, math.inf, -math.inf, True, "text"]
        numbers += [low - 1 if with_low else low] if math.isfinite(low) else []
        numbers += [high + 1 if with_high else high] if math.isfinite(high) else []
        numbers += [max(low, 0) + 1.5] if float not in inside else []
        single = any(option in (int, float) for option in (get_args(hint) or (hint,)))
        return numbers if single else [(), *((number,) * 2 for number in numbers)]
    if str in inside:
        return [5, *TEXTS[f.metadata["allowed"]]]
    return ["no such choice", 5]


BAD = [(name, value) for name, _, f, hint in walk(RunConfig) for value in outside(f, hint)]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_field_says_what_it_may_be(kind):
    """Numbers an interval, texts what kind of text; switches and choices are what their type says."""
    for name, value, f, hint in walk(kind):
        told = kinds(hint) - {bool, type(None), ...}
        assert told <= {int, float, str}, name
        if told & {int, float}:
            assert bounds(f) is not None, name
        if str in told:
            assert f.metadata["allowed"] in TEXTS, name
        check_config(kind())  # defaults are inside
        assert expected(f, hint) and not isinstance(value, list), name


def test_there_are_many_ways_to_be_wrong():
    assert len(BAD) > 1000


@pytest.mark.parametrize("name", dict.fromkeys(name for name, _ in BAD))
def test_what_is_outside_is_refused(name):
    (said,) = (expected(f, hint) for other, _, f, hint in walk(RunConfig) if other == name)
    for value in [value for other, value in BAD if other == name]:
        with pytest.raises(UserError) as error:
            check_config(run_with(**{name: value}))
        assert str(error.value) == f"{name}: found {value!r}, expected {said}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            MAETOK | {"maetok.auxiliary_width": 200},
            r"maetok\.auxiliary_width: found 200, expected .*heads = 3",
        ),
        (MAETOK | {"maetok.hidden": (0.6, 0.4)}, r"maetok\.hidden: found \(0\.6, 0\.4\), .* the smaller first"),
        (MAETOK | {"maetok.codebooks": 2}, r"maetok\.codebook_size: found 0, expected at least 1"),
        (MAETOK | {"maetok.decoder_heads": 5}, r"maetok\.decoder_width: found 768, expected a multiple"),
        ({"tokenizer.heads": 3}, r"tokenizer\.width: found 128, expected a multiple of tokenizer\.heads = 3"),
        ({"tokenizer.image_size": 33}, r"tokenizer\.image_size: found 33, expected a multiple of .*patch_size = 8"),
        ({"family.generator": "llamagen", "llamagen.kv_heads": 5}, r"llamagen\.heads: found 12, expected a multiple"),
        ({"flow_sampling.guidance_interval": (0.8, 0.2)}, r"flow_sampling\.guidance_interval: found .*smaller first"),
        ({"data.crop_min": 0.5, "data.crop_max": 0.4}, r"data\.crop_min: found 0\.5, expected at most data\.crop_max"),
        (
            {"perturbation.anneal_start": 9.0, "perturbation.anneal_end": 8.0},
            r"anneal_start: found 9\.0, expected at most",
        ),
        (
            {"order.anneal_start": 9.0, "order.anneal_end": 8.0},
            r"order\.anneal_start: found 9\.0, expected at",
        ),
        ({"pairs.modes": ("direct", "direct")}, r"pairs\.modes: found .* expected each mode once"),
        (
            {"post_training.batch_size": 64, "post_training.accumulate": 3},
            r"post_training\.batch_size: found 64, .* 3",
        ),
        ({"family.generator": "sid"}, r"family\.generator: found 'sid', expected one of rar"),
        ({"device": "cuda:99"}, r"device: found 'cuda:99', which is cuda:99 for this process, but torch sees"),
        ({"device": "mps"}, r"device: found 'mps', expected auto"),
        ({"device": "cuda:-1"}, r"device: found 'cuda:-1', expected auto"),
    ],
)
def test_what_does_not_fit(settings, message):
    check_config(run_with(**settings))
    with pytest.raises(UserError, match=message):
        check_settings(run_with(**settings))


def test_the_defaults_can_be():
    check_settings(RunConfig())
    assert (PairsConfig().sigma, FlowSamplingConfig().solver, SamplingConfig().top_p) == (0.7, "euler", 1.0)


def test_how_settings_of_what_is_not_trained_fit_does_not_matter():
    check_settings(run_with(**{"maetok.heads": 5, "sit.width": 7}))


def test_families_that_are_trained_have_ranges():
    sections = {family.section for family in FAMILIES.values()} - {None}
    assert sections <= {name.partition(".")[0] for name, _ in BAD}


def test_latents_that_do_not_fit():
    tokenizer = without_values(MAETokConfig(num_latents=64, latent_width=16, targets=(), hidden=(0.0, 0.0)))
    generator = meta_model(SiTConfig(64, 1, 2, num_classes=3, num_latents=64, latent_width=8)).to_empty(device="cpu")
    assert makes_latents(generator)
    with pytest.raises(UserError, match="the generator makes 64 x 8 latents, the tokenizer has 64 x 16: use the"):
        check_fits(tokenizer, generator)
