"""The shape of every family of models, as frozen dataclasses: what a checkpoint stores of a model beside its weights.

`None` in a generator's shape, or for the number of codes of a tokenizer that a run trains, stands for what the
tokenizer and the data decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .core.settings import setting


@dataclass(frozen=True)
class OfImages:
    """What the configs of all tokenizers share: `image_size`, in pixels, is a number (both sides of a square) or a pair
    (height, width); a pair of equal sides becomes the number, so that each size has one spelling.
    """

    def __post_init__(self) -> None:
        size = self.image_size
        if isinstance(size, tuple) and len(size) == 2 and size[0] == size[1]:
            object.__setattr__(self, "image_size", size[0])


@dataclass(frozen=True)
class TokenizerConfig(OfImages):
    """Shape of the tokenizer (METHOD.md section 2: ViT encoder and decoder, one vector quantiser)."""

    image_size: int | tuple[int, int] = setting(32, "[1, 10000]")  # pixels: a number, or [height, width]
    patch_size: int = setting(8, "[1, 2**14]")
    width: int = setting(128, "[1, 2**16]")
    depth: int = setting(4, "[1, 1024]")
    heads: int = setting(4, "[1, 1024]")
    # None: the decoder is as wide, as deep and has as many heads as the encoder
    decoder_width: int | None = setting(None, "[1, 2**16]")
    decoder_depth: int | None = setting(None, "[1, 1024]")
    decoder_heads: int | None = setting(None, "[1, 1024]")
    mlp_ratio: float = setting(4.0, "(0, 1024]")
    layer_scale: float | None = setting(1e-5, "[0, inf)")  # initial value of LayerScale; None: no LayerScale
    drop_path: float = setting(0.0, "[0, 1)")  # stochastic depth, rising linearly over the blocks
    num_latents: int | None = setting(None, "[1, 2**20]")  # L; None: as many as patches
    codebook_size: int | None = setting(256, "[1, 2**20]")  # K
    code_width: int = setting(8, "[1, 2**16]")  # D
    normalize: bool = True  # compare l2-normalised vectors
    # Q; more than one: product quantisation, code_width is that of each (XQ-GAN)
    codebooks: int = setting(1, "[1, 1024]")
    # grids of residual multi-scale codes, the latents' own last; None: one
    scales: tuple[int, ...] | None = setting(None, "[1, 2**14]")
    residual_convs: int = setting(4, "[0, 1024]")  # convolutions that the scales share


@dataclass(frozen=True)
class ConvTokenizerConfig(OfImages):
    """Shape of a convolutional tokenizer (VQGAN and its successors), and how its latents are compared with codes."""

    # that it is used at; the network takes any multiple of a latent's side
    image_size: int | tuple[int, int] = setting(256, "[1, 10000]")
    style: Literal["vqgan", "maskgit"] = "vqgan"  # of the network, see models/tokenizers/conv_layers.py
    # channels of each level, the highest resolution first
    widths: tuple[int, ...] = setting((128, 128, 256, 256, 512), "[1, 2**16]")
    decoder_widths: tuple[int, ...] | None = setting(None, "[1, 2**16]")  # None: as the encoder's
    stem_width: int = setting(128, "[1, 2**16]")  # channels of the encoder's first convolution
    blocks: int = setting(2, "[1, 1024]")  # residual blocks a level of the encoder
    decoder_blocks: int = setting(3, "[1, 1024]")  # and of the decoder
    # levels with attention; 0 is the highest resolution
    attention: tuple[int, ...] = setting((4,), "[0, 1024)", empty=True)
    middle_blocks: int = setting(2, "[0, 1024]")
    middle_attention: bool = True
    feature_width: int = setting(256, "[1, 2**16]")  # channels between encoder and quantiser
    projected: bool = True  # 1x1 convolutions from features to latents and back; False: features are the latents
    codebook_size: int = setting(16384, "[1, 2**20]")  # K
    code_width: int = setting(8, "[1, 2**16]")  # D
    similarity: Literal["l2", "cosine", "dot"] = "l2"  # what a latent's code is: nearest, by angle, largest product
    # of the images that the network itself was trained on
    value_range: tuple[float, float] = setting((-1.0, 1.0), "[-1000, 1000]")


@dataclass(frozen=True)
class GigaTokConfig(OfImages):
    """Shape of a tokenizer of convolutions and transformers whose tokens are a sequence (GigaTok): B-L as it stands."""

    image_size: int | tuple[int, int] = setting(256, "[1, 10000]")
    # of the convolutions, see ConvTokenizerConfig
    widths: tuple[int, ...] = setting((128, 128, 256, 256, 512), "[1, 2**16]")
    decoder_widths: tuple[int, ...] | None = setting(None, "[1, 2**16]")
    stem_width: int = setting(128, "[1, 2**16]")
    blocks: int = setting(2, "[1, 1024]")
    decoder_blocks: int = setting(3, "[1, 1024]")
    feature_width: int = setting(256, "[1, 2**16]")  # channels between convolutions, transformers and quantiser
    # of the transformer that reads the image; small 512, base 768, large 1024, XL 1280, XXL 1536
    width: int = setting(768, "[1, 2**16]")
    depth: int = setting(12, "[1, 1024]")  # small 6, base 12, large 24, XL 36, XXL 48
    heads: int = setting(12, "[1, 1024]")
    decoder_width: int = setting(1024, "[1, 2**16]")  # of the one that reads the tokens
    decoder_depth: int = setting(24, "[1, 1024]")
    decoder_heads: int = setting(16, "[1, 1024]")
    mlp_ratio: float = setting(4.0, "(0, 1024]")
    num_latents: int = setting(256, "[1, 2**20]")  # L, a power of two
    codebook_size: int = setting(16384, "[1, 2**20]")  # K
    code_width: int = setting(8, "[1, 2**16]")  # D
    # of the features that its training predicts; None: it has no head for them
    semantic_width: int | None = setting(768, "[1, 2**16]")


@dataclass(frozen=True)
class MAETokConfig(OfImages):
    """Shape of a continuous tokenizer whose latents are a sequence (MAETok, SoftVQ), and its masked training."""

    image_size: int | tuple[int, int] = setting(256, "[1, 10000]")
    patch_size: int = setting(16, "[1, 2**14]")
    width: int = setting(768, "[1, 2**16]")
    depth: int = setting(12, "[1, 1024]")
    heads: int = setting(12, "[1, 1024]")
    decoder_patch_size: int | None = setting(None, "[1, 2**14]")  # None: as the encoder's; the same for the others
    decoder_width: int | None = setting(None, "[1, 2**16]")
    decoder_depth: int | None = setting(None, "[1, 1024]")
    decoder_heads: int | None = setting(None, "[1, 1024]")
    mlp_ratio: float = setting(4.0, "(0, 1024]")
    layer_scale: float | None = setting(1e-5, "[0, inf)")  # initial value of LayerScale; None: no LayerScale
    drop_path: float = setting(0.0, "[0, 1)")
    num_latents: int = setting(128, "[1, 2**20]")  # L
    latent_width: int = setting(32, "[1, 2**16]")  # D
    # rotary positions of image tokens: beside the table in the encoder, in its place in the decoder
    rotary: bool = False
    decoder_class_token: bool = True
    modulated_decoder: bool = False  # the latents scale and shift the decoder's normalised values
    # SoftVQ: latents are averages of codes, of so many codebooks; 0: none (MAETok)
    codebooks: int = setting(0, "[0, 1024]")
    codebook_size: int = setting(0, "[0, 2**20]")
    normalize: bool = True  # unit vectors are compared
    temperature: float = setting(0.07, "(0, inf)")  # of the average
    # of a published tokenizer: its generators work on (latent - mean) / std
    latent_mean: float = setting(0.0, "(-inf, inf)")
    latent_std: float = setting(1.0, "(0, inf)")
    # features that auxiliary decoders predict
    targets: tuple[Literal["hog", "teacher"], ...] = setting(("hog", "teacher"), empty=True)
    # of each target; None: what the run's frozen networks have
    target_widths: tuple[int, ...] | None = setting(None, "[1, 2**16]")
    target_weight: float = setting(1.0, "[0, inf)")  # of each target's loss
    auxiliary_width: int = setting(192, "[1, 2**16]")  # of the auxiliary decoders
    auxiliary_depth: int = setting(3, "[1, 1024]")
    auxiliary_heads: int = setting(3, "[1, 1024]")
    # share of the patches hidden in training, smallest and largest
    hidden: tuple[float, float] = setting((0.4, 0.6), "[0, 1)")
    hidden_until: float | None = setting(None, "[0, inf)")  # epochs; from here on all patches are seen; None: never


@dataclass(frozen=True)
class TiTokConfig(OfImages):
    """Shape of a tokenizer whose tokens are a sequence (TiTok), and how its latents are compared with codes.

    As it stands here: the published SL-256. With `pixel_widths` it is two-stage: its decoder predicts codes of a
    convolutional tokenizer.
    """

    image_size: int | tuple[int, int] = setting(256, "[1, 10000]")
    patch_size: int = setting(16, "[1, 2**14]")
    width: int = setting(512, "[1, 2**16]")
    depth: int = setting(8, "[1, 1024]")
    heads: int = setting(8, "[1, 1024]")
    decoder_patch_size: int | None = setting(None, "[1, 2**14]")  # None: as the encoder's; the same for the others
    decoder_width: int | None = setting(1024, "[1, 2**16]")
    decoder_depth: int | None = setting(24, "[1, 1024]")
    decoder_heads: int | None = setting(16, "[1, 1024]")
    mlp_ratio: float = setting(4.0, "(0, 1024]")
    num_latents: int = setting(256, "[1, 2**20]")  # L
    codebook_size: int = setting(8192, "[1, 2**20]")  # K
    code_width: int = setting(64, "[1, 2**16]")  # D
    similarity: Literal["l2", "cosine", "dot"] = "l2"
    # levels of the pixel decoder, the highest resolution first; None: none
    pixel_widths: tuple[int, ...] | None = setting(None, "[1, 2**16]")
    pixel_blocks: int = setting(2, "[1, 1024]")  # residual blocks a level
    pixel_middle_blocks: int = setting(2, "[1, 1024]")
    pixel_codes: int = setting(1024, "[1, 2**20]")
    pixel_code_width: int = setting(256, "[1, 2**16]")


@dataclass(frozen=True)
class ConvVAEConfig(OfImages):
    """Shape of a convolutional variational autoencoder (diffusers' AutoencoderKL)."""

    image_size: int | tuple[int, int] = setting(256, "[1, 10000]")
    # channels of each level, the highest resolution first
    widths: tuple[int, ...] = setting((128, 256, 512, 512), "[1, 2**16]")
    blocks: int = setting(2, "[1, 1024]")  # residual blocks a level of the encoder; the decoder has one more
    middle_attention: bool = True
    latent_width: int = setting(4, "[1, 2**16]")  # D
    quant_conv: bool = True  # 1x1 convolution after the encoder
    post_quant_conv: bool = True  # and before the decoder
    # of a published one: its generators work on (latent - shift) * scaling
    scaling_factor: float = setting(1.0, "(0, inf)")
    shift_factor: float = setting(0.0, "(-inf, inf)")

    @property
    def latent_mean(self) -> float:
        """Mean and standard deviation in place of shift and scaling, as other tokenizers name them."""
        return self.shift_factor

    @property
    def latent_std(self) -> float:
        return 1.0 / self.scaling_factor


@dataclass(frozen=True)
class RARConfig:
    """Shape of the generator (section 5), and its dropout."""

    width: int = setting(768, "[1, 2**16]")
    depth: int = setting(24, "[1, 1024]")
    heads: int = setting(16, "[1, 1024]")
    mlp_width: int = setting(3072, "[1, 2**16]")
    dropout: float = setting(0.1, "[0, 1]")
    attention_dropout: float = setting(0.1, "[0, 1]")
    class_dropout: float = setting(0.1, "[0, 1]")
    codebook_size: int | None = setting(None, "[1, 2**20]")
    num_classes: int | None = setting(None, "[1, 2**31)")
    num_tokens: int | None = setting(None, "[1, 2**20]")  # L


@dataclass(frozen=True)
class LlamaGenConfig:
    """Shape of LlamaGen's GPT (section 5), and its dropout: GPT-B as it stands here.

    Published: B 768 x 12 layers, 12 heads, MLP 2048; L 1024 x 24, 16, 2816; XL 1280 x 36, 20, 3584.
    """

    width: int = setting(768, "[1, 2**16]")
    depth: int = setting(12, "[1, 1024]")
    heads: int = setting(12, "[1, 1024]")
    # heads of keys and values, each shared by heads / kv_heads query heads; None: as heads
    kv_heads: int | None = setting(None, "[1, 1024]")
    mlp_width: int = setting(2048, "[1, 2**16]")
    positions: Literal["grid", "line"] = "grid"  # rotary, of each token's row and column, or of its number alone
    rows: int | None = setting(None, "[1, 2**14]")  # of the grid; None: a square
    dropout: float = setting(0.1, "[0, 1]")  # of what attention and MLP add
    token_dropout: float = setting(0.1, "[0, 1]")  # of the embedded sequence
    class_dropout: float = setting(0.1, "[0, 1]")
    codebook_size: int | None = setting(None, "[1, 2**20]")
    num_classes: int | None = setting(None, "[1, 2**31)")
    num_tokens: int | None = setting(None, "[1, 2**20]")  # L


@dataclass(frozen=True)
class SiTConfig:
    """Shape of a flow generator on latents (SiT, LightningDiT), and what its training draws."""

    width: int = setting(768, "[1, 2**16]")
    depth: int = setting(12, "[1, 1024]")
    heads: int = setting(12, "[1, 1024]")
    mlp_ratio: float = setting(4.0, "(0, 1024]")
    grid: bool = False  # the latents are a grid, read row by row and taken in patches; else a sequence
    rows: int | None = setting(None, "[1, 2**14]")  # of the grid; None: a square
    patch_size: int = setting(1, "[1, 2**14]")  # latents along one side of a patch of the grid
    qk_norm: bool = False
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    rope: bool = False  # rotary positions in attention, beside the added ones
    path: Literal["linear", "cosine"] = "linear"  # between data and noise
    times: Literal["lognormal", "uniform"] = "lognormal"  # how training draws them
    class_dropout: float = setting(0.1, "[0, 1]")
    num_classes: int | None = setting(None, "[1, 2**31)")
    num_latents: int | None = setting(None, "[1, 2**20]")  # L
    latent_width: int | None = setting(None, "[1, 2**16]")  # D
    # Of each of the D numbers over the training data: the network sees (latent - mean) / std. None: latents as they are
    latent_mean: tuple[float, ...] | None = setting(None, "(-inf, inf)")
    latent_std: tuple[float, ...] | None = setting(None, "(0, inf)")
