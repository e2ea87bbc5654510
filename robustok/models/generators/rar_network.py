"""The network of RAR: a causal transformer over image tokens in any order, with adaLN modulation (arXiv 2411.00776).

The sequence is [class vector, condition, token of order[0], token of order[1], ...]; place p of it sees places 0..p and
predicts the token of order[p - 1]. Parameters carry the released names, so released weights load as they are.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...model_configs import RARConfig
from .autoregressive import check_shape
from .rar_layers import FinalNorm, RARBlock

PREFIX = 2  # places before the first image token: class vector and condition
EXTRA_POSITIONS = 1024  # rows that the released position tables hold beyond the L they use
EXTRA_PLACES = 100  # and those of the place embedding


class RARNetwork(nn.Module):
    """Teacher-forced logits of L tokens out of K codes for C classes; class C is the null class.

    config: RARConfig with codebook_size, num_classes and num_tokens given. Raises ValueError where one is missing or
    heads do not divide width. A fresh model starts with every block as the identity (adaLN-zero).
    """

    def __init__(self, config: RARConfig):
        super().__init__()
        check_shape(config)
        self.config = config
        self.codebook_size, self.num_classes = config.codebook_size, config.num_classes
        self.num_tokens = config.num_tokens
        width, length = config.width, config.num_tokens
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, length + EXTRA_POSITIONS, width))
        self.target_aware_pos_embed = nn.Parameter(torch.zeros(1, length + EXTRA_POSITIONS, width))
        self.timesteps_embeddings = nn.Parameter(torch.zeros(1, length + EXTRA_PLACES, width))
        # codes, an unused mask token, classes, the null class
        self.embeddings = nn.Embedding(config.codebook_size + 2 + config.num_classes, width)
        self.blocks = nn.ModuleList(RARBlock(config) for _ in range(config.depth))
        self.adaln_before_head = FinalNorm(width)
        self.lm_head = nn.Linear(width, config.codebook_size)
        self._initialise()

    def _initialise(self) -> None:
        tables = (self.cls_token, self.pos_embed, self.target_aware_pos_embed, self.timesteps_embeddings)
        matrices = [m.weight for m in self.modules() if isinstance(m, nn.Linear | nn.Embedding)]
        for parameter in (*tables, *matrices):
            nn.init.trunc_normal_(parameter, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
            if isinstance(module, RARBlock | FinalNorm):
                nn.init.zeros_(module.adaLN_modulation[1].weight)

    def forward(self, tokens: Tensor, classes: Tensor, orders: Tensor | None = None) -> Tensor:
        """Teacher-forced logits.

        Args:
            tokens: int64 (B, L) in raster order, 0..K-1.
            classes: int64 (B,), 0..C; C is the null class.
            orders: int64 (B, L), one permutation of 0..L-1 a sequence; None is the raster order.

        Returns: (B, L, K), differentiable; row i predicts tokens[orders[i]] from those at orders[:i].
        """
        if orders is None:
            orders = torch.arange(self.num_tokens, device=tokens.device).expand_as(tokens)
        x = self.embed(tokens.gather(1, orders)[:, :-1], classes, orders)
        rows, distinct = None, classes
        if len(classes) > self.num_classes + 1:  # modulation once a class is less work than once a sequence
            rows, distinct = classes, torch.arange(self.num_classes + 1, device=classes.device)
        condition = self.condition(distinct)[:, None] + self.timesteps_embeddings[:, : x.shape[1]]
        for block in self.blocks:
            x = block(x, condition, rows)
        return self.lm_head(self.adaln_before_head(x, condition, rows)[:, 1:])

    def embed(self, tokens: Tensor, classes: Tensor, orders: Tensor) -> Tensor:
        """Input places 0..L, (B, L + 1, width), from the first L - 1 tokens in their order.

        Each place knows its own position and, but for the class vector, that of the token it has to predict.
        """
        first = self.cls_token.expand(len(tokens), -1, -1)
        x = torch.cat([first, self.condition(classes)[:, None], self.embeddings(tokens)], 1)
        own, target = self.pos_embed[0], self.target_aware_pos_embed[0]
        prefix = own[:PREFIX].expand(len(tokens), -1, -1)
        # F.embedding, not indexing, whose gradient is summed in no fixed order by several threads
        x = x + torch.cat([prefix, F.embedding(PREFIX + orders[:, :-1], own)], 1)
        return x + F.pad(F.embedding(PREFIX + orders, target), (0, 0, 1, 0))

    def condition(self, classes: Tensor) -> Tensor:
        """Embedding of classes (...,), the null class C included -> (..., width)."""
        return self.embeddings(classes + self.codebook_size + 1)
