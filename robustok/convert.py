"""Converts checkpoints: python -m robustok.convert SRC DST [--to upstream] [--num_heads N] [--teacher FILE]

    python -m robustok.convert main-train.pt robustok-b           a released tokenizer as a folder of safetensors
    python -m robustok.convert rar_b.bin rar-b                    a released generator
    python -m robustok.convert robustok-b out.pt --to upstream    a checkpoint that the authors' code loads

The layout of SRC is recognised by what it holds. A converted folder opens faster, is safe to pass on, and keeps the
frozen teacher and the discriminator of a released tokenizer.
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoints import writing as checkpoints
from .config import RARConfig, TokenizerConfig
from .core.cli import run
from .core.errors import RunError, UserError
from .core.files import written_whole
from .formats import robustok_release
from .formats.tensors import check_state
from .models.frozen.pretrained import build_teacher, read_dinov2
from .models.load import MODELS, locate
from .models.opening import Checkpoint, open_checkpoint

# What the authors' loader reads of the training arguments, for a tokenizer that was not trained by their script.
RELEASED_ARGS = {
    "vq_model": "VQ-16",
    "commit_loss_beta": 0.25,
    "entropy_loss_ratio": 0.0,
    "dropout_p": 0.0,
    "enc_type": "dinov2",
    "dec_type": "dinov2",
    "semantic_guide": "dinov2",
    "detail_guide": "none",
    "guide_type_1": "class",
    "abs_pos_embed": True,
    "codebook_drop": 0.0,
    "half_sem": False,
    "start_drop": 3,
    "lfq": False,
    "clip_norm": False,
    "sem_loss_scale": 1.0,
    "sem_loss_weight": 0.1,
    "enc_tuning_method": "full",
    "dec_tuning_method": "full",
}
BACKBONES = {  # (width, depth) -> the name by which the authors' code builds it
    (384, 12): "vit_small_patch14_dinov2.lvd142m",
    (768, 12): "vit_base_patch14_dinov2.lvd142m",
    (1024, 24): "vit_large_patch14_dinov2.lvd142m",
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "robustok.convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="checkpoint of any known layout, or hub id")
    parser.add_argument("target", type=Path, metavar="DST", help="folder (ours) or file (upstream) to write")
    parser.add_argument("--to", choices=("ours", "upstream"), default="ours", help="layout to write")
    parser.add_argument("--num_heads", type=int, help="attention heads of a released tokenizer of unusual width")
    parser.add_argument("--teacher", type=Path, help="DINOv2 weights for --to upstream, where SRC holds none")
    options = parser.parse_args(argv)
    if options.target.exists():
        raise UserError(f"{options.target} exists; choose another name or remove it")
    checkpoint = open_checkpoint(locate(options.source), options.num_heads)
    for state in checkpoint.weights.values():
        check_state(state, shapes(checkpoint.kind, checkpoint.config), str(checkpoint.path), checkpoint.layout)
    if options.to == "ours":
        write_ours(checkpoint, options.target)
    else:
        write_upstream(checkpoint, options.target, options.teacher)
    print(f"{checkpoint.path}: {checkpoint.layout}\nwritten: {options.target}")
    return 0


def shapes(kind: str, config: TokenizerConfig | RARConfig) -> dict[str, Tensor]:
    """The state dict of a model of `config`, without memory for its values."""
    with torch.device("meta"):
        return MODELS[kind](config).state_dict()


def write_ours(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a folder that `load_tokenizer` or `load_generator` opens, with what is needed to convert it back."""
    tensors = dict(checkpoint.weights)
    if checkpoint.teacher:
        tensors["teacher"] = checkpoint.teacher
    if checkpoint.discriminator:
        tensors["discriminator"] = checkpoint.discriminator
    documents: dict[str, Any] = {"config": {"kind": checkpoint.kind, "config": asdict(checkpoint.config)}}
    if checkpoint.args is not None:
        documents["upstream"] = {"args": vars(checkpoint.args), "steps": checkpoint.steps}
    checkpoints.save(folder, tensors, documents)


def write_upstream(checkpoint: Checkpoint, path: Path, teacher: Path | None) -> None:
    """Write a file in the released layout: a training checkpoint for a tokenizer, a state dict for a generator.

    Raises: UserError for a tokenizer without teacher: the authors' code refuses a file without its weights.
    """
    if checkpoint.kind == "rar":
        _save({key: tensor.clone() for key, tensor in checkpoint.choose("ema").items()}, path)
        return
    config = checkpoint.config
    frozen = checkpoint.teacher
    if teacher is not None:
        frozen = build_teacher(read_dinov2(teacher, config), config, str(teacher)).vit.state_dict()
    if not frozen:
        raise UserError(
            f"{checkpoint.path} holds no semantic teacher, which the authors' code expects inside a tokenizer "
            "checkpoint: give DINOv2 weights with --teacher"
        )
    weights = {name: robustok_release.to_released(state, config, frozen) for name, state in checkpoint.weights.items()}
    rest = {"optimizer": {}, "discriminator": checkpoint.discriminator, "optimizer_disc": {}}
    args = checkpoint.args or _released_args(config)
    _save({**weights, **rest, "steps": checkpoint.steps, "args": args}, path)


def _released_args(config: TokenizerConfig) -> argparse.Namespace:
    encoder = config.width, config.depth
    decoder = config.decoder_width or config.width, config.decoder_depth or config.depth
    fits = (config.image_size, config.patch_size) == (256, 16) and config.layer_scale is not None
    if not fits or encoder not in BACKBONES or decoder not in BACKBONES:
        raise UserError(
            "the authors' code builds tokenizers for 256 pixels in patches of 16, of DINOv2's ViT-S, B or L with "
            f"LayerScale; found {config}"
        )
    grid = config.image_size // config.patch_size
    return argparse.Namespace(
        **RELEASED_ARGS,
        image_size=config.image_size,
        codebook_size=config.codebook_size,
        codebook_embed_dim=config.code_width,
        codebook_l2_norm=config.normalize,
        product_quant=config.codebooks,
        num_latent_tokens=config.num_latents or grid**2,
        share_quant_resi=config.residual_convs,
        v_patch_nums=list(config.scales or [round((config.num_latents or grid**2) ** 0.5)]),
        encoder_model=BACKBONES[encoder],
        decoder_model=BACKBONES[decoder],
    )


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        with written_whole(path) as temporary:
            torch.save(content, temporary)
    except OSError as error:
        raise RunError(f"could not write {path}: {error}") from error


if __name__ == "__main__":
    sys.exit(run(main))
