"""The kernel distance without bias: the squared MMD of all rows, with its bootstrap."""

from __future__ import annotations

from torch import Tensor

from ..intervals import BOOTSTRAP, Estimate
from ..resampling import Draws, times_drawn
from .kernel import TILE, polynomial


class UnbiasedKernelDistance:
    """Squared maximum mean discrepancy from a reference by KID's kernel, (x.y / F + 1)³, unbiased and in float64.

    Bińkowski et al. 2018, section 4, without subsets: every pair of rows counts. Its expectation does not depend on how
    many images there are; near zero it may be negative. No image is paired with itself: not a row with itself, not a
    row with its other copy in a replica, and where the sets are paired not a reconstruction with its original, whose
    likeness would make the distance too small. Where both sides have one distribution the bootstrap's interval is too
    wide (a degenerate U-statistic; by a factor of about 1.7): it finds too few differences there, not too many.
    """

    def __init__(self, reference: Tensor, draws: Draws):
        """reference: (M, F), any floating dtype; float64 (201, M) and a tile of TILE x max(N, M) kernel values are kept
        or held at a time.
        """
        self.reference, self.paired = reference.double(), draws.paired
        self.weights, self.reference_weights = (times_drawn(rows).double() for rows in (draws.samples, draws.reference))
        self.within = _mean_pair(self.reference, self.reference, self.reference_weights, self.reference_weights, True)

    def of(self, samples: Tensor) -> Estimate:
        """Of samples (N, F), N as in the draws."""
        samples, weights = samples.double(), self.weights
        within = _mean_pair(samples, samples, weights, weights, True)
        across = _mean_pair(samples, self.reference, weights, self.reference_weights, self.paired)
        values = (within + self.within - 2 * across).cpu()
        return Estimate(float(values[0]), values[1:], BOOTSTRAP)


def _mean_pair(x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, same_images: bool) -> Tensor:
    """(R,) the mean kernel value of pairs of rows, each as often as its line of weights (R, N), (R, M) has it.

    same_images: row i of both is of one image, and no image is paired with itself.
    """
    total, start = of_x.new_zeros(len(of_x)), 0
    for rows in x.split(TILE):
        values, stop = polynomial(rows, y), start + len(rows)
        if same_images:
            values[:, start:stop].fill_diagonal_(0)
        total += ((of_x[:, start:stop] @ values) * of_y).sum(1)
        start = stop
    pairs = of_x.sum(1) * of_y.sum(1)
    return total / (pairs - (of_x * of_y).sum(1) if same_images else pairs)
