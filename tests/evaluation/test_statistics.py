"""From streams to metrics: what is kept, saved, reused, refused and noted."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from robustok.core import device
from robustok.core.errors import UserError
from robustok.evaluation import frechet_distance, inception_score, kernel_distance, precision_recall, statistics
from robustok.evaluation.compare import compare, notes
from robustok.evaluation.reference import load_reference, open_reference
from robustok.evaluation.statistics import ImageStatistics, StatisticsCollector, collect, evenly
from robustok.evaluation.streams import NpzImages, open_stream


class Network:
    """Features, spatial features and logits that are pixels."""

    protocol, sha256 = "corner pixels", "00ff"

    def __call__(self, images):
        self.features = images[:, :, :2, 0].flatten(1).float()
        self.spatial = images[:, 0, 0, :4].float()
        self.logits = images[:, 1, :5, 1].float() / 50
        return self


@pytest.fixture
def sets(tmp_path) -> list[str]:
    draw = np.random.default_rng(0)
    arrays = [draw.integers(low, 256, (count, 6, 6, 3), np.uint8) for low, count in ((0, 160), (20, 130))]
    for name, array in zip("ab", arrays, strict=True):
        np.savez(tmp_path / f"{name}.npz", array)
    return [str(tmp_path / f"{name}.npz") for name in "ab"]


@pytest.fixture
def pair(sets) -> list[ImageStatistics]:
    return [collect(NpzImages(path), Network()) for path in sets]


def whole(path):
    return Network()(torch.cat(list(NpzImages(path))))


def test_metrics_are_those_of_all_images_at_once(sets, pair):
    a, b = (whole(path) for path in sets)
    found = compare(*pair)
    assert found["inception_score"], found["inception_score_std"] == inception_score(a.logits)
    assert (found["precision"], found["recall"]) == precision_recall(b.features, a.features)
    assert (found["kid"], found["kid_std"]) == pytest.approx(kernel_distance(a.features, b.features, subset_size=130))
    assert found["fd"] == frechet_distance(pair[0].pool, pair[1].pool) > 0
    assert found["sfid"] == frechet_distance(pair[0].spatial, pair[1].spatial) > 0
    assert pair[0].count == 160
    few = [name for name in found if name.startswith(("fd_inf", "kd", "mind"))]  # tests/evaluation/test_judging.py
    names = ["fd", *few, "sfid", "inception_score", "inception_score_std", "kid", "kid_std", "precision", "recall"]
    assert list(found) == names  # the order of metrics.json


class Late:
    """Images of which a copy is on its way, as a GPU's are."""

    is_cuda = True

    def __init__(self, images, name, log):
        self.images, self.name, self.log, self.shape = images, name, log, images.shape

    def arrived(self):
        self.log.append(self.name)
        return self.images


