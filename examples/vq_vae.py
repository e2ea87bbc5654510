"""A VQ-VAE on scikit-learn's handwritten digits, trained with latent perturbation and without.

    python examples/vq_vae.py

Both decoders then get tokens of held-out digits, a share of them replaced by a near code, like a generator's mistakes.
What to see: the plain one is the better while tokens are right, the perturbed one loses less as they go wrong.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import robustok

DELTA, HELD_OUT = 16, 297


class VQVAE(nn.Module):
    """Images (B, 1, 8, 8) in [-1, 1] <-> 4 x 4 tokens out of 128 codes."""

    def __init__(self, alpha: float, width: int = 64, dim: int = 8):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 1, 1),
            nn.SiLU(),
            nn.Conv2d(width, dim, 1),
        )
        self.vq = robustok.VectorQuantizer(
            dim, 128, similarity="cosine", alpha=alpha, delta=DELTA, kmeans_start=True, restart_after=50
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, width, 3, 1, 1), nn.SiLU(), nn.Conv2d(width, width, 3, 1, 1), nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
        )  # fmt: skip

    def forward(self, images: Tensor, sample_ids: Tensor) -> tuple[Tensor, Tensor]:
        quantized, _, loss = self.vq(self.encoder(images), sample_ids)
        return self.decoder(quantized), loss


def train(images: Tensor, alpha: float, steps: int) -> VQVAE:
    torch.manual_seed(0)
    model = VQVAE(alpha)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        ids = torch.randint(len(images), (64,), generator=torch.Generator().manual_seed(step))
        decoded, loss = model(images[ids], ids)
        loss = loss + F.mse_loss(decoded, images[ids])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def error(model: VQVAE, images: Tensor, alpha: float) -> float:
    """Mean squared error of decoded images, a share alpha of whose tokens are replaced by one of the DELTA nearest."""
    z = robustok.from_grid(model.encoder(images))
    out = robustok.vq_perturb(z, model.vq.codebook, alpha=alpha, beta=1, delta=DELTA, seed=0)
    return F.mse_loss(model.decoder(robustok.to_grid(out.z_q)), images).item()


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="training steps of each model (default 400)")
    steps = parser.parse_args(argv).steps
    images = torch.from_numpy(load_digits().images).float()[:, None] / 8 - 1
    seen, held_out = images[:-HELD_OUT], images[-HELD_OUT:]
    alphas, found = (0.0, 0.25, 0.5, 1.0), {}
    print("share of tokens replaced  " + "".join(f"{alpha:8.2f}" for alpha in alphas))
    for name, alpha in (("trained without", 0.0), ("trained with alpha = 0.5", 0.5)):
        model = train(seen, alpha, steps)
        found[name] = [error(model, held_out, alpha) for alpha in alphas]
        print(
            f"{name:26}"
            + "".join(f"{value:8.4f}" for value in found[name])
            + f"   {model.vq.usage():.0%} of codes used"
        )
    return found


if __name__ == "__main__":
    main()
