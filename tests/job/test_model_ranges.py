"""What cannot be is refused in one message before a run begins: for every model that a run trains, and its sampling."""

from dataclasses import fields, replace

import pytest

from robustok.config import FlowSamplingConfig, PairsConfig, RunConfig, SamplingConfig
from robustok.core.errors import UserError
from robustok.job.preflight import check_settings
from robustok.model_configs import MAETokConfig, SiTConfig
from robustok.models.interfaces import makes_latents
from robustok.models.load import check_fits, empty_model
from robustok.models.registry import FAMILIES
from robustok.models.starting import without_values

TRAINED = {family.section: family for family in FAMILIES.values() if family.section is not None}
MAETOK = {"family.tokenizer": "maetok", "family.generator": "sit"}


def run_with(**settings) -> RunConfig:
    """The default run with dotted settings."""
    run = RunConfig()
    for name, value in settings.items():
        section, _, field = name.partition(".")
        run = replace(run, **{section: replace(getattr(run, section), **{field: value})})
    return run


def training(section: str) -> dict:
    """The settings by which a run trains the family of a section; a flow generator needs a continuous tokenizer."""
    family = TRAINED[section]
    return (MAETOK if section in ("maetok", "sit") else {}) | {f"family.{family.role}": family.kind}


NUMBERS = [
    (section, f.name)
    for section, family in TRAINED.items()
    for f in fields(family.config)
    if isinstance(f.default, int | float) and not isinstance(f.default, bool) and f.name != "latent_mean"
]


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_no_number_of_a_model_is_negative(section, name):
    with pytest.raises(UserError, match=rf"^{section}\.{name}: found -1, expected"):
        check_settings(run_with(**training(section), **{f"{section}.{name}": -1}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            MAETOK | {"maetok.auxiliary_width": 200},
            r"maetok\.auxiliary_width: found 200, expected .*heads = 3",
        ),
        (
            MAETOK | {"maetok.hidden": (0.6, 0.4)},
            r"maetok\.hidden: found \(0\.6, 0\.4\), .* the smaller first",
        ),
        (MAETOK | {"maetok.hidden": (0.5, 1.0)}, r"maetok\.hidden: found .* two shares in \[0, 1\)"),
        (MAETOK | {"maetok.codebooks": 2}, r"maetok\.codebook_size: found 0, expected a whole number from 1"),
        (MAETOK | {"maetok.decoder_heads": 5}, r"maetok\.decoder_width: found 768, expected a multiple"),
        (MAETOK | {"sit.heads": 0}, r"sit\.heads: found 0, expected a whole number from 1"),
        ({"tokenizer.patch_size": 0}, r"tokenizer\.patch_size: found 0, expected a whole number from 1"),
        ({"tokenizer.heads": 3}, r"tokenizer\.width: found 128, expected a multiple of tokenizer\.heads = 3"),
        ({"generator.attention_dropout": 2.0}, r"generator\.attention_dropout: found 2\.0, expected a share"),
        ({"family.generator": "llamagen", "llamagen.kv_heads": 5}, r"llamagen\.heads: found 12, expected a multiple"),
        ({"pairs.sigma": 1.2}, r"pairs\.sigma: found 1\.2, expected a share in \[0, 1\]"),
        ({"pairs.sigma": -0.1}, r"pairs\.sigma: found -0\.1"),
        ({"sampling.guidance_scale": -1.0}, r"sampling\.guidance_scale: found -1\.0, expected a number from 0"),
        ({"sampling.temperature": -0.5}, r"sampling\.temperature: found -0\.5, expected a number from 0"),
        ({"sampling.top_k": -1}, r"sampling\.top_k: found -1"),
        ({"flow_sampling.steps": 0}, r"flow_sampling\.steps: found 0, expected a whole number from 1 to 10000"),
        ({"flow_sampling.solver": "rk9"}, r"flow_sampling\.solver: found 'rk9', expected one of euler, heun"),
        ({"flow_sampling.guidance_scale": -0.5}, r"flow_sampling\.guidance_scale: found -0\.5"),
        ({"flow_sampling.guidance_interval": (0.8, 0.2)}, r"flow_sampling\.guidance_interval: found .*LOW <= HIGH"),
        ({"flow_sampling.guidance_interval": (0.0, 1.1)}, r"flow_sampling\.guidance_interval"),
    ],
)
def test_what_cannot_be(settings, message):
    with pytest.raises(UserError, match=message):
        check_settings(run_with(**settings))


def test_the_defaults_can_be():
    check_settings(RunConfig())
    assert (PairsConfig().sigma, FlowSamplingConfig().solver, SamplingConfig().top_p) == (0.7, "euler", 1.0)


def test_what_is_not_trained_does_not_matter():
    check_settings(run_with(**{"maetok.heads": 0, "sit.patch_size": -1}))


def test_latents_that_do_not_fit():
    tokenizer = without_values(MAETokConfig(num_latents=64, latent_width=16, targets=(), hidden=(0.0, 0.0)))
    generator = empty_model(SiTConfig(64, 1, 2, num_classes=3, num_latents=64, latent_width=8))
    assert makes_latents(generator)
    with pytest.raises(UserError, match="the generator makes 64 x 8 latents, the tokenizer has 64 x 16: use the"):
        check_fits(tokenizer, generator)
