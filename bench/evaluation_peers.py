"""What evaluation is measured against: the field's own ways of doing the same, written plainly or imported."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustok import vq_perturb
from robustok.data.transforms import from_uint8, to_uint8
from robustok.evaluation import FeatureStatistics, frechet_distance
from robustok.evaluation.features.inception import normalize, tf1_resize
from robustok.models.frozen.inception import Inception, load_inception

from .ops_peers import authors_perturb, authors_quantize


def random_inception(path: Path) -> Path:
    """Weights of a randomly initialised network: speed does not depend on their values."""
    torch.manual_seed(0)
    torch.save(Inception().state_dict(), path)
    return path


def torch_fidelity_features(weights: Path, device: str) -> Callable[[Tensor], Tensor] | None:
    """torch-fidelity's extractor: uint8 (B, 3, H, W) -> (B, 2048). None: not installed, or without what it needs."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        return None
    extractor = FeatureExtractorInceptionV3("peer", ["2048"], feature_extractor_weights_path=str(weights)).to(device)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return extractor(images)[0]

    return features


def compiled_half_features(weights: Path, device: str) -> Callable[[Tensor], Tensor]:
    """What a user gets from torch.compile, float16 and channels last, with nothing else changed."""
    network = load_inception(weights).to(device).half().to(memory_format=torch.channels_last)

    @torch.compile(dynamic=False)
    def forward(images: Tensor) -> Tensor:
        inputs = normalize(tf1_resize(images.float())).half()
        return network(inputs.contiguous(memory_format=torch.channels_last)).features

    return torch.no_grad()(forward)


def sqrtm_distance(features: Tensor, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """FID as most tools take it: numpy's covariance and scipy's matrix square root, in float64 on the CPU."""
    from scipy.linalg import sqrtm

    rows = features.double().cpu().numpy()
    mean, covariance = rows.mean(axis=0), np.cov(rows, rowvar=False)
    root = sqrtm(covariance @ reference[1])
    shift = mean - reference[0]
    return float(shift @ shift + np.trace(covariance) + np.trace(reference[1]) - 2 * np.trace(root.real))


def eigenvalue_distance(features: Tensor, reference: tuple[np.ndarray, np.ndarray]) -> float:
    """FID as torch-fidelity 0.4 takes it: eigenvalues of the product of the covariances."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    statistics = fid_features_to_statistics(features.double().cpu())  # of float32 it would take the mean in float32
    found = fid_statistics_to_metric(statistics, {"mu": reference[0], "sigma": reference[1]}, verbose=False)
    return found["frechet_inception_distance"]


def covered(rows: Tensor, centres: Tensor, limits: Tensor, block: int = 5000) -> float:
    """The share of the rows that lie within a centre's limit."""
    inside = [(torch.cdist(part, centres) <= limits).any(dim=1) for part in rows.split(block)]
    return float(torch.cat(inside).float().mean())


def blockwise_precision_recall(real: Tensor, fake: Tensor, k: int = 3, block: int = 5000) -> tuple[float, float]:
    """torch.cdist and topk in blocks of rows."""

    def radii(x: Tensor) -> Tensor:
        return torch.cat([torch.cdist(part, x).topk(k + 1, largest=False).values[:, k] for part in x.split(block)])

    return covered(fake, real, radii(real)), covered(real, fake, radii(fake))


def flash_neighbors(real: Tensor, fake: Tensor, k: int = 3) -> tuple[float, float]:
    """Radii by flashlib's nearest neighbours, the rest in blocks. Raises ImportError without the package."""
    from flashlib.primitives.knn import flash_knn

    def radii(x: Tensor) -> Tensor:
        return flash_knn(x[None], x[None], k + 1)[0][0].amax(1).clamp(min=0).sqrt()  # in no order

    return covered(fake, real, radii(real)), covered(real, fake, radii(fake))


def plain_pfid(tokenizer, batches: list[Tensor], features: Callable, alpha: float, delta: int) -> tuple[Tensor, Tensor]:
    """One setting as the authors' scripts do it, float32, eager, the whole matrix of distances: features (N, 2048) of
    the images and of their perturbed reconstructions, on the CPU, for `sqrtm_distance`.

    features: uint8 (B, 3, H, W) -> (B, 2048).
    """
    real, fake = [], []
    with torch.no_grad():
        for images in batches:
            z = tokenizer.encode(from_uint8(images)).flatten(0, 1)
            z_q = authors_quantize(z, tokenizer.codebook)[1]
            moved = authors_perturb(z, z_q, tokenizer.codebook, alpha, len(z), delta)
            decoded = tokenizer.decode(moved.view(len(images), -1, z.shape[1]))
            real.append(features(images).cpu())
            fake.append(features(to_uint8(decoded)).cpu())
    return torch.cat(real), torch.cat(fake)


@torch.inference_mode()
def naive_pfid(tokenizer, batches: Iterable[Tensor], features: Callable, settings: Iterable[tuple[float, int]]) -> dict:
    """pFID as a loop over its settings, with the same kernels: each encodes, perturbs and decodes all images anew."""
    batches, reference, table = list(batches), None, {}
    for alpha, delta in settings:
        found, original, done = [], [], 0
        for batch in batches:
            ids = torch.arange(done, done + len(batch), device=batch.device)
            draw = {"alpha": alpha, "beta": 1.0, "delta": delta, "seed": 0, "sample_ids": ids}
            latents = tokenizer.encode(from_uint8(batch)).float()
            moved = vq_perturb(latents, tokenizer.codebook, normalize=tokenizer.normalize, **draw)
            found.append(features(to_uint8(tokenizer.decode(moved.z_q))).features)
            if reference is None:
                original.append(features(batch).features)
            done += len(batch)
        reference = reference or _moments(original)
        table[alpha, delta] = frechet_distance(_moments(found), reference)
    return table


def _moments(features: list[Tensor]) -> FeatureStatistics:
    moments = FeatureStatistics(features[0].shape[1], features[0].device)
    for rows in features:
        moments.update(rows)
    return moments
