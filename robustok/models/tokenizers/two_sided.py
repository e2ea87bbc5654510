"""What all tokenizers share that can be trained: an encoder side, which can be frozen, and a decoder side."""

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from ...core.sizes import Size, sides
from ..saving import Pretrained


class TwoSidedTokenizer(Pretrained):
    """A family defines `encode`, `decode`, `latent_shape`, `last_layer`, `encoder_side` and `decoder_side`."""

    image_size: Size  # in pixels
    latent_shape: tuple[int, int]  # (L, D) of `encode`'s result
    _encoder_frozen = False

    def encode(self, images: Tensor) -> Tensor:
        """Images -> z (B, L, D), float32."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, L, D), as the decoder takes them -> images, not clamped."""
        raise NotImplementedError

    def encoder_side(self) -> tuple[nn.Module, ...]:
        """The modules that turn images into tokens or latents."""
        raise NotImplementedError

    def decoder_side(self) -> tuple[nn.Module, ...]:
        """The modules that turn them into images."""
        raise NotImplementedError

    def checked_images(self, images: Tensor) -> Tensor:
        """Images in the dtype of the weights; ValueError unless they are what a tokenizer of one size encodes."""
        height, width = sides(self.image_size)
        if images.ndim != 4 or images.shape[1:] != (3, height, width) or not images.is_floating_point():
            found = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"images must be floating point (B, 3, {height}, {width}) in [-1, 1], found {found}")
        return images.to(self.dtype)

    def checked_latents(self, z: Tensor, name: str) -> Tensor:
        """Latents in the dtype of the weights; ValueError, which calls them `name`, unless they are (B, L, D)."""
        if z.ndim != 3 or z.shape[1:] != self.latent_shape:
            raise ValueError(f"{name} must be (B, {', '.join(map(str, self.latent_shape))}), found {tuple(z.shape)}")
        return z.to(self.dtype)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights: float32 where nothing else was asked for, or float16, bfloat16 or float64."""
        return next(self.parameters()).dtype

    def encoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that the tokens or latents of an image depend on."""
        return chain.from_iterable(module.parameters() for module in self.encoder_side())

    def decoder_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters of the decoder side."""
        return chain.from_iterable(module.parameters() for module in self.decoder_side())

    def freeze_encoder(self) -> None:
        """Stop all but the decoder side from learning, with the encoder side in evaluation mode for good."""
        decoder = {id(parameter) for parameter in self.decoder_parameters()}
        for parameter in self.parameters():
            if id(parameter) not in decoder:
                parameter.requires_grad_(False)
        self._encoder_frozen = True
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        if self._encoder_frozen:
            for module in self.encoder_side():
                module.eval()
        return self
