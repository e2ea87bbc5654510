"""The loss terms of main training and post-training, one small function each (METHOD.md section 2).

The vq and commitment terms come out of `robustok.vq_quantize`; the perceptual distance is a frozen network's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed


def reconstruction_loss(decoded: Tensor, images: Tensor) -> Tensor:
    """Mean squared error over all pixels of (B, 3, H, W) in [-1, 1]."""
    return F.mse_loss(decoded, images)


def semantic_loss(latents: Tensor, class_features: Tensor, logit_scale: float = 1.0) -> Tensor:
    """Symmetric InfoNCE over the global batch (paper, appendix A.2).

    Args:
        latents: (B, D) mean over positions of the clean quantised latents.
        class_features: (B, D) frozen class feature through the tokenizer's `quant_conv`.
    Neither is normalised; logits are inner products times `logit_scale`, in float32 under autocast, too. Gradients flow
    into both.
    """
    latents, class_features = distributed.gather(latents), distributed.gather(class_features)
    with torch.autocast(latents.device.type, enabled=False):
        logits = logit_scale * class_features.float() @ latents.float().T
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def hinge_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """0.5 (mean relu(1 - real) + mean relu(1 + fake)) of the discriminator's logits."""
    return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())


def hinge_generator_loss(fake: Tensor) -> Tensor:
    """-mean of the discriminator's logits on decoded images."""
    return -fake.mean()


def non_saturating_discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """0.5 (mean softplus(-real) + mean softplus(fake)): cross-entropy of telling real from decoded images."""
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def non_saturating_generator_loss(fake: Tensor) -> Tensor:
    """mean softplus(-fake)."""
    return F.softplus(-fake).mean()


ADVERSARIAL = {  # kind -> (discriminator's loss, decoder's loss)
    "hinge": (hinge_discriminator_loss, hinge_generator_loss),
    "non_saturating": (non_saturating_discriminator_loss, non_saturating_generator_loss),
}


def adaptive_weight(reconstruction_grad: Tensor, adversarial_grad: Tensor) -> Tensor:
    """Ratio of the two terms' gradient norms at the decoder's last layer, clamped to [0, 1e4]; no gradient.

    Both arguments are this process's gradients of the local mean losses; the norms are those of the global batch.
    """
    numerator = distributed.mean(reconstruction_grad).norm()
    denominator = distributed.mean(adversarial_grad).norm()
    return (numerator / (denominator + 1e-4)).clamp(0.0, 1e4)


class LeCAM:
    """LeCAM regularisation: keeps the discriminator's logits near the running mean of the other side.

    mean relu(real - ema_fake)^2 + mean relu(ema_real - fake)^2, after the averages (decay 0.999, start 0) took in the
    global batch. The two averages are `state`, a float64 (2,) tensor (real, fake) that belongs in the checkpoint; they
    stay as they are where logits are not finite.
    """

    def __init__(self, device: torch.device, decay: float = 0.999):
        self.decay = decay
        self.state = torch.zeros(2, dtype=torch.float64, device=device)

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        now = distributed.mean(torch.stack([real.detach().double().mean(), fake.detach().double().mean()]))
        updated = self.state.mul(self.decay).add_(now, alpha=1.0 - self.decay)
        self.state.copy_(torch.where(updated.isfinite(), updated, self.state))
        ema_real, ema_fake = self.state.to(real.dtype)
        return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()
