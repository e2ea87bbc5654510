"""Options that verbs share: what they accept, and what holds where they are not given."""

import io
from dataclasses import dataclass

import pytest

from robustok import doctor, evaluate, explain, pretokenize, sample
from robustok.core.cli import run_verb
from robustok.core.errors import UserError
from robustok.core.options import (
    add_device,
    add_fast,
    add_network,
    add_sampling,
    add_seed,
    choose_speed,
    sampling_of,
    sampling_settings,
    verb_parser,
)
from robustok.evaluation.features import registry
from robustok.model_configs import RARConfig
from robustok.models import load
from robustok.models.generators.rar import RAR

DEFAULTS = {"guidance_scale": 6.0, "guidance_power": 1.15, "temperature": 1.02, "top_k": 0, "top_p": 1.0}


@dataclass
class Settings:
    """Sampling settings among others."""

    guidance_scale: float = 6.0
    guidance_power: float | None = 1.15
    temperature: float = 1.02
    top_k: int = 0
    top_p: float = 1.0
    batch_size: int = 50


def parsed(*argv: str):
    parser = verb_parser("test", "what it does")
    add_sampling(parser, {"tokens": sampling_of(Settings())})
    return parser.parse_args(argv)


def test_defaults_hold_where_nothing_is_given():
    assert sampling_of(Settings()) == DEFAULTS
    assert sampling_settings(parsed(), DEFAULTS) == DEFAULTS
    other = DEFAULTS | {"guidance_power": None, "top_k": 7}  # of a preset, known only later
    assert sampling_settings(parsed(), other) == other


def test_constant_guidance_can_be_asked_for():
    found = sampling_settings(parsed("--guidance_power", "none", "--top_k", "9"), DEFAULTS)
    assert found == DEFAULTS | {"guidance_power": None, "top_k": 9}
    assert sampling_settings(parsed("--guidance_power", "2"), DEFAULTS)["guidance_power"] == 2.0


@pytest.mark.parametrize("option", ["--guidance_power=never", "--top_k=1.5", "--temperature=none"])
def test_other_words_are_refused(option, capsys):
    with pytest.raises(SystemExit):
        parsed(option)
    assert option.split("=")[1] in capsys.readouterr().err


def test_an_option_of_another_kind_of_generator_is_refused():
    """Where generators of two kinds may be sampled, what is given must belong to the one that is."""
    parser, flow = verb_parser("test", None), {"steps": 50, "guidance_scale": 1.5, "guidance_interval": None}
    add_sampling(parser, {"tokens": DEFAULTS, "latents": flow}, first="that of a preset, else ")
    given = parser.parse_args(["--steps", "7", "--guidance_interval", "0.2,0.8"])
    assert sampling_settings(given, flow) == {"steps": 7, "guidance_scale": 1.5, "guidance_interval": (0.2, 0.8)}
    with pytest.raises(
        UserError, match=r"--steps, --guidance_interval: this generator is not sampled with that; it has"
    ):
        sampling_settings(given, DEFAULTS)
    assert sampling_settings(parser.parse_args(["--guidance_interval=none"]), flow) == flow
    said = " ".join(parser.format_help().split())
    assert "1 is no guidance (default: that of a preset, else 6.0 for tokens, 1.5 for latents)" in said
    assert "for tokens only; divides" in said and "(default: that of a preset, else 1.02)" in said


def test_only_the_settings_asked_for_become_options():
    parser = verb_parser("test", None)
    add_sampling(parser, {"tokens": {"guidance_scale": 1.0}})
    with pytest.raises(SystemExit):
        parser.parse_args(["--top_k", "1"])
    assert sampling_settings(parser.parse_args([]), {"guidance_scale": 1.0}) == {"guidance_scale": 1.0}


@pytest.mark.parametrize("seed", ["-1", str(2**63), "1.5", "x"])
@pytest.mark.parametrize(
    "verb, arguments",
    [
        (sample, "--generator g"),
        (evaluate, "tokenizer t --images images"),
        (evaluate, "generator g --tokenizer t --reference r"),
        (explain, "codebook tokenizer --images images"),
    ],
)
def test_seeds_have_one_range_on_every_verb(verb, arguments, seed, capsys):
    with pytest.raises(SystemExit) as stop:
        verb.main([*arguments.split(), f"--seed={seed}"])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "argument --seed: found" in line and f"a whole number from 0 to {2**63 - 1}" in line


def test_the_largest_seed_is_taken():
    parser = verb_parser("test", None)
    add_seed(parser, "anything")
    assert parser.parse_args(["--seed", str(2**63 - 1)]).seed == 2**63 - 1


