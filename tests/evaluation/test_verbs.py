"""The verbs evaluate and explain as a user runs them, on small random models."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from robustok import evaluate, explain
from robustok.checkpoints import writing as checkpoints
from robustok.config import SamplingConfig
from robustok.core.cli import run_verb
from robustok.evaluation import parts, statistics
from robustok.model_configs import ConvTokenizerConfig, MAETokConfig, TokenizerConfig
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.models.tokenizers.maetok import MAETok
from robustok.models.tokenizers.vit_tokenizer import ViTTokenizer

SIZE = 16


@pytest.fixture(scope="module")
def room(tmp_path_factory, save_models):
    """A folder with a tokenizer, a generator, a classifier and .npz images, all small and random."""
    root = tmp_path_factory.mktemp("room")
    save_models(root, generator="rar")
    draw = np.random.default_rng(0)
    for name in ("images", "others"):
        np.savez(root / f"{name}.npz", draw.integers(0, 256, (70, SIZE, SIZE, 3), np.uint8))
    return root


@pytest.fixture
def run(room, tmp_path, monkeypatch):
    """run(verb, arguments) -> metrics.json; every {x} in the arguments is a path in the room."""
    monkeypatch.chdir(room)

    def call(verb, arguments: str, code: int = 0) -> dict:
        output = ["--output", str(tmp_path / "out"), "--device", "cpu"]
        assert run_verb(verb.main, arguments.split() + output) == code
        written = tmp_path / "out" / "metrics.json"
        return json.loads(written.read_text()) if written.is_file() else {}

    return call


CLASSIFIER = " --network classifier --weights classifier"


def test_tokenizers_get_one_row_each_and_a_report(run, tmp_path, capsys):
    found = run(evaluate, "tokenizer tokenizer tokenizer/step-1 --images images.npz --pfid quick" + CLASSIFIER)
    first, second = found["tokenizers"]
    assert first.pop("conditions")["tokenizer"]["sha256"] == second.pop("conditions")["tokenizer"]["sha256"]
    assert first | {"name": "tokenizer/step-1"} == second
    assert first["images"] == 70 and first["codebook_size"] == 64
    assert first["pfd"] == pytest.approx(np.mean([cell["value"] for cell in first["pfd_settings"]]))
    assert first["pfd_is_quick_estimate"] and len(first["pfd_settings"]) == 3
    assert first["rfd"] > 0 and first["lpips"] is None and "rfid" not in first
    printed = capsys.readouterr()
    assert "pFD" in printed.out and "PSNR" in printed.out
    assert "not FID" in printed.err and "not comparable" in printed.err
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count("<img") == 2 * (1 + 6 + 1) and "pFD" in report  # of each: cells, images, usage
    assert first["rfd_interval"][0] < first["rfd"] < first["rfd_interval"][1] and first["pfd_interval"]


@pytest.mark.parametrize("other, said", [("nowhere", "nowhere"), ("rar", "rar")])
def test_every_tokenizer_is_opened_before_the_first_is_judged(run, monkeypatch, capsys, other, said):
    monkeypatch.setattr("robustok.evaluation.tokenizers.evaluate_tokenizer", None)  # a call would be a traceback
    run(evaluate, f"tokenizer tokenizer {other} --images images.npz" + CLASSIFIER, code=2)
    assert said in capsys.readouterr().err


def test_a_tokenizer_that_cannot_be_perturbed_is_judged_without_pfid(run, room, capsys):
    shape = TokenizerConfig(
        image_size=SIZE,
        patch_size=4,
        width=32,
        depth=1,
        heads=2,
        codebook_size=32,
        code_width=4,
        scales=(1, 2, 4),
        residual_convs=2,
    )
    weights = {name: ViTTokenizer(shape).state_dict() for name in ("model", "ema")}
    checkpoints.save(room / "scales" / "step-1", weights, {"config": {"kind": "tokenizer", "config": asdict(shape)}})
    run(evaluate, "tokenizer scales --images images.npz" + CLASSIFIER, code=2)
    assert "--pfid none" in capsys.readouterr().err
    found = run(evaluate, "tokenizer scales --images images.npz --pfid none" + CLASSIFIER)["tokenizers"][0]
    assert found["rfd"] > 0 and found["pfd"] is None


def test_a_continuous_tokenizer_is_judged_without_codes(run, room, capsys):
    torch.manual_seed(3)
    shape = MAETokConfig(
        **dict(image_size=SIZE, patch_size=4, width=32, depth=1, heads=2, num_latents=4, latent_width=4),
        **dict(targets=(), hidden=(0.0, 0.0)),
    )
    weights = {name: MAETok(shape).state_dict() for name in ("model", "ema")}
    checkpoints.save(room / "latents" / "step-1", weights, {"config": {"kind": "maetok", "config": asdict(shape)}})
    run(evaluate, "tokenizer latents --images images.npz --perturbation mask" + CLASSIFIER, code=2)
    assert "this tokenizer's latents are continuous; expected --perturbation gaussian" in capsys.readouterr().err
    (found,) = run(evaluate, "tokenizer latents --images images.npz --ifid" + CLASSIFIER)["tokenizers"]
    assert found["rfd"] > 0 and found["psnr"] > 0 and -1 <= found["ssim"] <= 1  # of random weights
    assert [cell["strength"] for cell in found["nfd_settings"]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert found["nfd"] == pytest.approx(np.mean([cell["value"] for cell in found["nfd_settings"]]))
    assert found["ifd"] > 0 and (found["ifd_neighbors"], found["ifd_weight"]) == ("latent", 0.5)
    table = capsys.readouterr().out.split("cells of")[0]
    assert "nFD" in table and "iFD" in table and "pFD" not in table
    assert [found[name] for name in ("codebook_size", "codes_used", "perplexity", "pfd")] == [None] * 4


def test_other_perturbations_have_names_of_their_own(run, tmp_path, capsys):
    asked = "tokenizer tokenizer --images images.npz --pfid quick --ifid features"
    found = run(evaluate, f"{asked} --perturbation neighbor uniform gaussian" + CLASSIFIER)["tokenizers"][0]
    assert (
        found["pfd"] == pytest.approx(found["rfd"], rel=1e-12) and found["ifd"] > 0
    )  # of 64 codes pFD takes the nearest alone
    assert len({found[name] for name in ("pfd", "uniform_fd", "nfd")}) == 3
    assert len(found["uniform_fd_settings"]) == len(found["nfd_settings"]) == 3 and found["ifd_neighbors"] == "features"
    assert {cell["delta"] for cell in found["uniform_fd_settings"]} == {64} and found["uniform_fd_images"] == 70
    printed = capsys.readouterr()
    assert "uniform FD" in printed.out and "only the FD under near codes is pFD" in printed.err
    assert "the cells of uniform FD" in (tmp_path / "out" / "report.html").read_text()
    none = run(evaluate, "tokenizer tokenizer --images images.npz --perturbation adversarial" + CLASSIFIER)
    assert none["tokenizers"][0]["pfd"] is None and len(none["tokenizers"][0]["adversarial_fd_settings"]) == 5


def test_a_tokenizer_compared_by_product_gets_a_second_pfid(run, room, tmp_path):
    shape = ConvTokenizerConfig(
        image_size=SIZE, widths=(32, 32, 32), stem_width=32, blocks=1, decoder_blocks=1, attention=(), feature_width=8,
        codebook_size=48, code_width=6, similarity="dot",
    )  # fmt: skip
    torch.manual_seed(0)
    weights = {"ema": ConvTokenizer(shape).state_dict()}
    documents = {"config": {"kind": "conv_tokenizer", "config": asdict(shape)}}
    checkpoints.save(room / "ibq" / "step-1", weights, documents)
    found = run(evaluate, "tokenizer ibq --images images.npz --pfid quick" + CLASSIFIER)["tokenizers"][0]
    assert found["pfd"] > 0 and found["pfd_with_unperturbed_tokens_by_l2"] not in (None, found["pfd"])
    assert "ibq, unperturbed tokens by L2" in (tmp_path / "out" / "report.html").read_text()


def test_a_tokenizer_in_bfloat16_scores_nearly_the_same(run, capsys):
    asked = "tokenizer tokenizer --images images.npz --pfid none" + CLASSIFIER
    plain, half = run(evaluate, asked), run(evaluate, f"{asked} --tokenizer_precision bfloat16")
    assert "computing: tokenizer in float32\n" in (out := capsys.readouterr().out)
    assert "computing: tokenizer in bfloat16\n" in out
    assert half["tokenizers"][0]["conditions"]["tokenizer"]["precision"] == "bfloat16"
    assert half["tokenizers"][0]["rfd"] != plain["tokenizers"][0]["rfd"]
    assert half["protocol"]["tokenizer_precision"] == "bfloat16"
    assert half["tokenizers"][0]["psnr"] == pytest.approx(plain["tokenizers"][0]["psnr"], rel=0.01)
    assert half["tokenizers"][0]["pfd"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(run, capsys):
    arguments = ["samples", "images.npz", "--reference", "others.npz", "--device", "cuda"]
    assert run_verb(evaluate.main, arguments) == 2
    assert "no usable GPU" in capsys.readouterr().err


def test_samples_against_images_and_against_their_saved_statistics(run, tmp_path):
    plain = run(evaluate, "samples images.npz --reference others.npz" + CLASSIFIER)
    save = f"reference others.npz --save {tmp_path}/others-fd.npz --device cpu" + CLASSIFIER
    assert run_verb(evaluate.main, save.split()) == 0
    saved = run(evaluate, f"samples images.npz --reference {tmp_path}/others-fd.npz" + CLASSIFIER)
    assert saved["metrics"].keys() == plain["metrics"].keys() > {"kd", "kd_interval", "mind"}
    for name, value in plain["metrics"].items():
        assert saved["metrics"][name] == pytest.approx(value, rel=1e-9), name
    assert plain["metrics"]["fd"] > 0 and 0 <= plain["metrics"]["precision"] <= 1
    assert saved["samples"]["count"] == 70 and saved["samples"]["protocol"] == saved["reference"]["protocol"]
    assert len(saved["reference"]["file_hash"]) == 64
    assert saved["notes"]


def test_a_generator_is_driven_class_balanced(run):
    found = run(
        evaluate,
        "generator rar --tokenizer tokenizer --reference images.npz --per_class 8 --guidance_scale 1.5" + CLASSIFIER,
    )
    assert found["samples"]["count"] == 24
    assert found["samples"]["sampling"]["guidance_scale"] == 1.5
    assert found["metrics"]["fd"] > 0


def test_constant_guidance_can_be_asked_for(run):
    generator = "generator rar --tokenizer tokenizer --reference images.npz --per_class 2" + CLASSIFIER
    assert run(evaluate, generator)["samples"]["sampling"]["guidance_power"] == SamplingConfig.guidance_power
    assert run(evaluate, generator + " --guidance_power none")["samples"]["sampling"]["guidance_power"] is None


def test_inception_is_the_default_network(run, inception_path, room):
    np.savez(room / "three.npz", np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8))
    found = run(evaluate, f"samples three.npz --reference three.npz --weights {inception_path}")
    assert found["metrics"]["fid"] == pytest.approx(0, abs=1e-3)
    assert found["samples"]["protocol"] == "inception-v3-tf2015/tf1-bilinear-299/exact-float32"
    assert {"sfid", "inception_score", "kid"} <= set(found["metrics"])
    assert any("3 images for 2048 features" in note for note in found["notes"])


def test_missing_weights_are_one_message_and_exit_code_2(run, capsys):
    run(evaluate, "samples images.npz --reference others.npz", code=2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "weights/pt_inception-2015-12-05-6726825d.pth" in said
    assert "SHA-256" in said and "--network random-filters, which needs no weights" in said


def test_codebook_and_strips_and_lipschitz(run, tmp_path):
    usage = run(explain, "codebook tokenizer --images images.npz")["usage"]
    assert sum(usage["counts"]) == 70 * 4 and 0 < usage["used"] <= 1
    assert run(explain, "lipschitz tokenizer --images images.npz")["lipschitz"]["tokenizer"]["mean"] > 0
    run(explain, "strips tokenizer --images images.npz --count 3")
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert {"usage.png", "map.png", "lipschitz.png"} <= pictures
    assert (tmp_path / "out" / "report.html").read_text().count("<img") == 3 * 7  # original, clean, 5 alphas; one delta


def test_mmd_over_alpha_and_delta(run):
    cells = run(explain, "mmd tokenizer --images images.npz --generator rar --per_class 5")["mmd"]
    assert len({cell["alpha"] for cell in cells}) == 8
    assert all(cell["value"] >= 0 for cell in cells)


def test_elbow_of_features(run):
    spread = run(explain, "elbow --images images.npz --clusters 1 4 16" + CLASSIFIER)["elbow"]
    assert spread["1"] > spread["4"] > spread["16"]


def test_more_clusters_than_images_are_refused(run, capsys):
    run(explain, "elbow --images images.npz --clusters 71" + CLASSIFIER, code=2)
    assert "71 clusters of 70 rows" in capsys.readouterr().err


def test_correlation_of_a_benchmark(run, tmp_path):
    rows = [{"name": f"t{i}", "codebook_size": 8, "rfid": -i, "pfid": i, "gfid": 10 + i} for i in range(5)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    found = run(explain, f"correlation {tmp_path}/rows.json")["correlation"]
    assert (found["pfid"]["tau"], found["rfid"]["tau"], found["pfid"]["pairs"]) == (1, -1, 10)
    del rows[3]["gfid"]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run(explain, f"correlation {tmp_path}/rows.json", code=2)


def test_two_decoders_of_one_tokenizer_get_the_same_tokens(run, room, tmp_path, capsys):
    shape = TokenizerConfig(image_size=SIZE, patch_size=8, width=32, depth=1, heads=2, codebook_size=64, code_width=4)
    torch.manual_seed(0)
    before = ViTTokenizer(shape)
    weights = {key: value.clone() for key, value in before.state_dict().items()}
    for key in weights:
        if key.startswith("decoder."):
            weights[key] += 0.1 * torch.randn(weights[key].shape)
    documents = {"config": {"kind": "tokenizer", "config": asdict(shape)}}
    checkpoints.save(room / "post" / "step-1", {"model": weights, "ema": weights}, documents)
    asked = " --generator rar --images images.npz --reference others.npz --per_class 4 --seed 3" + CLASSIFIER
    left, right = run(evaluate, "decoders tokenizer post" + asked)["decoders"]
    distances = ("rfd", "rkd", "pfd", "pkd", "gfd", "gkd", "gmind")  # 12 samples are too few for gfd_inf
    changes = {f"{name}_change_interval" for name in distances}
    assert left["name"] == "tokenizer" and right["figures"].keys() - left["figures"].keys() == changes
    plain = run(evaluate, "tokenizer post --images images.npz" + CLASSIFIER)["tokenizers"][0]
    made = "generator rar --tokenizer post --reference others.npz --per_class 4 --seed 3" + CLASSIFIER
    samples = run(evaluate, made)["metrics"]
    assert right["figures"]["rfd"] == pytest.approx(plain["rfd"]) and right["figures"]["psnr"] == plain["psnr"]
    assert right["figures"]["pfd"] == pytest.approx(plain["pfd"])
    assert right["figures"]["gfd"] == pytest.approx(samples["fd"], rel=1e-4)
    assert left["figures"]["gfd"] != pytest.approx(right["figures"]["gfd"], rel=1e-3)
    run(evaluate, "decoders tokenizer tokenizer" + asked + " --pfid none")
    assert "(no difference found)" in (tmp_path / "out" / "report.html").read_text()
    torch.manual_seed(1)
    other = ViTTokenizer(shape).state_dict()
    checkpoints.save(room / "stranger" / "step-1", {"model": other, "ema": other}, documents)
    run(evaluate, "decoders tokenizer stranger" + asked, code=2)
    assert "tokenizer and stranger: their encoders or codebooks differ" in capsys.readouterr().err


def test_jobs_of_an_array_make_a_reference_and_compare_with_it(run, room, tmp_path, monkeypatch, capsys):
    """Parts of 50 images: two of each side. What one job alone finds, the jobs find."""
    for module in (statistics, parts):
        monkeypatch.setattr(module, "PART", 50)
    for kind, shard in (("alone", ""), ("jobs", " --shard 2/2"), ("jobs", " --shard 1/2")):
        command = f"reference others.npz --save {tmp_path}/{kind}.npz --device cpu{CLASSIFIER}{shard}"
        assert run_verb(evaluate.main, command.split()) == 0
    with np.load(tmp_path / "alone.npz") as alone, np.load(tmp_path / "jobs.npz") as jobs:
        assert alone.files == jobs.files and all(np.array_equal(alone[name], jobs[name]) for name in alone.files)
    command = f"samples images.npz --reference {tmp_path}/alone.npz{CLASSIFIER}"
    alone = run(evaluate, command)
    (tmp_path / "out" / "metrics.json").unlink()
    assert run(evaluate, f"{command} --merge", code=2) == {}
    assert "--merge: of images.npz there is no images 1 to 50" in capsys.readouterr().err
    assert run(evaluate, f"{command} --shard 1/2") == {}
    assert run(evaluate, f"{command} --shard 2/2")["metrics"] == alone["metrics"]
    itself = f"samples images.npz --reference images.npz{CLASSIFIER}"  # another reference is not done with that
    run(evaluate, f"{itself} --shard 1/2")
    assert run(evaluate, f"{itself} --shard 2/2")["metrics"]["fd"] == pytest.approx(0, abs=1e-6)
    drive = f"generator rar --tokenizer tokenizer --reference images.npz --per_class 20{CLASSIFIER}"
    (tmp_path / "out" / "metrics.json").unlink()
    assert run(evaluate, f"{drive} --shard 1/2") == {}
    jobs = run(evaluate, f"{drive} --shard 2/2")
    assert jobs["metrics"] == run(evaluate, drive)["metrics"]
