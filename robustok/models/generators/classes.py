"""What generators do with classes: embed them, and leave some out in training so that guidance can be used later."""

from torch import Tensor, nn

from ...core.random import NOISE, keyed_words, to_uniform

DROPOUT = 0  # position of the NOISE stream in training that says which classes are left out


class ClassEmbedding(nn.Module):
    """Classes (B,) in 0..C -> (B, width); class C is the null class."""

    def __init__(self, num_classes: int, width: int):
        super().__init__()
        self.embedding_table = nn.Embedding(num_classes + 1, width)

    def forward(self, classes: Tensor) -> Tensor:
        return self.embedding_table(classes)


def drop_classes(classes: Tensor, num_classes: int, share: float, seed: int, sample_ids: Tensor) -> Tensor:
    """Classes (B,) with the null class in place of each with probability `share`.

    Which are dropped is a pure function of the seed and the sample id.
    """
    dropped = to_uniform(keyed_words(seed, NOISE, sample_ids, DROPOUT)[0]) < share
    return classes.masked_fill(dropped, num_classes)
