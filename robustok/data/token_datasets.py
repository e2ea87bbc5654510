"""Token shards as the training loop reads them: alone for a generator, beside real images for post-training."""

import torch
from torch import Tensor

from ..core.errors import UserError
from .images import ImageSplit
from .tokens import TokenSet


class TokenDataset:
    """Rows of token shards; `load` gives tokens (n, L) int64. Nothing is augmented."""

    def __init__(self, tokens: TokenSet):
        self.tokens, self.labels, self.ids = tokens.tokens, tokens.labels, tokens.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        return torch.from_numpy(self.tokens[rows.numpy()].astype("int64"))


class PairDataset:
    """Real images beside the generated tokens that should decode to them; row p pairs tokens p with image p mod N.

    Raises UserError for pairs that were made of other images.
    """

    def __init__(self, images: ImageSplit, pairs: TokenSet):
        repeat, rest = divmod(len(pairs), len(images))
        if rest or not torch.equal(pairs.ids, images.ids.repeat(repeat)):
            raise UserError(f"{pairs.folder}: its pairs belong to other images; remove the folder and make them again")
        self.images, self.pairs = images, pairs
        self.labels, self.ids = pairs.labels, pairs.ids

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, rows: Tensor, *, seed: int | None = None) -> Tensor:
        """The images (n, 3, S, S) uint8 of the pairs `rows`, as evaluation sees them."""
        return self.images.load(rows % len(self.images))

    def tokens(self, rows: Tensor) -> Tensor:
        """Their generated tokens (n, L) int64."""
        return torch.from_numpy(self.pairs.tokens[rows.cpu().numpy()].astype("int64"))
