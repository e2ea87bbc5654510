"""The shape of every family of models, as frozen dataclasses: what a checkpoint stores of a model beside its weights.

`None` in a generator's shape stands for what the tokenizer and the data decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TokenizerConfig:
    """Shape of the tokenizer (METHOD.md section 2: ViT encoder and decoder, one vector quantiser)."""

    image_size: int = 32
    patch_size: int = 8
    width: int = 128
    depth: int = 4
    heads: int = 4
    decoder_width: int | None = None  # None: the decoder is as wide, as deep and has as many heads as the encoder
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-5  # initial value of LayerScale; None: no LayerScale
    drop_path: float = 0.0  # stochastic depth, rising linearly over the blocks
    num_latents: int | None = None  # L; None: as many as patches
    codebook_size: int = 256  # K
    code_width: int = 8  # D
    normalize: bool = True  # compare l2-normalised vectors
    codebooks: int = 1  # Q; more than one: product quantisation, code_width is that of each (XQ-GAN)
    scales: tuple[int, ...] | None = None  # grids of residual multi-scale codes, the latents' own last; None: one
    residual_convs: int = 4  # convolutions that the scales share


@dataclass(frozen=True)
class ConvTokenizerConfig:
    """Shape of a convolutional tokenizer (VQGAN and its successors), and how its latents are compared with codes."""

    image_size: int = 256  # pixels along one side that it is used at; the network takes any multiple of a latent's side
    style: Literal["vqgan", "maskgit"] = "vqgan"  # of the network, see models/tokenizers/conv_layers.py
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)  # channels of each level, the highest resolution first
    decoder_widths: tuple[int, ...] | None = None  # None: as the encoder's
    stem_width: int = 128  # channels of the encoder's first convolution
    blocks: int = 2  # residual blocks a level of the encoder
    decoder_blocks: int = 3  # and of the decoder
    attention: tuple[int, ...] = (4,)  # levels with attention; 0 is the highest resolution
    middle_blocks: int = 2
    middle_attention: bool = True
    feature_width: int = 256  # channels between encoder and quantiser
    projected: bool = True  # 1x1 convolutions from features to latents and back; False: features are the latents
    codebook_size: int = 16384  # K
    code_width: int = 8  # D
    similarity: Literal["l2", "cosine", "dot"] = "l2"  # what a latent's code is: nearest, by angle, largest product
    value_range: tuple[float, float] = (-1.0, 1.0)  # of the images that the network itself was trained on


@dataclass(frozen=True)
class GigaTokConfig:
    """Shape of a tokenizer of convolutions and transformers whose tokens are a sequence (GigaTok): B-L as it stands."""

    image_size: int = 256
    widths: tuple[int, ...] = (128, 128, 256, 256, 512)  # of the convolutions, see ConvTokenizerConfig
    decoder_widths: tuple[int, ...] | None = None
    stem_width: int = 128
    blocks: int = 2
    decoder_blocks: int = 3
    feature_width: int = 256  # channels between convolutions, transformers and quantiser
    width: int = 768  # of the transformer that reads the image; small 512, base 768, large 1024, XL 1280, XXL 1536
    depth: int = 12  # small 6, base 12, large 24, XL 36, XXL 48
    heads: int = 12
    decoder_width: int = 1024  # of the one that reads the tokens
    decoder_depth: int = 24
    decoder_heads: int = 16
    mlp_ratio: float = 4.0
    num_latents: int = 256  # L, a power of two
    codebook_size: int = 16384  # K
    code_width: int = 8  # D
    semantic_width: int | None = 768  # of the features that its training predicts; None: it has no head for them


@dataclass(frozen=True)
class MAETokConfig:
    """Shape of a continuous tokenizer whose latents are a sequence (MAETok, SoftVQ), and its masked training."""

    image_size: int = 256
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    decoder_patch_size: int | None = None  # None: as the encoder's; the same for the others
    decoder_width: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None
    mlp_ratio: float = 4.0
    layer_scale: float | None = 1e-5  # initial value of LayerScale; None: no LayerScale
    drop_path: float = 0.0
    num_latents: int = 128  # L
    latent_width: int = 32  # D
    rotary: bool = (
        False  # rotary positions of image tokens: beside the table in the encoder, in its place in the decoder
    )
    decoder_class_token: bool = True
    modulated_decoder: bool = False  # the latents scale and shift the decoder's normalised values
    codebooks: int = 0  # SoftVQ: latents are averages of codes, of so many codebooks; 0: none (MAETok)
    codebook_size: int = 0
    normalize: bool = True  # unit vectors are compared
    temperature: float = 0.07  # of the average
    latent_mean: float = 0.0  # of a published tokenizer: its generators work on (latent - mean) / std
    latent_std: float = 1.0
    targets: tuple[Literal["hog", "teacher"], ...] = ("hog", "teacher")  # features that auxiliary decoders predict
    target_widths: tuple[int, ...] | None = None  # of each target; None: what the run's frozen networks have
    target_weight: float = 1.0  # of each target's loss
    auxiliary_width: int = 192  # of the auxiliary decoders
    auxiliary_depth: int = 3
    auxiliary_heads: int = 3
    hidden: tuple[float, float] = (0.4, 0.6)  # share of the patches hidden in training, smallest and largest
    hidden_until: float | None = None  # epochs; from here on all patches are seen; None: never


@dataclass(frozen=True)
class TiTokConfig:
    """Shape of a tokenizer whose tokens are a sequence (TiTok), and how its latents are compared with codes.

    As it stands here: the published SL-256. With `pixel_widths` it is two-stage: its decoder predicts codes of a
    convolutional tokenizer.
    """

    image_size: int = 256
    patch_size: int = 16
    width: int = 512
    depth: int = 8
    heads: int = 8
    decoder_patch_size: int | None = None  # None: as the encoder's; the same for the others
    decoder_width: int | None = 1024
    decoder_depth: int | None = 24
    decoder_heads: int | None = 16
    mlp_ratio: float = 4.0
    num_latents: int = 256  # L
    codebook_size: int = 8192  # K
    code_width: int = 64  # D
    similarity: Literal["l2", "cosine", "dot"] = "l2"
    pixel_widths: tuple[int, ...] | None = None  # levels of the pixel decoder, the highest resolution first; None: none
    pixel_blocks: int = 2  # residual blocks a level
    pixel_middle_blocks: int = 2
    pixel_codes: int = 1024
    pixel_code_width: int = 256


@dataclass(frozen=True)
class ConvVAEConfig:
    """Shape of a convolutional variational autoencoder (diffusers' AutoencoderKL)."""

    image_size: int = 256
    widths: tuple[int, ...] = (128, 256, 512, 512)  # channels of each level, the highest resolution first
    blocks: int = 2  # residual blocks a level of the encoder; the decoder has one more
    middle_attention: bool = True
    latent_width: int = 4  # D
    quant_conv: bool = True  # 1x1 convolution after the encoder
    post_quant_conv: bool = True  # and before the decoder
    scaling_factor: float = 1.0  # of a published one: its generators work on (latent - shift) * scaling
    shift_factor: float = 0.0

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

    width: int = 768
    depth: int = 24
    heads: int = 16
    mlp_width: int = 3072
    dropout: float = 0.1
    attention_dropout: float = 0.1
    class_dropout: float = 0.1
    codebook_size: int | None = None
    num_classes: int | None = None
    num_tokens: int | None = None  # L


@dataclass(frozen=True)
class LlamaGenConfig:
    """Shape of LlamaGen's GPT (section 5), and its dropout: GPT-B as it stands here.

    Published: B 768 x 12 layers, 12 heads, MLP 2048; L 1024 x 24, 16, 2816; XL 1280 x 36, 20, 3584.
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    kv_heads: int | None = None  # heads of keys and values, each shared by heads / kv_heads query heads; None: as heads
    mlp_width: int = 2048
    positions: Literal["grid", "line"] = "grid"  # rotary, of each token's row and column, or of its number alone
    dropout: float = 0.1  # of what attention and MLP add
    token_dropout: float = 0.1  # of the embedded sequence
    class_dropout: float = 0.1
    codebook_size: int | None = None
    num_classes: int | None = None
    num_tokens: int | None = None  # L


@dataclass(frozen=True)
class SiTConfig:
    """Shape of a flow generator on latents (SiT, LightningDiT), and what its training draws."""

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    grid: bool = False  # the latents are a square grid, read row by row and taken in patches; else a sequence
    patch_size: int = 1  # latents along one side of a patch of the grid
    qk_norm: bool = False
    norm: Literal["layer", "rms"] = "layer"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    rope: bool = False  # rotary positions in attention, beside the added ones
    path: Literal["linear", "cosine"] = "linear"  # between data and noise
    times: Literal["lognormal", "uniform"] = "lognormal"  # how training draws them
    class_dropout: float = 0.1
    num_classes: int | None = None
    num_latents: int | None = None  # L
    latent_width: int | None = None  # D
    latent_mean: tuple[float, ...] | None = None  # of each of the D numbers over the training data; the network sees
    latent_std: tuple[float, ...] | None = None  # (latent - mean) / std. None: it sees latents as they are
