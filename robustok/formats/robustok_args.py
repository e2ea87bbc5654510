"""The training arguments that the authors' code expects in a tokenizer checkpoint."""

from argparse import Namespace

from ..core.errors import UserError
from ..model_configs import TokenizerConfig

# What the authors' loader reads of the training arguments, for a tokenizer that was not trained by their script.
RELEASED_ARGS = {
    "vq_model": "VQ-16",
    "commit_loss_beta": 0.25,
    "entropy_loss_ratio": 0.0,
    "dropout_p": 0.0,
    "enc_type": "dinov2",
    "dec_type": "dinov2",
    "semantic_guide": "dinov2",
    "detail_guide": "none",
    "guide_type_1": "class",
    "abs_pos_embed": True,
    "codebook_drop": 0.0,
    "half_sem": False,
    "start_drop": 3,
    "lfq": False,
    "clip_norm": False,
    "sem_loss_scale": 1.0,
    "sem_loss_weight": 0.1,
    "enc_tuning_method": "full",
    "dec_tuning_method": "full",
}
BACKBONES = {  # (width, depth) -> the name by which the authors' code builds it
    (384, 12): "vit_small_patch14_dinov2.lvd142m",
    (768, 12): "vit_base_patch14_dinov2.lvd142m",
    (1024, 24): "vit_large_patch14_dinov2.lvd142m",
}


def released_args(config: TokenizerConfig) -> Namespace:
    """Arguments with which the authors' code builds a tokenizer of `config`.

    Raises: UserError for a shape that their code cannot build.
    """
    encoder = config.width, config.depth
    decoder = config.decoder_width or config.width, config.decoder_depth or config.depth
    fits = (config.image_size, config.patch_size) == (256, 16) and config.layer_scale is not None
    if not fits or encoder not in BACKBONES or decoder not in BACKBONES:
        raise UserError(
            "the authors' code builds tokenizers for 256 pixels in patches of 16, of DINOv2's ViT-S, B or L with "
            f"LayerScale; found {config}"
        )
    grid = config.image_size // config.patch_size
    return Namespace(
        **RELEASED_ARGS,
        image_size=config.image_size,
        codebook_size=config.codebook_size,
        codebook_embed_dim=config.code_width,
        codebook_l2_norm=config.normalize,
        product_quant=config.codebooks,
        num_latent_tokens=config.num_latents or grid**2,
        share_quant_resi=config.residual_convs,
        v_patch_nums=list(config.scales or [round((config.num_latents or grid**2) ** 0.5)]),
        encoder_model=BACKBONES[encoder],
        decoder_model=BACKBONES[decoder],
    )
