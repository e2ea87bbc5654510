"""Loading tokenizers and generators: our own checkpoints and published ones, recognised by what they hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.checkpoint import Checkpoint, check_model_config, read_checkpoint, read_config
from ..checkpoints.reading import MANIFEST, find_checkpoint
from ..core.errors import UserError
from ..core.files import sha256
from ..core.parsing import parsing
from ..core.paths import given_path, regular_file
from ..core.sizes import Size, say_size, sides
from ..core.text import some_of
from ..formats.layout import Given, described, nearest_layout
from ..formats.opening import open_published, published_file
from ..formats.sources import note_licence
from ..formats.tensors import check_state
from .interfaces import (
    DiscreteTokenizer,
    LoadedGenerator,
    LoadedTokenizer,
    TokenGenerator,
    is_discrete,
    makes_latents,
)
from .registry import FAMILIES, Role, families, family_of
from .saving import Pretrained


def load_tokenizer(
    path: str | Path,
    weights: str = "ema",
    num_heads: int | None = None,
    image_size: Size | None = None,
    similarity: str | None = None,
) -> LoadedTokenizer:
    """Load a tokenizer, on the CPU, in float32 and evaluation mode.

    Args:
        path: a checkpoint folder of this package or a stage's folder that holds some (its best, else its newest valid
            one); a published file (`main-train.pt`, `post-train.pt`), or a folder with config.json and one file of
            weights as hubs have it; or a Hugging Face hub id `owner/name[/file]` that is in the local cache (nothing is
            downloaded here).
        weights: "ema", the moving average, or "model".
        num_heads: attention heads, only for a published file whose width is no standard ViT: the file cannot say.
        image_size: pixels of both sides, or (height, width), where it is to be used at another size than its file
            says: a convolutional tokenizer takes any that its cells divide, a ViT tokenizer's positions are resampled.
        similarity: "l2", "cosine" or "dot", only for a published file that cannot say how latents and codes compare.

    Raises: UserError for a path or file that is missing, damaged, of no known layout or another kind of model, and
    UnsafeFileError (a UserError) for a pickle that would run code, naming what it refers to.
    """
    given = {"num_heads": num_heads, "image_size": image_size, "similarity": similarity}
    return build(open_checkpoint(locate(path), "tokenizer", **given), weights)


def load_generator(
    path: str | Path, weights: str = "ema", num_heads: int | None = None, num_tokens: int | None = None
) -> LoadedGenerator:
    """Load a generator, on the CPU, in float32 and evaluation mode.

    num_heads, num_tokens: only for a published file that cannot say them; a released RAR says both. Other arguments and
    errors as `load_tokenizer`.
    """
    return build(open_checkpoint(locate(path), "generator", num_heads=num_heads, num_tokens=num_tokens), weights)


def open_checkpoint(path: Path, role: Role | None = None, **given: Any) -> Checkpoint:
    """Open a folder of ours, or a file of a layout that some family knows.

    Args:
        role: "tokenizer" or "generator" where only one will do.
        given: what the caller says where a published file cannot: the fields of formats.layout.Given.

    Warns (UnlicensedWeights) of published weights whose source states no licence.

    Raises: UserError for what is missing, damaged, of no known layout or another role; UnsafeFileError for a pickle
    that would run code.
    """
    if path.is_dir() and (published := published_file(path)):
        path = published
    elif path.is_dir():
        folder = find_checkpoint(path)
        kind, config = read_config(folder, {family.kind: family.config for family in families()})
        _expect(role, FAMILIES[kind].role, folder, f"{kind} checkpoint of this package")
        checkpoint = read_checkpoint(folder, kind, config)
        note_licence(path, checkpoint.source)
        return _at_size(checkpoint, given.get("image_size"))
    file = open_published(regular_file(path, "a checkpoint, a folder or a file"))
    for family in families():
        for layout in family.layouts:
            if layout.recognises(file.state):
                _expect(role, family.role, path, described(layout))
                with parsing(path, f"a {described(layout)}"):
                    checkpoint = layout.read(file, Given(**given))
                check_model_config(checkpoint.config, path)
                checkpoint.source = checkpoint.source or getattr(layout, "source", None)
                note_licence(path, checkpoint.source)
                return _at_size(checkpoint, given.get("image_size"))
    known = nearest_layout((layout for family in families() for layout in family.layouts), file.state)
    raise UserError(f"{path}: no known layout: found {some_of(file.state)}; {known}")


def _at_size(checkpoint: Checkpoint, image_size: Size | None) -> Checkpoint:
    """The model at the image size asked for. Raises UserError where it is another than the only one that it has."""
    if image_size is None:
        return checkpoint
    family, where = family_of(checkpoint.config), f"{checkpoint.path}: image_size: found {say_size(image_size)}"
    if family.role == "generator":
        raise UserError(f"{where}, but a {family.kind} is a generator: how many tokens it makes cannot be changed")
    own = checkpoint.config.image_size
    if sides(image_size) == sides(own):
        return checkpoint
    if family.resized is None:
        raise UserError(f"{where}, but a {family.kind} is of one size, {say_size(own)} pixels")
    try:
        return family.resized(checkpoint, image_size)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def _expect(expected: Role | None, found: Role, path: Path, layout: str) -> None:
    if expected not in (None, found):
        raise UserError(f"{path} is a {layout}; expected a {expected}")


def build(checkpoint: Checkpoint, weights: str = "ema") -> Any:
    """The model of an opened checkpoint; its tensors are copied once, out of the mapped file."""
    state = checkpoint.choose(weights)
    model = _described(checkpoint)
    check_state(state, model.state_dict(), str(checkpoint.path), checkpoint.layout)
    model.to_empty(device="cpu").load_state_dict(state)  # initialising a full-size one takes seconds
    if isinstance(model, Pretrained):
        model.origin = replace(checkpoint, weights={}, teacher={}, discriminator={})
    return model.eval()


def check_weights(checkpoint: Checkpoint) -> None:
    """Raise UserError unless every set of weights fits the model of the checkpoint's config."""
    expected = _described(checkpoint).state_dict()
    for state in checkpoint.weights.values():
        check_state(state, expected, str(checkpoint.path), checkpoint.layout)


