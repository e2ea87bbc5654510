"""`from_pretrained` as users know it: opens a model of any family, as robustok.Tokenizer and robustok.Generator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from .interfaces import LoadedGenerator, LoadedTokenizer
from .load import load_generator, load_tokenizer, locate

Model = TypeVar("Model")


class FromPretrained(Generic[Model]):
    """Opens models of every family; what it gives is no instance of it, but of the family's own class."""

    _load: ClassVar[Callable[..., Any]]

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        weights: str = "ema",
        local_files_only: bool = True,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        **given: Any,
    ) -> Model:
        """The model that `load_tokenizer` or `load_generator` gives, which may be downloaded first.

        Args:
            name_or_path, weights: as of that function.
            local_files_only: False: what is not in the local cache of the hub is downloaded. As it stands nothing is.
            revision, token, cache_dir: of the hub's repository, as in `huggingface_hub.snapshot_download`.
            given: what a published file cannot say, as of that function.

        Raises: as that function; UserError where there is no such repository, or no way to it.
        """
        path = locate(
            name_or_path, local_files_only=local_files_only, revision=revision, token=token, cache_dir=cache_dir
        )
        return cls._load(path, weights, **given)


class PretrainedTokenizer(FromPretrained[LoadedTokenizer]):
    """Opens tokenizers by `load_tokenizer`, which may be told num_heads, image_size and similarity."""

    _load = staticmethod(load_tokenizer)


class PretrainedGenerator(FromPretrained[LoadedGenerator]):
    """Opens generators by `load_generator`, which may be told num_heads and num_tokens."""

    _load = staticmethod(load_generator)


Tokenizer, Generator = PretrainedTokenizer, PretrainedGenerator  # as `robustok` has them
