"""The tokenizer agrees with the authors' implementation: latents, indices, images, losses and gradients."""

import pytest
import torch
from torch.nn import functional as F

from robustok.models.frozen.dino import build_teacher
from robustok.models.load import open_checkpoint
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.training.losses import semantic_loss


@pytest.fixture(scope="module")
def checkpoint(golden_path):
    return open_checkpoint(golden_path / "tokenizer_ckpt.pt", num_heads=2)


@pytest.fixture(scope="module")
def reference(golden):
    return golden("tokenizer_io")


@pytest.fixture(params=["model", "ema"])
def weights(request):
    return request.param


def build(checkpoint, weights="model") -> ViTTokenizer:
    tokenizer = ViTTokenizer(checkpoint.config)
    tokenizer.load_state_dict(checkpoint.weights[weights])
    return tokenizer.eval()


def test_latents(checkpoint, reference, images, near):
    with torch.no_grad():
        tokenizer = build(checkpoint)
        near(tokenizer.encoder(images)[:, ::8, 0], reference["encoder_tokens_every8"], 1e-5)
        near(tokenizer.encode(images), reference["latents"].flatten(2).mT, 1e-5)


def test_indices_and_reconstruction(checkpoint, reference, images, near, weights):
    tokenizer, prefix = build(checkpoint, weights), "ema_" if weights == "ema" else ""
    indices = tokenizer.tokenize(images)
    assert torch.equal(indices, reference[prefix + "indices"].long())
    near(tokenizer.reconstruct(images)[:, :, 3::7, 5::7], reference[prefix + "recon_clamped_s7"], 1e-5)
    near(tokenizer.detokenize(indices)[:, :, 3::7, 5::7], reference[prefix + "recon_clamped_s7"], 1e-5)


def test_decode_is_not_clamped(checkpoint, reference, near):
    tokenizer = build(checkpoint)
    with torch.no_grad():
        decoded = tokenizer.decode(tokenizer.quantizer.lookup(reference["indices"].long()))
        random = tokenizer.decode(tokenizer.quantizer.lookup(reference["random_tokens"].long()))
    near(decoded[:, :, 3::7, 5::7], reference["decode_tokens_s7"], 1e-5)
    near(decoded[0, :, 40:104, 56:120], reference["decode_tokens_block0"], 1e-5)
    near(random[:, :, 3::7, 5::7], reference["random_tokens_decoded_s7"], 1e-5)


def test_quantised(checkpoint, reference, images, near):
    tokenizer = build(checkpoint)
    with torch.no_grad():
        near(tokenizer(images).z_q_clean, reference["quantised"].flatten(2).mT, 1e-6)


def test_semantic_class_feature(checkpoint, reference, images, near):
    teacher = build_teacher(checkpoint.teacher, checkpoint.config, "golden")
    near(teacher(images), reference["semantic_cls"], 1e-5)


def test_training_step(checkpoint, reference, images, near):
    """Losses and every parameter's gradient of the authors' training forward without perturbation."""
    tokenizer = build(checkpoint)  # evaluation mode only switches stochastic depth off
    out = tokenizer(images)
    class_feature = tokenizer.project(reference["semantic_cls"])
    semantic = 0.1 * semantic_loss(out.z_q.mean(1), class_feature)
    total = F.mse_loss(out.images, images) + out.vq_loss + 0.25 * out.commit_loss + semantic
    near(out.images[:, :, 3::7, 5::7], reference["train_dec_s7"], 1e-5)
    near(class_feature, reference["train_sem_feat"], 1e-5)
    near(out.z_q.mean(1), reference["train_quant_feat"], 1e-5)
    for found, name in (
        (out.vq_loss, "vq"),
        (0.25 * out.commit_loss, "commit"),
        (semantic, "sem"),
        (total, "total"),
    ):
        near(found, reference[f"train_{name}_loss"], 1e-5)
    assert torch.equal(out.usage.float(), reference["train_vocab_hits"])
    total.backward()
    norms, dots = released_gradients(tokenizer)
    for name, norm, dot in zip(
        reference["grad_names"], reference["train_grad_norm"], reference["train_grad_dot_param"], strict=True
    ):
        if name.startswith("semantic_model."):
            assert norm.isnan()
        else:
            assert norms[name] == pytest.approx(norm.item(), rel=1e-3), name
            assert dots[name] == pytest.approx(dot.item(), rel=1e-3, abs=1e-4 * norm.item()), name


def released_gradients(tokenizer: ViTTokenizer) -> tuple[dict[str, float], dict[str, float]]:
    """Gradient norms, and inner products with the parameters, under the released names."""
    ours = {
        "encoder.vit.": "encoder.model.",
        "encoder.level": "encoder.lvl_embed.weight",
        "quantizer.codebook": "quantize.embedding.weight",
        "decoder.vit.": "decoder.model.",
        "decoder.level": "decoder.lvl_embed.weight",
        "decoder.to_pixel.": "decoder.to_pixel.model.",
    }
    norms, dots = {}, {}
    for name, parameter in tokenizer.named_parameters():
        for old, new in ours.items():
            name = new + name.removeprefix(old) if name.startswith(old) else name
        norms[name] = parameter.grad.norm().item()
        dots[name] = (parameter.grad * parameter).sum().item()
    return norms, dots


def test_perturbed_step(checkpoint, reference, images, near):
    """With the authors' draws: what the decoder gets and makes of it; the codebook losses are those of clean codes."""
    tokenizer = build(checkpoint)
    alpha, beta, delta = reference["trainpert_config"].tolist()
    clean, candidates = reference["indices"].long(), reference["trainpert_candidates"].long()
    ranked = candidates.gather(2, reference["trainpert_r"].long()[..., None])[..., 0]
    chosen = torch.where(reference["trainpert_u"] <= alpha, ranked, clean)
    chosen[int(beta * len(images)) :] = clean[int(beta * len(images)) :]
    assert torch.equal(chosen, reference["trainpert_chosen"].long())
    with torch.no_grad():
        decoded = tokenizer.decode(tokenizer.quantizer.lookup(chosen))
        out = tokenizer(images)
    near(decoded[:, :, 3::7, 5::7], reference["trainpert_dec_s7"], 1e-5)
    near(out.vq_loss, reference["trainpert_vq_loss"], 1e-5)
    near(0.25 * out.commit_loss, reference["trainpert_commit_loss"], 1e-5)
    assert delta == candidates.shape[2]
