"""Plain reconstruction figures, and the networks besides Inception whose features are compared."""

import math

import pytest
import torch
from torch.nn import functional as F

from robustok.core.errors import UserError
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import pfid, psnr, ssim
from robustok.evaluation.features.classifier import ClassifierFeatures
from robustok.evaluation.features.dino import DinoFeatures
from robustok.evaluation.features.measuring import distance_name
from robustok.evaluation.reconstruction import evaluate_reconstruction
from robustok.model_configs import TokenizerConfig
from robustok.models.frozen.classifier import Classifier
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer
from robustok.models.vit import ViT


class Batches(list):
    name, transform, labels = "batches", "as stored", None

    def __len__(self):
        return sum(len(batch) for batch in self)


def mean_difference(x, y):
    """In the place of LPIPS."""
    return (x - y).abs().mean((1, 2, 3))


def test_figures_are_means_over_images_of_one_pass(pixels):
    torch.manual_seed(0)
    shape = TokenizerConfig(image_size=16, width=32, depth=1, heads=2, codebook_size=32, code_width=4)
    tokenizer = ViTTokenizer(shape).eval()
    images = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    found = evaluate_reconstruction(
        tokenizer, Batches(images.split(15)), pixels, lambda x, y: (x - y).abs().mean((1, 2, 3))
    )
    restored = to_uint8(tokenizer.reconstruct(from_uint8(images)))
    assert found.rfid == pytest.approx(pfid(tokenizer, images, pixels, alphas=(0.5,), deltas=(1,)).rfid, rel=1e-6)
    assert found.psnr == pytest.approx(float(psnr(restored, images).mean()), rel=1e-6)
    assert found.ssim == pytest.approx(float(ssim(restored, images).mean()), rel=1e-6)
    assert found.lpips == pytest.approx(
        float(mean_difference(from_uint8(restored), from_uint8(images)).mean()), rel=1e-5
    )
    assert int(found.usage.counts.sum()) == 40 * 4 and found.count == 40


def test_a_distance_that_is_no_number_is_seen(pixels):
    """Weights that overflow for one image: the mean over the others would be a figure of fewer images."""
    shape = TokenizerConfig(image_size=16, width=32, depth=1, heads=2, codebook_size=32, code_width=4)
    images = torch.randint(0, 256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    broken = evaluate_reconstruction(
        ViTTokenizer(shape).eval(), Batches([images]), pixels, lambda x, y: torch.tensor([0.1, torch.nan, 0.2, 0.3])
    )
    assert math.isnan(broken.lpips) and math.isfinite(broken.psnr)


@pytest.mark.parametrize("count, found", [(0, "none"), (1, "1")])
def test_fewer_than_two_images_are_refused_in_words(pixels, count, found):
    shape = TokenizerConfig(image_size=16, width=32, depth=1, heads=2, codebook_size=32, code_width=4)
    images = Batches([torch.zeros(count, 3, 16, 16, dtype=torch.uint8)] if count else [])
    with pytest.raises(UserError, match=f"images: found {found}, expected at least"):
        evaluate_reconstruction(ViTTokenizer(shape).eval(), images, pixels)


def test_dino_features_are_the_teachers_class_feature(tmp_path):
    torch.manual_seed(0)
    vit = ViT(grid=37, patch_size=14, width=64, depth=1, heads=1, mlp_ratio=4.0, layer_scale=1.0).eval()
    torch.save(vit.state_dict(), tmp_path / "dinov2.pth")
    network = DinoFeatures(tmp_path / "dinov2.pth", device="cpu", batch_size=2)
    images = torch.randint(0, 256, (3, 3, 40, 50), dtype=torch.uint8)
    found = network(images).features
    resized = F.interpolate(from_uint8(images), (224, 224), mode="bicubic", antialias=True).clamp(-1, 1)
    assert found.shape == (3, 64)
    with torch.no_grad():
        assert torch.allclose(found, network.network(resized), atol=1e-5)
    assert network.protocol == "dinov2-vit14-64/bicubic-antialias-224/float32"


def test_classifier_features_lead_to_its_logits():
    torch.manual_seed(0)
    classifier = Classifier(10, 32)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    found = ClassifierFeatures(classifier, "digits", batch_size=2)(images)
    with torch.no_grad():
        assert torch.allclose(found.logits, classifier(from_uint8(images)), atol=1e-5)


def test_a_callers_autocast_does_not_reach_the_features():
    torch.manual_seed(0)
    network = ClassifierFeatures(Classifier(10, 32), "digits")
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        found = network(images).features
    assert torch.equal(found, network(images).features)


def test_only_inceptions_distance_is_called_fid():
    assert distance_name("inception-v3-tf2015/tf1-bilinear-299/fast-float16") == "FID"
    assert distance_name("dinov2-vit14-768/bicubic-antialias-224/float32") == "FD"