def _described(checkpoint: Checkpoint) -> Any:
    """The model of a checkpoint without memory. Raises UserError for sizes of which there is no model."""
    with parsing(checkpoint.path, checkpoint.layout, f"no model has the sizes that it gives: {checkpoint.config}"):
        return meta_model(checkpoint.config)


def meta_model(config: Any) -> Any:
    """A model of `config` that takes no memory: its shapes alone."""
    asked = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # a model is loaded in float32 whatever the caller's default is
    try:
        with torch.device("meta"):
            return family_of(config).build(config)
    finally:
        torch.set_default_dtype(asked)


def identity(path: str | Path) -> dict[str, str]:
    """Which weights `load_tokenizer` or `load_generator` opens: `file`, the last part of `path`, and `sha256`, of a
    published file itself, of a checkpoint of ours that of its manifest, which lists the hashes of all its files.
    """
    place = locate(path)
    file = (published_file(place) or find_checkpoint(place) / MANIFEST) if place.is_dir() else place
    return {"file": Path(path).name or str(path), "sha256": sha256(file)}


def locate(path: str | Path, *, local_files_only: bool = True, **repository: Any) -> Path:
    """A local path as it is; a hub id `owner/name[/file]` as its place in the local cache.

    Args:
        local_files_only: False: what is not in the cache is downloaded.
        repository: revision, token and cache_dir of `huggingface_hub.snapshot_download`.

    Raises: UserError when it is neither, or cannot be downloaded.
    """
    local = given_path(path)
    parts = str(path).split("/")
    if local.exists() or len(parts) < 2 or not all(parts):
        return local
    owner_name, name = "/".join(parts[:2]), "/".join(parts[2:])
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise UserError(f"{path} does not exist; to use it as a hub id: pip install 'robustok[hub]'") from None
    # its HTTP library's errors, and OSError
    failures: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, ValueError)
    try:
        folder = Path(snapshot_download(owner_name, local_files_only=local_files_only, **repository))
    except failures as error:
        if not local_files_only:
            raise UserError(f"{path} does not exist here, and {owner_name} cannot be downloaded: {error}") from error
        raise UserError(
            f"{path} does not exist, and no hub repository {owner_name} is in the local cache; download it once with "
            f"`hf download {owner_name}`, or ask for it: from_pretrained(..., local_files_only=False)"
        ) from error
    return folder / name


def check_fits(tokenizer: LoadedTokenizer, generator: LoadedGenerator) -> None:
    """Raise UserError when a generator does not make what the tokenizer decodes."""
    if not makes_latents(generator):
        if not is_discrete(tokenizer):
            raise UserError(
                f"the generator makes tokens, but the tokenizer ({family_of(tokenizer).kind}) has no codebook: use the "
                "generator trained on its latents"
            )
        check_codebooks(tokenizer, generator)
        return
    if is_discrete(tokenizer):
        raise UserError(
            f"the generator ({family_of(generator).kind}) makes latents, but the tokenizer decodes tokens: use a "
            "continuous tokenizer"
        )
    if tuple(generator.latent_shape) != tuple(tokenizer.latent_shape):
        made, decoded = (" x ".join(map(str, model.latent_shape)) for model in (generator, tokenizer))
        raise UserError(
            f"the generator makes {made} latents, the tokenizer has {decoded}: use the generator trained on this "
            "tokenizer's latents"
        )


def take_statistics(generator: LoadedGenerator, tokenizer: LoadedTokenizer) -> None:
    """Gives a generator of latents the mean and standard deviation that its tokenizer's file names.

    Published generators do not store them; those trained here do, and keep theirs.
    """
    known, given = generator.config, tokenizer.config
    if getattr(known, "latent_mean", 0.0) is None and hasattr(given, "latent_mean"):
        mean, std = ((value,) * known.latent_width for value in (given.latent_mean, given.latent_std))
        generator.config = replace(known, latent_mean=mean, latent_std=std)


def check_codebooks(tokenizer: DiscreteTokenizer, generator: TokenGenerator) -> None:
    """Raise UserError when a generator's tokens are not the tokenizer's: another codebook size or number of tokens."""
    *several, codes, _ = tokenizer.codebook.shape
    if several:
        raise UserError(
            f"the tokenizer has {several[0]} codebooks, so that a token is {several[0]} codes; the generator makes "
            "tokens of one code: use a tokenizer with one codebook"
        )
    if (generator.codebook_size, generator.num_tokens) != (codes, tokenizer.num_tokens):
        raise UserError(
            f"the generator makes {generator.num_tokens} tokens of {generator.codebook_size} codes, the tokenizer has "
            f"{tokenizer.num_tokens} tokens of {codes} codes: use the generator trained on this tokenizer's tokens"
        )
