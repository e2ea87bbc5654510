"""`from_pretrained` as users know it: opens a model of any family, as robustok.Tokenizer and robustok.Generator."""

from pathlib import Path
from typing import Any

from .interfaces import LoadedGenerator, LoadedTokenizer
from .load import load_generator, load_tokenizer, locate


class PretrainedTokenizer:
    """Opens tokenizers of every family; what it gives is no instance of it, but of the family's own class."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        *,
        weights: str = "ema",
        local_files_only: bool = True,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        **given: Any,
    ) -> LoadedTokenizer:
        """The tokenizer that `load_tokenizer` gives, which may be downloaded first.

        Args:
            name_or_path, weights: as `load_tokenizer`.
            local_files_only: False: what is not in the local cache of the hub is downloaded. As it stands nothing is.
            revision, token, cache_dir: of the hub's repository, as in `huggingface_hub.snapshot_download`.
            given: what a published file cannot say: num_heads, image_size, similarity of `load_tokenizer`.

        Raises: as `load_tokenizer`; UserError where there is no such repository, or no way to it.
        """
        path = locate(
            name_or_path, local_files_only=local_files_only, revision=revision, token=token, cache_dir=cache_dir
        )
        return load_tokenizer(path, weights, **given)


class PretrainedGenerator:
    """Opens generators of every family; what it gives is no instance of it, but of the family's own class."""

    @staticmethod
    def from_pretrained(
        name_or_path: str | Path,
        *,
        weights: str = "ema",
        local_files_only: bool = True,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        **given: Any,
    ) -> LoadedGenerator:
        """The generator that `load_generator` gives; arguments and errors as `PretrainedTokenizer.from_pretrained`."""
        path = locate(
            name_or_path, local_files_only=local_files_only, revision=revision, token=token, cache_dir=cache_dir
        )
        return load_generator(path, weights, **given)


Tokenizer, Generator = PretrainedTokenizer, PretrainedGenerator  # as `robustok` has them