def test_copies_to_the_host_are_not_waited_for(sets, monkeypatch):
    """The digests of a batch are taken while the next is computed, and all of them before they are counted."""
    monkeypatch.setattr(device, "copied_to_host", lambda late: late.arrived)
    log = []
    collector = StatisticsCollector(160)
    batches = [torch.cat(list(NpzImages(sets[0])))[rows] for rows in (slice(0, 60), slice(60, 100), slice(50, 110))]
    for i, images in enumerate(batches):
        collector.add(Network()(images), Late(images, i, log))
        assert log == list(range(i))
    assert collector.of_stream(SimpleNamespace(name="", labels=None, transform=""), Network()).duplicates == 50
    assert log == [0, 1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_duplicates_among_images_on_a_gpu(sets):
    images = torch.cat(list(NpzImages(sets[0])))
    images[150:] = images[:10]
    stream = [part.cuda() for part in images.split(35)]
    collector = StatisticsCollector(160)
    for part in stream:
        collector.add(Network()(part), part)
        part.zero_()  # in the order of the stream: after the copy
    assert collector.of_stream(SimpleNamespace(name="", labels=None, transform=""), Network()).duplicates == 10


def test_kept_rows_are_evenly_spaced(sets, monkeypatch):
    assert evenly(10, 4).tolist() == [0, 2, 5, 7]
    assert evenly(3, 10).tolist() == [0, 1, 2]
    found = collect(NpzImages(sets[0]), Network(), keep=40)
    assert torch.equal(found.features, whole(sets[0]).features[::4])
    assert found.count == 160


def test_a_saved_reference_gives_the_same_figures(pair, tmp_path):
    pair[1].save(tmp_path / "reference.npz")
    again = load_reference(tmp_path / "reference.npz", Network())
    expected, found = compare(*pair), compare(pair[0], again)
    assert found == pytest.approx(expected, rel=1e-12)
    assert (again.protocol, again.weights, len(again.file_hash)) == ("corner pixels", "00ff", 64)


def test_a_reference_of_another_protocol_weights_or_dimension_is_refused(pair, tmp_path):
    pair[1].save(tmp_path / "reference.npz")
    other = Network()
    other.protocol = "other pixels"
    with pytest.raises(UserError, match=r"other features \(corner pixels\).*\(other pixels\)"):
        load_reference(tmp_path / "reference.npz", other)
    other = Network()
    other.sha256 = "abcd"
    with pytest.raises(UserError, match=r"other weights \(00ff\)"):
        load_reference(tmp_path / "reference.npz", other)
    np.savez(tmp_path / "adm.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(UserError, match="reference of 3 features, but the network used now gives 6"):
        load_reference(tmp_path / "adm.npz", Network())
    with pytest.raises(UserError, match="reference of 3 features"):
        compare(pair[0], ImageStatistics.load(tmp_path / "adm.npz"))


def test_adms_reference_gives_distances_from_moments_and_the_rest_from_images(sets, pair, tmp_path):
    b = pair[1]
    moments = dict(mu=b.pool.mean, sigma=b.pool.covariance, mu_s=b.spatial.mean, sigma_s=b.spatial.covariance)
    with np.load(sets[1]) as file:
        np.savez(tmp_path / "VIRTUAL.npz", file["arr_0"], **moments)
    np.savez(tmp_path / "moments.npz", **moments)
    expected = compare(*pair)
    with_images = load_reference(tmp_path / "VIRTUAL.npz", Network())
    assert compare(pair[0], with_images) == pytest.approx(expected, rel=1e-9)
    moments_only = compare(pair[0], load_reference(tmp_path / "moments.npz", Network()))
    assert sorted(moments_only) == ["fd", "inception_score", "inception_score_std", "sfid"]


def test_images_alone_can_be_a_reference(sets, pair):
    assert compare(pair[0], load_reference(sets[1], Network())) == pytest.approx(compare(*pair))


def test_description_can_be_written_as_json(pair):
    about = json.loads(json.dumps(pair[0].describe()))
    assert about["count"] == 160 and about["transform"] == "as stored" and about["weights"] == "00ff"


def test_what_a_reader_must_know_is_noted(tmp_path, pair):
    array = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), np.uint8)
    array[4] = array[0]
    np.savez(tmp_path / "few.npz", array, np.array([0, 0, 0, 1, 1]))
    few = collect(NpzImages(tmp_path / "few.npz"), Network())
    np.savez(tmp_path / "moments.npz", mu=np.zeros(6), sigma=np.eye(6))
    said = " ".join(notes(few, load_reference(tmp_path / "moments.npz", Network())))
    expected = (
        "5 images for 6 features",
        "1 images are exact copies",
        "5 samples; published FID uses 50,000",
        "not class-balanced (2 to 3",
        "does not say how",
        "statistics only",
        "not the published ones",
    )
    for words in expected:
        assert words in said, words
    assert "fast ones" not in said
    few.protocol = "inception-v3-tf2015/tf1-bilinear-299/fast-float16"
    said = " ".join(notes(few, load_reference(tmp_path / "moments.npz", Network())))
    assert "taken for those used here (fast ones, while published statistics are exact)" in said
    assert not any("copies" in note or "balanced" in note for note in notes(*pair))


def test_fewer_than_two_images_are_refused(tmp_path):
    np.savez(tmp_path / "one.npz", np.zeros((1, 6, 6, 3), np.uint8))
    with pytest.raises(UserError, match="found 1 image, expected at least two"):
        collect(NpzImages(tmp_path / "one.npz"), Network())


def test_nan_features_are_refused(sets):
    class Broken(Network):
        def __call__(self, images):
            super().__call__(images).features[0] = torch.nan
            return self

    with pytest.raises(ValueError, match="NaN"):
        compare(collect(NpzImages(sets[0]), Broken()), collect(NpzImages(sets[1]), Network()))


def test_saved_features_are_as_many_as_adm_keeps(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(statistics, "KEPT_REFERENCE", 13)
    pair[0].save(tmp_path / "r.npz")
    assert ImageStatistics.load(tmp_path / "r.npz").features.shape == (13, 6)


def test_two_sizes_and_two_transforms_are_noted(tmp_path, pair):
    size = (7, 7, 3)
    for number in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(np.full(size, number, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
    stored, cut, small = (collect(open_stream(tmp_path / "photos", size), Network()) for size in (None, 7, 6))
    assert (stored.size, cut.size, small.size) == ((7, 7), (7, 7), (6, 6))

    def said(samples: ImageStatistics, reference: ImageStatistics) -> list[str]:
        return [note for note in notes(samples, reference) if "resolution" in note or "prepared" in note]

    assert said(*pair) == said(cut, cut) == []
    assert len(said(stored, cut)) == 1 and "as stored" in said(stored, cut)[0]
    assert len(said(stored, small)) == 2
    assert "is of 7 x 7 pixels" in said(stored, small)[0] and "is of 6 x 6 pixels" in said(stored, small)[0]
    small.save(tmp_path / "small.npz")
    assert said(stored, load_reference(tmp_path / "small.npz", Network())) == said(stored, small)
    made = dataclasses.replace(cut, transform="as generated")
    assert said(made, cut) == []
    assert len(said(made, small)) == 1


def test_what_is_wrong_with_a_reference_is_said_before_any_work(sets, tmp_path):
    """Opening takes no image through the network."""
    np.savez(tmp_path / "labels.npz", np.zeros((4, 6, 6, 3), np.uint8), np.array([0.5, 1, 2, 3]))
    for path, message in (
        (tmp_path / "labels.npz", "arr_1"),
        (tmp_path / "none.npz", "not exist"),
        (tmp_path, "no im"),
    ):
        with pytest.raises(UserError, match=message):
            open_reference(path, None)
    assert open_reference(sets[1], Network())().count == 130
