"""Weight decay and compilation reach what they are meant for, in every model and however it is wrapped."""

import dataclasses

import pytest
import torch
from torch import nn

from robustok.config import FrozenConfig
from robustok.model_configs import RARConfig, TokenizerConfig
from robustok.models.compiling import compiled_blocks
from robustok.models.discriminator import Discriminator
from robustok.models.frozen.classifier import Classifier
from robustok.models.generators.rar import RAR
from robustok.models.parameters import decayed_parameters
from robustok.models.tokenizers.tuning import tune
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

SHAPE = TokenizerConfig(width=32, depth=2, heads=2, codebook_size=64, code_width=4)


def names(module: nn.Module) -> set[str]:
    decayed = {id(p) for p in decayed_parameters(module)}
    return {name for name, p in module.named_parameters() if id(p) in decayed}


def in_blocks(prefix: str, layers: list[str], depth: int = 2) -> set[str]:
    return {f"{prefix}blocks.{i}.{layer}.weight" for i in range(depth) for layer in layers}


VIT = ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
TOKENIZER = {
    "encoder.vit.patch_embed.proj.weight",
    "quant_conv.weight",
    "post_quant_conv.weight",
    "decoder.to_pixel.weight",
    *in_blocks("encoder.vit.", VIT),
    *in_blocks("decoder.vit.", VIT),
}


def test_tokenizer():
    assert names(ViTTokenizer(SHAPE)) == TOKENIZER
    scales = dataclasses.replace(SHAPE, scales=(1, 4), residual_convs=2)
    assert names(ViTTokenizer(scales)) == TOKENIZER | {f"quantizer.convs.{i}.weight" for i in range(2)}


def test_a_wrapper_changes_nothing():
    """Post-training calls the tokenizer as a part named `tokenizer`, and only its decoder learns."""
    tokenizer = ViTTokenizer(SHAPE)
    wrapper = nn.Sequential()
    wrapper.add_module("tokenizer", tokenizer)
    assert names(wrapper) == {f"tokenizer.{name}" for name in TOKENIZER}
    tokenizer.freeze_encoder()
    assert names(wrapper) == {f"tokenizer.{name}" for name in TOKENIZER if name.startswith(("decoder", "post_quant"))}


def test_generator():
    model = RAR(RARConfig(16, 2, 2, 32, codebook_size=8, num_classes=3, num_tokens=4))
    layers = [*VIT, "adaLN_modulation.1"]
    assert names(model) == in_blocks("", layers) | {"adaln_before_head.adaLN_modulation.1.weight", "lm_head.weight"}


def test_other_networks():
    """All convolutions of the discriminator, whose weights have another name, and of the classifier."""
    backbone = nn.Identity()
    backbone.channels = [8]
    assert names(Discriminator(backbone)) == {f"heads.0.{place}.weight_orig" for place in ("0.0", "1.fn.0", "2")}
    found = names(Classifier(10, 32, width=32))
    assert found == {"head.weight", *(f"stages.{i}.{j}.weight" for i in range(3) for j in (0, 3))}


def test_adapters_decay_and_what_they_adapt_does_not():
    pytest.importorskip("peft")
    tokenizer = ViTTokenizer(SHAPE)
    tune(tokenizer, FrozenConfig(encoder_tuning="lora", decoder_tuning="frozen", lora_rank=2))
    found = names(tokenizer)
    assert all(".lora_" in name for name in found if ".vit." in name)
    assert len([name for name in found if ".vit." in name]) == 2 * 2 * 2


def test_shared_weights_count_once():
    layer = nn.Linear(2, 2)
    assert decayed_parameters(nn.Sequential(layer, layer)) == [layer.weight]


def test_blocks_to_compile():
    tokenizer = ViTTokenizer(SHAPE)
    assert compiled_blocks(tokenizer) == [*tokenizer.encoder.vit.blocks, *tokenizer.decoder.vit.blocks]
    with torch.device("meta"):
        model = RAR(RARConfig(16, 3, 2, 32, codebook_size=8, num_classes=3, num_tokens=4))
    assert compiled_blocks(model) == list(model.blocks)
    assert compiled_blocks(Classifier(10, 32)) == []