@pytest.mark.parametrize(
    "verb, arguments",
    [
        (sample, "--generator g --n 0"),
        (sample, "--generator g --shard_images -1"),
        (evaluate, "generator g --tokenizer t --reference r --per_class 0"),
        (evaluate, "samples images --reference others --size 0"),
        (explain, "strips tokenizer --images images --count 0"),
        (explain, "mmd tokenizer --images images --generator g --limit 0"),
        (explain, "elbow --images images --clusters 8 0"),
        (pretokenize, "images tokens --tokenizer t --batch_size 0"),
        (pretokenize, "lines.jsonl tokens --codebook_size 0 --num_classes 2"),
    ],
)
def test_counts_are_from_one_on_every_verb(verb, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        verb.main(arguments.split())
    assert stop.value.code == 2
    assert "expected a whole number from 1" in capsys.readouterr().err


def test_networks_are_those_passed_in():
    parser = verb_parser("test", None)
    add_device(parser)
    add_network(parser, ["inception", "another"], "weights.pth")
    found = parser.parse_args(["--network", "another"])
    assert (found.network, found.weights, found.mode, found.device) == ("another", None, None, "auto")
    assert "(default, of inception alone: weights.pth)" in " ".join(parser.format_help().split())
    assert choose_speed(found, "cuda") == "" and found.mode == "exact"
    with pytest.raises(SystemExit):
        parser.parse_args(["--network", "dinov2"])


@pytest.mark.parametrize(
    "device, given, mode, tokenizer, compiled, generator",
    [
        ("cuda", "", "exact", "float32", False, "float32"),
        ("cuda", "--fast", "fast", "bfloat16", True, "bfloat16"),
        ("cuda", "--mode exact --fast --no-compile", "exact", "bfloat16", False, "bfloat16"),
        ("cuda", "--fast --tokenizer_precision float32", "fast", "float32", True, "bfloat16"),
        ("cuda", "--fast --precision float32", "fast", "bfloat16", True, "float32"),
        ("cpu", "--fast", "fast", "float32", False, "float32"),
        ("cpu", "--tokenizer_precision bfloat16 --compile", "exact", "bfloat16", True, "float32"),
    ],
)
def test_fast_stands_for_its_parts_but_for_those_that_are_given(device, given, mode, tokenizer, compiled, generator):
    parser = verb_parser("test", None)
    add_network(parser, ["inception"], "weights.pth")
    add_fast(parser)
    parser.add_argument("--precision")
    found = parser.parse_args(given.split())
    said = choose_speed(found, device)
    assert (found.mode, found.tokenizer_precision) == (mode, tokenizer)
    assert (found.compile, found.precision) == (compiled, generator)
    assert said == f"tokenizer in {tokenizer}{', compiled' if compiled else ''}; {mode} features"


def test_fast_without_a_tokenizer_is_of_the_features_alone():
    parser = verb_parser("test", None)
    add_network(parser, ["inception"], "weights.pth")
    add_fast(parser, tokenizer=False)
    found = parser.parse_args(["--fast"])
    assert choose_speed(found, "cuda") == "fast features" and not hasattr(found, "tokenizer_precision")


@pytest.mark.parametrize("device, tokenizer", [("cpu", "float32"), ("cuda", "bfloat16, compiled")])
def test_features_of_one_mode_are_named_where_they_were_to_be_fast(device, tokenizer):
    parser = verb_parser("test", None)
    add_network(parser, ["inception", "classifier"], "weights.pth")
    add_fast(parser)
    given = ["--network", "classifier"]
    assert choose_speed(parser.parse_args(given), device) == "tokenizer in float32"
    said = choose_speed(parser.parse_args([*given, "--fast"]), device)
    assert said == f"tokenizer in {tokenizer}; features of classifier, which have no fast mode"
    assert choose_speed(parser.parse_args(["--fast"]), device, measured=False) == f"tokenizer in {tokenizer}"
    with pytest.raises(UserError, match="--mode fast: found --network classifier, which has one mode; expected incep"):
        choose_speed(parser.parse_args([*given, "--mode", "fast"]), device)


@pytest.mark.parametrize("verb, command", [(sample, []), (evaluate, ["generator"])])
def test_verbs_of_one_option_describe_it_alike(verb, command, capsys):
    with pytest.raises(SystemExit) as stop:
        verb.main([*command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for words in (
        "of the run that made the generator, else 6.0 for tokens, 1.5 for latents)",
        "auto: a GPU where there is one (default auto)",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("verb", "argv", "heads"),
    [
        (pretokenize, ["SRC", "DST", "--tokenizer", "T"], "--num_heads"),
        (evaluate, ["tokenizer", "T", "--images", "digits"], "--num_heads"),
        (evaluate, ["generator", "G", "--tokenizer", "T", "--reference", "R"], "--tokenizer_heads"),
        (sample, ["--generator", "G", "--tokenizer", "T"], "--tokenizer_heads"),
        (explain, ["codebook", "T", "--images", "digits"], "--num_heads"),
        (explain, ["strips", "T", "--images", "digits"], "--num_heads"),
        (explain, ["lipschitz", "T", "--images", "digits"], "--num_heads"),
        (explain, ["mmd", "T", "--images", "digits", "--generator", "G"], "--tokenizer_heads"),
        (doctor, ["--tokenizer", "T"], "--num_heads"),
    ],
)
def test_what_a_file_cannot_say_reaches_its_tokenizer(verb, argv, heads, monkeypatch, tmp_path):
    """Every verb that opens a foreign tokenizer says the same of it."""
    asked = []

    def opened(path, weights="ema", **sizes):
        asked.append((str(path), sizes))
        raise UserError("enough")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "load_tokenizer", opened)
    monkeypatch.setattr(load, "open_checkpoint", lambda path, role, **sizes: opened(path, **sizes))
    generator = RAR(RARConfig(16, 1, 2, 16, codebook_size=8, num_classes=2, num_tokens=4))
    monkeypatch.setattr(load, "load_generator", lambda *args, **sizes: generator)
    monkeypatch.setattr(registry, "open_network", lambda *args: None)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    given = [heads, "3", "--image_size", "64", "--similarity", "dot"]
    assert run_verb(verb.main, [*argv, *given]) == 2
    assert asked == [("T", {"num_heads": 3, "image_size": 64, "similarity": "dot"})]
