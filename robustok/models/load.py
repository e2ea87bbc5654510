"""Loading tokenizers and generators: our own checkpoints and the released ones, recognised by what they hold."""

from pathlib import Path

import torch
from torch import nn

from ..config import RARConfig, TokenizerConfig
from ..core.errors import UserError
from ..formats.tensors import check_state
from .generators.rar import RAR
from .opening import Checkpoint, open_checkpoint
from .tokenizers.vit_tokenizer import Tokenizer

MODELS = {"tokenizer": Tokenizer, "rar": RAR}


def load_tokenizer(path: str | Path, weights: str = "ema", num_heads: int | None = None) -> Tokenizer:
    """Load a tokenizer, on the CPU, in float32 and evaluation mode.

    Args:
        path: a checkpoint folder of this package or a stage's folder that holds some (its best, else its newest valid
            one); a released file (`main-train.pt`, `post-train.pt`); or a Hugging Face hub id `owner/name[/file]` that
            is in the local cache (nothing is downloaded here).
        weights: "ema", the moving average, or "model".
        num_heads: attention heads, only for a released file whose width is no standard ViT: the file cannot say.

    Raises: UserError for a path or file that is missing, damaged, of no known layout or another kind of model, and
    UnsafeFileError (a UserError) for a pickle that would run code, naming what it refers to.
    """
    return build(open_checkpoint(locate(path), num_heads, "tokenizer"), weights)


def load_generator(path: str | Path, weights: str = "ema") -> RAR:
    """Load a generator, on the CPU, in float32 and evaluation mode; arguments and errors as `load_tokenizer`."""
    return build(open_checkpoint(locate(path), kind="rar"), weights)


def build(checkpoint: Checkpoint, weights: str = "ema") -> nn.Module:
    """The model of an opened checkpoint; its tensors are copied once, out of the mapped file."""
    state = checkpoint.choose(weights)
    model = empty_model(checkpoint.kind, checkpoint.config)
    check_state(state, model.state_dict(), str(checkpoint.path), checkpoint.layout)
    model.load_state_dict(state)
    return model.eval()


def empty_model(kind: str, config: TokenizerConfig | RARConfig) -> nn.Module:
    """A model of `config` whose parameters hold no values yet: initialising a full-size one takes seconds."""
    with torch.device("meta"):
        model = MODELS[kind](config)
    return model.to_empty(device="cpu")


def locate(path: str | Path) -> Path:
    """A local path as it is; a hub id `owner/name[/file]` as its place in the local cache.

    Raises: UserError when it is neither.
    """
    local = Path(path).expanduser()
    parts = str(path).split("/")
    if local.exists() or len(parts) < 2 or not all(parts):
        return local
    repository, name = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:
        raise UserError(f"{path} does not exist; to use it as a hub id: pip install 'robustok[hub]'") from None
    try:
        folder = Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError) as error:
        raise UserError(
            f"{path} does not exist, and no hub repository {repository} is in the local cache; download it once with "
            f"`hf download {repository}`"
        ) from error
    return folder / name


def check_codebooks(tokenizer: Tokenizer, generator: RAR) -> None:
    """Raise UserError when a generator's tokens are not the tokenizer's: another codebook size or number of tokens."""
    codes, tokens = len(tokenizer.codebook), tokenizer.grid**2
    config = generator.config
    if (config.codebook_size, config.num_tokens) != (codes, tokens):
        raise UserError(
            f"the generator makes {config.num_tokens} tokens of {config.codebook_size} codes, the tokenizer has "
            f"{tokens} tokens of {codes} codes: use the generator trained on this tokenizer's tokens"
        )
