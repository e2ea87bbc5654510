"""What steps of training are measured against: the published computation as it is commonly written, eager, with one
backward pass for each gradient that is looked at, a full matrix of distances, a loop over parameters for the moving
average, and figures that are read in every step.

The tokenizer's networks are copies of ours: the step around them is what is compared. RAR's is written out.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustok.config import LossConfig, PerturbationConfig, TrainingConfig
from robustok.model_configs import RARConfig
from robustok.models.frozen.lpips import LPIPS

Augment = Callable[[Tensor, int], Tensor]  # (images, use) -> images as the discriminator sees them


def optimizer_of(parameters: list[nn.Parameter], training: TrainingConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, training.lr, tuple(training.betas), weight_decay=training.weight_decay)


def move_average(average: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for ours, new in zip(average.parameters(), model.parameters(), strict=True):
            ours.mul_(decay).add_(new, alpha=1 - decay)


def perceptual(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The distance of our frozen networks, both sides in one batch."""
    if isinstance(network, LPIPS):
        total = 0.0
        for feature, weight in zip(network._features(torch.cat([x, y])), network.linear, strict=True):
            a, b = (feature / (feature.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
            total = total + ((a - b) ** 2 * weight[:, None, None]).sum(1).mean((1, 2))
        return total.mean()
    pairs = [F.normalize(tap, dim=1).chunk(2) for tap in network.classifier.taps(torch.cat([x, y]))]
    return torch.stack([((a - b) ** 2).sum(1).mean((1, 2)) for a, b in pairs]).mean()


def quantize(z: Tensor, codebook: Tensor, perturbation: PerturbationConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(latents for the decoder, clean latents, vq loss, commitment loss), straight-through, of z (B, L, D).

    All distances of all tokens; a sorted list of the nearest codes of all tokens where any image is perturbed.
    """
    z, codes = F.normalize(z.float(), dim=-1), F.normalize(codebook.float(), dim=-1)
    flat = z.flatten(0, 1)
    distances = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
    nearest = distances.argmin(1)
    found = codes[nearest].view_as(z)
    vq, commit = (found - z.detach()).square().mean(), (found.detach() - z).square().mean()
    clean = z + (found - z).detach()
    count = int(perturbation.beta * len(z))
    if not count:
        return clean, clean, vq, commit
    near = distances.topk(perturbation.delta, largest=False).indices
    rank = torch.randint(perturbation.delta, (len(near), 1), device=z.device)
    drawn = near.gather(1, rank)[:, 0].view(z.shape[:2])
    chosen = torch.rand(z.shape[:2], device=z.device) < perturbation.alpha
    chosen[count:] = False
    indices = torch.where(chosen, drawn, nearest.view(z.shape[:2]))
    return z + (codes[indices] - z).detach(), clean, vq, commit


class NetworkStep:
    """Encoder and decoder alone, forward, backward and an optimiser's step, with the squared error and the quantiser's
    losses. quantized(model, images) -> (decoded images, vq loss, commitment loss).
    """

    def __init__(self, model: nn.Module, training: TrainingConfig, autocast: Callable, quantized: Callable):
        self.model, self.quantized, self.autocast = model, quantized, autocast
        self.optimizer = optimizer_of(list(model.parameters()), training)

    def __call__(self, images: Tensor) -> None:
        with self.autocast():
            decoded, vq, commit = self.quantized(self.model, images)
            loss = F.mse_loss(decoded.float(), images) + vq + 0.25 * commit
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def plainly_quantized(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Encoder, the full matrix of distances, decoder."""
    z_q, _, vq, commit = quantize(model.encode(images), model.codebook, PerturbationConfig(beta=0.0))
    return model.decode(z_q), vq, commit


class TokenizerStep:
    """Main training: a step of the tokenizer, then one of the discriminator; returns the figures that were read."""

    def __init__(self, stage, perturbation: PerturbationConfig, losses: LossConfig, augment: Augment):
        self.model, self.discriminator = copy.deepcopy(stage.model), copy.deepcopy(stage.adversary.trained.network)
        self.average, self.frozen, self.training = copy.deepcopy(self.model), stage.frozen, stage.training
        self.perturbation, self.losses, self.augment = perturbation, losses, augment
        settings = stage.run.config.discriminator
        self.optimizers = [
            optimizer_of(list(self.model.parameters()), self.training),
            optimizer_of(list(self.discriminator.parameters()), settings),
        ]
        self.real_mean = self.fake_mean = 0.0
        self.autocast = stage.run.autocast

    def __call__(self, pixels: Tensor) -> dict[str, float]:
        images = pixels.to(self.model.device).float() / 127.5 - 1
        with self.autocast():
            decoded, terms = self.decoder_losses(images)
        self.step(0, sum(terms.values()))
        move_average(self.average, self.model, self.training.ema)
        with self.autocast():
            terms["discriminator"] = self.discriminator_loss(images, decoded.detach())
        self.step(1, terms["discriminator"])
        return {name: value.item() for name, value in terms.items()}

    def decoder_losses(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        model, weights = self.model, self.losses
        z_q, clean, vq, commit = quantize(model.encode(images), model.codebook, self.perturbation)
        decoded = model.decode(z_q)
        pixels = weights.reconstruction * F.mse_loss(decoded.float(), images)
        seen = weights.perceptual * perceptual(self.frozen.perceptual, decoded.float(), images)
        with torch.no_grad():
            feature = self.frozen.teacher(images)
        feature = model.project(F.pad(feature, (0, model.config.width - feature.shape[1])))
        logits, target = feature @ clean.mean(1).T, torch.arange(len(images), device=images.device)
        semantic = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))
        adversarial = -self.discriminator(self.augment(decoded, 0)).float().mean()
        at = model.last_layer
        image_grad = torch.autograd.grad(pixels + seen, at, retain_graph=True)[0]
        other_grad = torch.autograd.grad(adversarial, at, retain_graph=True)[0]
        adaptive = (image_grad.norm() / (other_grad.norm() + 1e-4)).clamp(0, 1e4).detach()
        return decoded, {
            "reconstruction": pixels,
            "perceptual": seen,
            "vq": weights.vq * vq,
            "commit": weights.commit * commit,
            "semantic": weights.semantic * semantic,
            "adversarial": weights.adversarial * adaptive * adversarial,
        }

    def discriminator_loss(self, images: Tensor, decoded: Tensor) -> Tensor:
        fake = self.discriminator(self.augment(decoded, 1)).float()
        real = self.discriminator(self.augment(images, 2)).float()
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        self.real_mean = 0.999 * self.real_mean + 0.001 * real.mean().item()
        self.fake_mean = 0.999 * self.fake_mean + 0.001 * fake.mean().item()
        lecam = F.relu(real - self.fake_mean).square().mean() + F.relu(self.real_mean - fake).square().mean()
        return self.losses.adversarial * (hinge + self.losses.lecam * lecam)

    def step(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad()
        loss.backward()
        self.optimizers[which].step()


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = (nn.LayerNorm(width // heads, eps=1e-6) for _ in range(2))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        count, places, width = x.shape
        qkv = self.qkv(x).reshape(count, places, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, attn_mask=mask, is_causal=mask is None)
        return self.proj(x.transpose(1, 2).reshape(count, places, width))


class PlainBlock(nn.Module):
    def __init__(self, config: RARConfig):
        super().__init__()
        width = config.width
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = PlainAttention(width, config.heads), nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, config.mlp_width), nn.Linear(config.mlp_width, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, mask: Tensor | None) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(self.norm1(x) * (1 + scale1) + shift1, mask)
        return x + gate2 * self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(x) * (1 + scale2) + shift2)))


class PlainRAR(nn.Module):
    """The network on whole sequences, without dropout; its parameters have the published names, which are ours too.

    With a mask as published, or, where `says_causal`, told that it is causal, which has faster kernels.
    """

    def __init__(self, model: nn.Module, says_causal: bool = False):
        super().__init__()
        config, self.says_causal = model.config, says_causal
        self.config = config
        for name in ("cls_token", "pos_embed", "target_aware_pos_embed", "timesteps_embeddings"):
            setattr(self, name, nn.Parameter(torch.empty_like(getattr(model, name))))
        self.embeddings = nn.Embedding(*model.embeddings.weight.shape)
        self.blocks = nn.ModuleList(PlainBlock(config) for _ in range(config.depth))
        self.adaln_before_head = nn.Module()
        self.adaln_before_head.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 2 * config.width))
        self.lm_head = nn.Linear(config.width, config.codebook_size)
        self.load_state_dict(model.state_dict())

    def forward(self, tokens: Tensor, classes: Tensor, orders: Tensor) -> Tensor:
        """Logits (B, L, K) of tokens (B, L), already in their orders (B, L)."""
        count, length = tokens.shape
        condition = self.embeddings(classes + self.config.codebook_size + 1)[:, None]
        x = torch.cat([self.cls_token.expand(count, -1, -1), condition, self.embeddings(tokens[:, :-1])], 1)
        own, target = (table.expand(count, -1, -1) for table in (self.pos_embed, self.target_aware_pos_embed))
        places = (orders + 2)[..., None].expand(-1, -1, x.shape[-1])
        x = x + torch.cat([own[:, :2], own.gather(1, places[:, :-1])], 1)
        x = x + torch.cat([torch.zeros_like(x[:, :1]), target.gather(1, places)], 1)
        c = condition + self.timesteps_embeddings[:, : length + 1]
        mask = None
        if not self.says_causal:
            mask = torch.full((length + 1, length + 1), -torch.inf, device=x.device, dtype=x.dtype).triu(1)
        for block in self.blocks:
            x = block(x, c, mask)
        scale, shift = self.adaln_before_head.adaLN_modulation(c).chunk(2, dim=-1)
        x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
        return self.lm_head(x[:, 1:])


