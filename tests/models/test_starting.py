"""The models that training starts from: settings that do not fit are refused, and what fits is taken over."""

from dataclasses import replace

import pytest
import torch

from robustok.checkpoints.checkpoint import Checkpoint, write_checkpoint
from robustok.config import RunConfig, StartConfig
from robustok.core.errors import UserError
from robustok.model_configs import ConvTokenizerConfig, RARConfig, TokenizerConfig
from robustok.models.registry import family_of
from robustok.models.starting import generator_to_train, tokenizer_to_train

SHAPE = TokenizerConfig(image_size=16, patch_size=4, width=16, depth=1, heads=2, codebook_size=16, code_width=4)
RAR_SHAPE = RARConfig(width=16, depth=1, heads=2, mlp_width=32)
CONV = ConvTokenizerConfig(
    image_size=16, widths=(32, 32), stem_width=32, feature_width=32, codebook_size=16, attention=(), code_width=4
)


@pytest.fixture
def stored(tmp_path):
    """stored(config) writes a model of the config, and returns (its folder, the model)."""

    def write(config):
        family = family_of(config)
        torch.manual_seed(1)
        model = family.build(config)
        write_checkpoint(
            Checkpoint(tmp_path, "test", config, {"model": model.state_dict()}), family.kind, tmp_path / "m"
        )
        return str(tmp_path / "m"), model

    return write


def test_new_tokenizers_depend_on_the_seed_alone():
    run = RunConfig(tokenizer=SHAPE)
    torch.manual_seed(3)
    first = tokenizer_to_train(run)
    torch.manual_seed(3)
    second = tokenizer_to_train(run)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_a_stored_tokenizer_goes_on_under_settings_that_decide_no_shape(stored):
    path, model = stored(SHAPE)
    run = RunConfig(tokenizer=replace(SHAPE, drop_path=0.1, num_latents=16), start=StartConfig(tokenizer=path))
    found = tokenizer_to_train(run)
    assert found.config.drop_path == 0.1
    assert all(map(torch.equal, found.parameters(), model.parameters()))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(SHAPE, codebook_size=32), r"tokenizer\.codebook_size: stored 32, now 16"),
        (CONV, r"holds a conv_tokenizer; expected a tokenizer"),
    ],
)
def test_a_stored_tokenizer_of_another_shape_is_refused(config, message, stored):
    with pytest.raises(UserError, match=message):
        tokenizer_to_train(RunConfig(tokenizer=SHAPE, start=StartConfig(tokenizer=stored(config)[0])))


@pytest.mark.parametrize(("scales", "tokens"), [(None, 16), ((1, 2, 4), 1 + 4 + 16)])
def test_a_generator_has_the_tokens_of_its_tokenizer(scales, tokens):
    """With residual codes of several scales there are more tokens than latents."""
    run = RunConfig(tokenizer=replace(SHAPE, scales=scales), generator=RAR_SHAPE)
    model = generator_to_train(run, tokenizer_to_train(run), num_classes=7)
    config = model.config
    assert (config.codebook_size, config.num_classes, config.num_tokens) == (16, 7, tokens)


def test_a_generator_that_does_not_fit_is_refused(stored):
    run = RunConfig(tokenizer=SHAPE, generator=replace(RAR_SHAPE, num_classes=5))
    tokenizer = tokenizer_to_train(run)
    with pytest.raises(UserError, match=r"generator\.num_classes: found 5, but tokenizer and data have 7"):
        generator_to_train(run, tokenizer, num_classes=7)
    path, _ = stored(replace(RAR_SHAPE, codebook_size=32, num_classes=7, num_tokens=16))
    with pytest.raises(UserError, match="16 tokens of 32 codes"):
        generator_to_train(RunConfig(tokenizer=SHAPE, start=StartConfig(generator=path)), tokenizer, num_classes=7)
