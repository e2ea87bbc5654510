"""Token shards: the tokens of images as uint16. data/rows.py says what a folder of shards is.

A shard's tokens.npy is (n, L), or (n, L, Q) of Q codebooks; the manifest names the codebook size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import UserError
from .rows import Rows, RowSet, RowWriter

MAX_CODES = 1 << 16  # what uint16 can name


class TokenSet(RowSet):
    """What `open_tokens` returns. `.tokens` Rows (N, L) or (N, L, Q) uint16, and what every RowSet has."""

    kind, array, dtype, mark = "token shards", "tokens", np.uint16, "codebook_size"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        size = self.manifest[self.mark]
        if not isinstance(size, int) or not 1 <= size <= MAX_CODES:
            raise UserError(f"{folder}: codebook_size is {size!r:.60}, expected 1 to {MAX_CODES}; write it again")

    @property
    def tokens(self) -> Rows:
        return self.rows

    def read(self, rows: Tensor) -> Tensor:
        """Tokens int64 (n, L) or (n, L, Q) of the rows `rows`. Raises UserError for those beyond the codebook."""
        tokens, size = torch.from_numpy(self.rows[rows.cpu().numpy()].astype(np.int64)), self.manifest[self.mark]
        if tokens.numel() and int(tokens.max()) >= size:
            raise UserError(f"{self.folder}: a token {int(tokens.max())} of {size} codes; write it again")
        return tokens

    def code_counts(self) -> np.ndarray:
        """How often each index 0..65535 occurs, int64 (65536,); reads shard by shard."""
        return sum(np.bincount(part.ravel(), minlength=MAX_CODES) for part in self.rows.parts)


class TokenWriter(RowWriter):
    """A RowWriter whose `about` has `codebook_size` too. `write` takes tokens of an integer dtype in [0, K)."""

    result = TokenSet

    def __init__(self, folder: str | Path, about: dict[str, Any], *, shard_rows: int = 8192) -> None:
        if not 1 <= about["codebook_size"] <= MAX_CODES:
            raise UserError(f"codebook_size = {about['codebook_size']}: token shards hold 1 to {MAX_CODES} codes")
        super().__init__(folder, about, shard_rows=shard_rows)

    def arrays(self, rows: Tensor) -> dict[str, np.ndarray]:
        size = self.about["codebook_size"]
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < size:
            raise ValueError(f"tokens: found {int(rows.min())}..{int(rows.max())}, expected 0..{size - 1}")
        return {"tokens": rows.cpu().numpy().astype(np.uint16)}


def write_tokens(folder: str | Path, tokens: Tensor, labels: Tensor, ids: Tensor, about: dict[str, Any]) -> TokenSet:
    """Writes tokens that are in memory as a finished folder; arguments as for `TokenWriter` and its `write`."""
    return TokenWriter(folder, about).write_all(tokens, labels, ids)


def open_tokens(folder: str | Path) -> TokenSet:
    """The finished token shards in `folder`; raises UserError for anything else, saying what is wrong with it."""
    return TokenSet(folder)
