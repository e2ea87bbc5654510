"""Published frozen networks from files: DINOv2 (teacher, start of the tokenizer), DINO ViT-S/16, LPIPS with VGG-16."""

from pathlib import Path

from torch import Tensor

from ...config import TokenizerConfig
from ...core.errors import UserError
from ...formats.dino import resample_patches, to_vit
from ...formats.pickles import read_pickled
from ...formats.tensors import block_count, check_state
from ..opening import read_safetensors
from ..tokenizers.vit_tokenizer import Tokenizer
from ..vit import ViT, resample_positions
from .dino import VIT_S16, DINOBackbone, DINOTeacher, ViTSize
from .lpips import LPIPS, STAGES

State = dict[str, Tensor]


def read_state(path: str | Path) -> State:
    """The state dict in a .safetensors or torch file. Raises UserError when there is none."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file of weights")
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_pickled(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no plain state dict; expected one tensor for each name")
    return state


def read_dinov2(path: str | Path, config: TokenizerConfig) -> State:
    """DINOv2 weights (timm, Hugging Face or original keys) resampled to the patches and grid of a tokenizer.

    Returns: our ViT's keys, float32. Raises: UserError for another network or one of another width than the encoder.
    """
    state = to_vit(read_state(path), str(path))
    width = state["pos_embed"].shape[-1]
    if width != config.width:
        raise UserError(f"{path}: DINOv2 weights of width {width}; expected {config.width}, as the tokenizer's encoder")
    grid = config.image_size // config.patch_size
    state["pos_embed"] = resample_positions(state["pos_embed"], grid)
    state["patch_embed.proj.weight"] = resample_patches(state["patch_embed.proj.weight"], config.patch_size)
    return state


def load_teacher(path: str | Path, config: TokenizerConfig) -> DINOTeacher:
    """Frozen DINOv2 whose class feature the semantic loss of a tokenizer of `config` aims at."""
    return build_teacher(read_dinov2(path, config), config, str(path))


def build_teacher(state: State, config: TokenizerConfig, where: str) -> DINOTeacher:
    """The teacher of weights under our ViT's keys, on the tokenizer's patches and grid; its depth is its own."""
    vit = ViT(
        grid=config.image_size // config.patch_size,
        patch_size=config.patch_size,
        width=config.width,
        depth=block_count(state),
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        layer_scale=1.0 if "blocks.0.ls1.gamma" in state else None,
    )
    check_state(state, vit.state_dict(), where, "DINOv2")
    vit.load_state_dict(state)
    return DINOTeacher(vit)


def start_from_dinov2(tokenizer: Tokenizer, path: str | Path) -> None:
    """Set the ViTs of encoder and decoder to DINOv2's weights; the rest of the tokenizer stays as it is.

    Raises: UserError for weights of another size than the tokenizer's ViTs.
    """
    state = read_dinov2(path, tokenizer.config)
    decoder = {key: value for key, value in state.items() if not key.startswith("patch_embed.")}
    for name, vit, weights in (("encoder", tokenizer.encoder.vit, state), ("decoder", tokenizer.decoder.vit, decoder)):
        check_state(weights, vit.state_dict(), str(path), f"DINOv2 for the {name}")
        vit.load_state_dict(weights)


def load_backbone(path: str | Path, size: ViTSize = VIT_S16) -> DINOBackbone:
    """Frozen DINO ViT for the discriminator. Raises: UserError for weights of another size than `size`."""
    state = {key: value for key, value in to_vit(read_state(path), str(path)).items() if not key.startswith("norm.")}
    backbone = DINOBackbone(size)
    layout = f"DINO of width {state['pos_embed'].shape[-1]}; expected ViT/16 of width {size.width}, depth {size.depth}"
    check_state(state, backbone.vit.state_dict(), str(path), layout)
    backbone.vit.load_state_dict(state)
    return backbone


def load_lpips(folder: str | Path) -> LPIPS:
    """LPIPS of the files in `folder`: `vgg.pth` (its linear layers) and torchvision's VGG-16, under any name.

    Raises: UserError when one of the two is missing or of another network.
    """
    paths = sorted(p for p in Path(folder).expanduser().glob("*") if p.suffix in (".pth", ".pt", ".safetensors"))
    merged: State = {}
    for path in paths:
        merged |= read_state(path)
    lpips = LPIPS()
    names = _lpips_names(lpips)
    missing = [theirs for theirs in names if theirs not in merged]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(names)} LPIPS tensors are missing ({', '.join(missing[:10])}) in "
            f"{', '.join(p.name for p in paths) or 'no files of weights'}; expected vgg.pth and torchvision's VGG-16"
        )
    state = {ours: merged[theirs].flatten() if ours.startswith("linear") else merged[theirs]
             for theirs, ours in names.items()}  # fmt: skip
    check_state(state, lpips.state_dict(), str(folder), "LPIPS with VGG-16")
    lpips.load_state_dict(state)
    return lpips.eval().requires_grad_(False)


def _lpips_names(lpips: LPIPS) -> dict[str, str]:
    """Published name -> ours. torchvision numbers convolutions, ReLUs and poolings in one list."""
    names, place = {}, 0
    for i, widths in enumerate(STAGES):
        for j in range(len(widths)):
            for kind in ("weight", "bias"):
                names[f"features.{place}.{kind}"] = f"stages.{i}.{j}.{kind}"
            place += 2
        place += 1
        names[f"lin{i}.model.1.weight"] = f"linear.{i}"
    return names
