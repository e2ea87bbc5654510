"""Token shards: the tokens of images as uint16, memory-mapped.

A folder holds `shard-00000/`, `shard-00001/`, ... with tokens.npy (n, L) or (n, L, Q) uint16, labels.npy (n,) int64
and ids.npy (n,) int64 each, and manifest.json, which names the tokenizer, its codebook size, the classes and the number
of rows. A shard is written under a temporary name and renamed, so a shard that exists is complete, and interrupted work
resumes with the missing shards. Several processes may write different shards of one folder.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import with_new_names
from ..core.errors import UserError
from ..core.files import read_json, remove_leftovers, write_json, written_whole
from ..models.interfaces import TrainableTokenizer

VERSION = 1
MAX_CODES = 1 << 16  # what uint16 can name
_ARRAYS = ("tokens", "labels", "ids")


class TokenRows:
    """The tokens of all shards as one array: `.shape`, `len()`, and `rows[index]` with an int, slice or index array.

    Indexing copies the rows asked for into memory; everything else stays on disk, mapped.
    """

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0] + [len(part) for part in parts])
        self.shape = (int(self.starts[-1]), *parts[0].shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        rows = self._numbers(index)
        part = np.searchsorted(self.starts, rows, side="right") - 1
        out = np.empty((*rows.shape, *self.shape[1:]), np.uint16)
        for number in np.unique(part):
            here = part == number
            out[here] = self.parts[number][rows[here] - self.starts[number]]
        return out

    def _numbers(self, index: int | slice | np.ndarray) -> np.ndarray:
        """The rows that `index` asks for, as numbers from 0; takes memory for those alone. Raises IndexError."""
        if isinstance(index, slice):
            return np.arange(*index.indices(len(self)))
        rows = np.asarray(index)
        if rows.dtype == bool:
            return np.flatnonzero(rows)
        if rows.size and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self)} rows of tokens")
        return np.where(rows < 0, rows + len(self), rows)


class TokenSet:
    """What `open_tokens` returns. `.tokens` TokenRows (N, L) or (N, L, Q) uint16; `.labels`, `.ids` (N,) int64 tensors;
    `.manifest` dict with tokenizer, codebook_size, class_names and whatever else its writer was given.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        arrays = {name: [_map(folder / shard / f"{name}.npy") for shard in manifest["shards"]] for name in _ARRAYS}
        self.tokens = TokenRows(arrays["tokens"])
        self.labels = torch.from_numpy(np.concatenate(arrays["labels"]))
        self.ids = torch.from_numpy(np.concatenate(arrays["ids"]))
        counts = {len(self.tokens), len(self.labels), len(self.ids), manifest["count"]}
        if len(counts) > 1:
            raise UserError(
                f"{folder}: shards and manifest.json differ in their number of rows ({counts}); write it again"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def code_counts(self) -> np.ndarray:
        """How often each index 0..65535 occurs, int64 (65536,); reads shard by shard."""
        return sum(np.bincount(part.ravel(), minlength=MAX_CODES) for part in self.tokens.parts)


class TokenWriter:
    """Writes a folder of token shards, shard by shard, in any order and from any number of processes.

    `about` says what the tokens are and must have `tokenizer` (its hash, `tokenizer_hash`), `codebook_size` and
    `class_names`; opening a folder that was begun with other values raises UserError.
    """

    def __init__(self, folder: str | Path, about: dict[str, Any], *, shard_rows: int = 8192) -> None:
        if not 1 <= about["codebook_size"] <= MAX_CODES:
            raise UserError(f"codebook_size = {about['codebook_size']}: token shards hold 1 to {MAX_CODES} codes")
        self.folder, self.shard_rows = Path(folder), shard_rows
        self.about = json.loads(json.dumps({"version": VERSION, **about, "shard_rows": shard_rows}))
        begun = self.folder / "begun.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        if begun.exists():
            _refuse_other(begun, self.about)
        else:
            write_json(begun, self.about)

    def shard_range(self, number: int, count: int) -> range:
        """The rows of shard `number` when there are `count` rows in all."""
        return range(number * self.shard_rows, min((number + 1) * self.shard_rows, count))

    def missing(self, count: int, *, rank: int = 0, world: int = 1) -> list[int]:
        """The numbers of the shards that process `rank` still has to write, when there are `count` rows in all.

        Each process has every `world`-th shard, whatever the others have written in the meantime.
        """
        numbers = range(rank, -(-count // self.shard_rows), world)
        return [number for number in numbers if not (self.folder / _shard_name(number)).exists()]

    def write(self, number: int, tokens: Tensor, labels: Tensor, ids: Tensor) -> None:
        """Shard `number`: tokens (n, L) or (n, L, Q) of an integer dtype in [0, K), labels (n,), ids (n,)."""
        size = self.about["codebook_size"]
        if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < size:
            raise ValueError(f"tokens: found {int(tokens.min())}..{int(tokens.max())}, expected 0..{size - 1}")
        with written_whole(self.folder / _shard_name(number)) as temporary:
            temporary.mkdir()
            np.save(temporary / "tokens.npy", tokens.cpu().numpy().astype(np.uint16))
            np.save(temporary / "labels.npy", labels.cpu().numpy().astype(np.int64))
            np.save(temporary / "ids.npy", ids.cpu().numpy().astype(np.int64))

    def finish(self, count: int) -> TokenSet:
        """Writes manifest.json over `count` rows and opens the result. ValueError while shards are missing."""
        if missing := self.missing(count):
            raise ValueError(f"{self.folder}: shards {missing[:10]} are not written yet")
        remove_leftovers(self.folder)
        shards = [_shard_name(number) for number in range(-(-count // self.shard_rows))]
        write_json(self.folder / "manifest.json", {**self.about, "count": count, "shards": shards})
        return open_tokens(self.folder)


def write_tokens(folder: str | Path, tokens: Tensor, labels: Tensor, ids: Tensor, about: dict[str, Any]) -> TokenSet:
    """Writes tokens that are in memory as a finished folder; arguments as for `TokenWriter` and its `write`."""
    writer = TokenWriter(folder, about)
    for number in writer.missing(len(tokens)):
        rows = writer.shard_range(number, len(tokens))
        part = slice(rows.start, rows.stop)
        writer.write(number, tokens[part], labels[part], ids[part])
    return writer.finish(len(tokens))


def is_token_folder(path: str | Path) -> bool:
    """True for a folder in which a TokenWriter has begun or finished."""
    return any((Path(path) / name).is_file() for name in ("manifest.json", "begun.json"))


def open_tokens(folder: str | Path) -> TokenSet:
    """The finished token shards in `folder`; raises UserError for anything else, saying what is wrong with it."""
    folder = Path(folder)
    if not (folder / "manifest.json").is_file():
        begun = (folder / "begun.json").exists()
        state = "was begun but not finished; run the same command again" if begun else "has no manifest.json"
        raise UserError(f"{folder}: expected a folder of token shards, but it {state}")
    manifest = read_json(folder / "manifest.json")
    if manifest.get("version") != VERSION:
        raise UserError(f"{folder}: token shards of version {manifest.get('version')}, expected {VERSION}")
    if not manifest["shards"]:
        raise UserError(f"{folder}: holds no tokens")
    return TokenSet(folder, manifest)


def tokenizer_hash(tokenizer: TrainableTokenizer) -> str:
    """SHA-256 of the encoder's parameters and the codebook, on which tokens depend; post-training keeps it."""
    digest = hashlib.sha256()
    for parameter in tokenizer.encoder_parameters():
        digest.update(parameter.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()


def _shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove its shard and run the same command again") from error


def _refuse_other(begun: Path, about: dict[str, Any]) -> None:
    found = read_json(begun)
    if "settings" in found:
        found["settings"] = with_new_names(found["settings"])
    if other := [key for key in sorted(found.keys() | about.keys()) if found.get(key) != about.get(key)]:
        values = "; ".join(f"{key} {found.get(key)!r:.60} there, {about.get(key)!r:.60} now" for key in other)
        raise UserError(f"{begun.parent}: was begun with other settings ({values}); choose another folder or remove it")
