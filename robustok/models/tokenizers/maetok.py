"""MAETok (arXiv 2502.03444) and SoftVQ (arXiv 2412.10958): continuous tokenizers whose latents are a sequence, no grid.

The encoder's outputs at L latent tokens are projected to D channels, the decoder's outputs at mask tokens are the
pixels of a patch (sequence_network.py). MAETok learns with hidden patches and auxiliary decoders
(masked_features.py); SoftVQ replaces each latent by an average of codes.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...model_configs import MAETokConfig
from ..precision import in_float32
from ..vit import join_patches, patch_grid
from .continuous import ContinuousBase
from .masked_features import MaskedFeatures
from .perturbation import Perturbation
from .sequence_network import SequenceDecoder, SequenceEncoder
from .soft_quantizer import SoftQuantizer


class MAEOutput(NamedTuple):
    """What one training forward gives; `images` are decoded from perturbed latents, and not clamped."""

    images: Tensor  # (B, 3, H, W)
    z: Tensor  # (B, L, D) before perturbation
    predictions: dict[str, Tensor]  # of the auxiliary decoders, by target: (B, P, F)


class MAETok(ContinuousBase):
    """Images <-> L latents of D channels. Images are float, (B, 3, H, W), in [-1, 1], of `image_size`.

    Attributes: config; image_size; num_latents L; latent_shape (L, D); patch_grid, patches along one side, or rows and
    columns of them.
    Raises: ValueError for sizes that do not fit together.
    """

    kind = "maetok"

    def __init__(self, config: MAETokConfig):
        super().__init__()
        decoder_patch = config.decoder_patch_size or config.patch_size
        _check(config)
        self.config, self.image_size, self.num_latents = config, config.image_size, config.num_latents
        self.patch_grid = patch_grid(config.image_size, config.patch_size)
        self.encoder = SequenceEncoder(
            config.num_latents,
            patch_size=config.patch_size,
            width=config.width,
            grid=self.patch_grid,
            depth=config.depth,
            heads=config.heads,
            mlp_ratio=config.mlp_ratio,
            layer_scale=config.layer_scale,
            drop_path=config.drop_path,
            rotary=config.rotary,
        )
        self.quant_conv = nn.Linear(config.width, config.latent_width)
        self.quantizer = (
            SoftQuantizer(
                config.codebooks,
                config.codebook_size,
                config.latent_width,
                normalize=config.normalize,
                temperature=config.temperature,
            )
            if config.codebooks
            else nn.Identity()
        )
        self.decoder = SequenceDecoder(
            self.latent_shape,
            3 * decoder_patch**2,
            grid=patch_grid(config.image_size, decoder_patch, "decoder_patch_size"),
            width=config.decoder_width or config.width,
            depth=config.decoder_depth or config.depth,
            heads=config.decoder_heads or config.heads,
            mlp_ratio=config.mlp_ratio,
            layer_scale=None if config.modulated_decoder else config.layer_scale,
            drop_path=config.drop_path,
            table=not config.rotary,
            class_token=config.decoder_class_token,
            rotary=config.rotary,
            modulated=config.modulated_decoder,
        )
        self.masked: MaskedFeatures | None = None
        if config.targets and config.target_widths is not None:
            self.predict(config.target_widths)

    def predict(self, target_widths: tuple[int, ...]) -> None:
        """Gives the tokenizer new auxiliary decoders: what its targets' widths are is known once a run has teachers."""
        config = self.config = replace(self.config, target_widths=target_widths)
        if len(target_widths) != len(config.targets):
            raise ValueError(f"target_widths: found {target_widths}, expected one for each of {config.targets}")
        shape = dict(width=config.auxiliary_width, depth=config.auxiliary_depth, heads=config.auxiliary_heads)
        shape |= dict(grid=self.patch_grid, mlp_ratio=config.mlp_ratio, layer_scale=None, drop_path=0.0)
        decoders = {
            name: SequenceDecoder(self.latent_shape, width, table=True, **shape)
            for name, width in zip(config.targets, target_widths, strict=True)
        }
        self.masked = MaskedFeatures(config.width, decoders).to(self.device)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(L, D) of `encode`'s result."""
        return self.config.num_latents, self.config.latent_width

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the layer that makes pixels: where the adaptive adversarial weight compares gradients."""
        return self.decoder.output.weight

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> z (B, L, D), float32; of SoftVQ averages of codes."""
        return self._encode(images)

    def _encode(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        images = self.checked_images(images)
        features = self.encoder(images, hidden, None if hidden is None else self.masked.mask_token)
        return in_float32(self.quantizer, in_float32(self.quant_conv, features))

    def decode(self, z: Tensor) -> Tensor:
        """Latents z (B, L, D) -> images (B, 3, H, W), not clamped."""
        return join_patches(self.decoder(self.checked_latents(z, "z")), self.decoder.transformer.grid)

    def forward(
        self, images: Tensor, *, hidden: Tensor | None = None, perturbation: Perturbation | None = None
    ) -> MAEOutput:
        """One training forward. hidden: bool (B, P), patches that the encoder does not see; perturbation: of latents
        for the pixel decoder. Auxiliary decoders get clean latents.
        """
        z = self._encode(images, hidden)
        decoded = self.decode(z if perturbation is None else perturbation.apply(z)[0])
        return MAEOutput(decoded, z, {} if self.masked is None else self.masked(z))

    def encoder_side(self) -> tuple[nn.Module, ...]:
        return self.encoder, self.quant_conv, self.quantizer

    def decoder_side(self) -> tuple[nn.Module, ...]:
        return (self.decoder,)


def shape_settings(config: MAETokConfig) -> dict[str, Any]:
    """The settings that decide the tensors of encoder and decoder, with defaults written out."""
    names = ("image_size", "patch_size", "width", "depth", "heads", "mlp_ratio", "num_latents", "latent_width")
    names += ("rotary", "decoder_class_token", "modulated_decoder", "codebooks", "codebook_size")
    names += ("normalize", "temperature")
    values = asdict(config)
    shape = {name: values[name] for name in names} | {"layer_scale": config.layer_scale is not None}
    decoder = {name: values[f"decoder_{name}"] or values[name] for name in ("patch_size", "width", "depth", "heads")}
    return shape | {f"decoder_{name}": value for name, value in decoder.items()}


def _check(config: MAETokConfig) -> None:
    low, high = config.hidden
    if not 0 <= low <= high < 1:
        raise ValueError(f"hidden must be two shares, the smaller first, below 1; found {config.hidden}")
    if high and not config.targets:
        raise ValueError("patches are hidden for auxiliary decoders to predict: give targets, or hidden [0, 0]")
    if config.codebooks and config.num_latents % config.codebooks:
        raise ValueError(f"codebooks must divide num_latents, found {config.codebooks} and {config.num_latents}")
