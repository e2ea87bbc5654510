"""What a tokenizer's ViTs start from, and how much of them learns: all of it, low-rank adapters (LoRA), or nothing."""

from pathlib import Path

from ...config import FrozenConfig
from ...core.errors import UserError
from ...formats.tensors import check_state
from ..frozen.dino import read_dinov2
from ..vit import ViT
from .vit_tokenizer import ViTTokenizer

TARGETS = r".*mlp\.fc[12]"  # the linear layers that get adapters, as in the released code; the final norm learns too


def start_from_dinov2(tokenizer: ViTTokenizer, path: str | Path) -> None:
    """Set the ViTs of encoder and decoder to DINOv2's weights; the rest of the tokenizer stays as it is.

    Raises: UserError for weights of another size than the tokenizer's ViTs.
    """
    state = read_dinov2(path, tokenizer.config)
    decoder = {key: value for key, value in state.items() if not key.startswith("patch_embed.")}
    for name, vit, weights in (("encoder", tokenizer.encoder.vit, state), ("decoder", tokenizer.decoder.vit, decoder)):
        check_state(weights, vit.state_dict(), str(path), f"DINOv2 for the {name}")
        vit.load_state_dict(weights)


def tune(tokenizer: ViTTokenizer, config: FrozenConfig) -> None:
    """Choose what learns of the ViTs of encoder and decoder, in place; all other parameters keep learning.

    Call it after the pretrained weights are in. `load_tokenizer` adds trained adapters to the weights they adapt.
    Raises: UserError for "lora" where peft is not installed.
    """
    for vit, method in (
        (tokenizer.encoder.vit, config.encoder_tuning),
        (tokenizer.decoder.vit, config.decoder_tuning),
    ):
        if method != "full":
            vit.requires_grad_(False)
        if method == "lora":
            _add_adapters(vit, config.lora_rank)


def _add_adapters(vit: ViT, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("tuning by LoRA needs peft: pip install 'robustok[lora]'") from None
    # lora_alpha = rank: adapters count once, so that W + B A is the adapted weight
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGETS), vit)
    vit.norm.requires_grad_(True)
