"""What a backend of the codebook operations must do.

Numerics. Rows go into a comparison as float32; the similarity "cosine" divides them by max(norm, 1e-12) in float64 and
rounds to float32 (`reference.normalize_rows`). The distance is the float64 squared distance between two such rows, for
"dot" minus their inner product, its terms summed in the order of the coordinates, each operation rounded by itself: no
fused multiply-add. A backend may compute scores in any precision, as long as it knows how far they may be off and
decides by this distance wherever they cannot tell. All backends return the same indices; z_q, losses and gradients may
differ by rounding in float32.

Ties. Codes are ordered by (distance, index): among equally distant codes the lowest index comes first. This holds for
the nearest code and for the code at any rank. A token of rank 0 keeps its nearest code, whatever the order of the
neighbours of that code.

NaN and infinity. A distance that is not finite counts as infinite, so a code with NaN is never nearer than a finite
one. Where no distance of a row is finite, the order is by index. Indices always lie in [0, K), and NaN in z reaches
z_q, where the trainer's check finds it.

Draws. Ranks are those of `draws.draw_ranks`, whatever the split of the batch. Torch's own generators stay untouched.

Inputs. Arguments are checked before a backend sees them. z, query and the codebook are float32, float16 or bfloat16,
of any strides, on one device; codes may be of another dtype than z. Autocast has no influence.

Outputs are new contiguous tensors on the device of z. Gradients go through `perturb_backward` and
`quantize_backward`; the other methods run without autograd.

Streams. On a GPU the work goes to the current stream of the device of z. A backend that says that it never waits for
the device neither copies anything to the host nor lets sizes depend on the values of tensors, so that it can be
captured in a CUDA graph.

Memory beyond the outputs: at most 64 MiB for any number of tokens, so no (B * L, K) matrix. The reference, which is
written to be read, may take more.
"""

from typing import Protocol

import torch
from torch import Tensor

from ..types import CodebookShape, Draw, Perturbed, Quantized, QuantizedGradients, Similarity


class VQBackend(Protocol):
    """One implementation of the operations on a codebook; the module says what all of them promise."""

    name: str  # by which users ask for it
    devices: tuple[str, ...]  # device types on which "auto" takes it

    def missing(self, device: torch.device, shape: CodebookShape | None = None) -> str | None:
        """Why it cannot run on the device, for codebooks of the shape where one is given; None: it can."""
        ...

    def nearest(self, z: Tensor, codebook: Tensor, similarity: Similarity) -> Tensor:
        """z (B, L, D), codebook (K, D) -> index of the nearest code, int64 (B, L)."""
        ...

    def neighbors(self, query: Tensor, codebook: Tensor, delta: int, similarity: Similarity) -> Tensor:
        """query (B, L, D), codebook (K, D) -> the delta nearest codes, nearest first, int64 (B, L, delta)."""
        ...

    def perturb(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Perturbed:
        """z (B, L, D) as codes, some of them replaced by a near one.

        neighbors: "latent" where a replacement is drawn from the codes nearest to z, "code" where from those nearest
        to the code of z.
        """
        ...

    def quantize(self, z: Tensor, codebook: Tensor, draw: Draw, neighbors: str, similarity: Similarity) -> Quantized:
        """The same, with the clean latents, both losses and the usage of the codes."""
        ...

    def perturb_backward(self, z: Tensor, grad: Tensor, similarity: Similarity) -> Tensor:
        """Gradient of z (B, L, D) from that of `perturb`'s z_q, in the dtype of z."""
        ...

    def quantize_backward(
        self, z: Tensor, codebook: Tensor, nearest: Tensor, grads: QuantizedGradients, similarity: Similarity
    ) -> tuple[Tensor, Tensor]:
        """Gradients of z (B, L, D) and of the codebook (K, D), each in its own dtype.

        nearest (B, L): the clean indices that `quantize` returned.
        """
        ...