class RARStep:
    """A step of the generator; orders are drawn a sequence at a time. Returns the figures that were read.

    compile: the network is compiled as a whole, and told that it is causal.
    """

    def __init__(self, stage, share: float, compile: bool = False):
        self.model, self.training, self.share = PlainRAR(stage.model, compile), stage.training, share
        self.model.to(stage.run.device)
        self.average = copy.deepcopy(self.model)
        self.forward = torch.compile(self.model, dynamic=False) if compile else self.model
        self.optimizer = optimizer_of(list(self.model.parameters()), self.training)
        self.autocast = stage.run.autocast

    def __call__(self, tokens: Tensor, classes: Tensor) -> dict[str, float]:
        device, raster = self.average.lm_head.weight.device, torch.arange(tokens.shape[1])
        tokens, classes = tokens.to(device), classes.to(device)
        orders = [torch.randperm(len(raster)) if torch.rand(1).item() < self.share else raster for _ in tokens]
        orders = torch.stack(orders).to(device)
        tokens = tokens.gather(1, orders)
        with self.autocast():
            logits = self.forward(tokens, classes, orders)
        loss = F.cross_entropy(logits.float().transpose(1, 2), tokens)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip_norm)
        self.optimizer.step()
        move_average(self.average, self.model, self.training.ema)
        accuracy = (logits.argmax(-1) == tokens).float().mean()
        return {"loss": loss.item(), "accuracy": accuracy.item(), "norm": norm.item()}
