"""Large samples in shards: the same bytes whoever does the work and whatever is killed; outputs; what is refused."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from robustok import load_generator, load_tokenizer, sample
from robustok.checkpoints import writing as checkpoints
from robustok.core.cli import run_verb
from robustok.data.images import open_source
from robustok.data.tokens import open_tokens
from robustok.data.transforms import to_uint8
from robustok.evaluation import FeatureStatistics, frechet_distance
from robustok.evaluation.streams import NpzImages
from robustok.samplers.autoregressive import AutoregressiveSampler

SETTINGS = {"guidance_scale": 2.0, "guidance_power": 1.2, "temperature": 1.1, "top_k": 0, "top_p": 1.0}
N = 23  # neither whole batches nor whole shards


@pytest.fixture(scope="module")
def argv(checkpoint):
    options = ["--generator", f"{checkpoint}/rar", "--tokenizer", f"{checkpoint}/tokenizer", "--n", str(N)]
    options += ["--batch_size", "2", "--shard_images", "4", "--seed", "6", "--device", "cpu"]
    return options + [part for name, value in SETTINGS.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def expected(checkpoint):
    """Tokens and images, made directly."""
    classes = torch.arange(3).repeat_interleave(torch.tensor([8, 8, 7]))
    tokens = load_generator(checkpoint / "rar").generate(classes, seed=6, **SETTINGS)
    with torch.inference_mode():
        images = to_uint8(load_tokenizer(checkpoint / "tokenizer").detokenize(tokens))
    return tokens.numpy(), images.permute(0, 2, 3, 1).numpy(), classes.numpy()


def start(argv, folder, launch=()):
    command = [sys.executable, *launch, "-m", "robustok.sample", *argv, "--output", str(folder)]
    # As many threads as in this process, whose bytes are compared with: their number may change the order of a sum.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def digest(folder):
    """Of all files of tokens and images, by name."""
    parts = [p for p in sorted(folder.rglob("*")) if p.suffix in (".npy", ".tar")]
    return hashlib.sha256(b"".join(p.name.encode() + p.read_bytes() for p in parts)).hexdigest()


@pytest.fixture(scope="module")
def one_process(argv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    sample.main([*argv, "--output", str(folder), "--save", "tar", "npy", "npz", "png"])
    return folder


def test_an_array_of_jobs_writes_the_same_bytes(argv, one_process, tmp_path, monkeypatch, capsys):
    """Each job makes its share and waits for nobody; the one that finds everything there puts it together."""
    command = [*argv, "--output", str(tmp_path), "--save", "tar", "npy", "npz", "png"]
    assert run_verb(sample.main, [*command, "--merge"]) == 2
    assert "--merge: of" in capsys.readouterr().err
    for number in (3, 1, 4):  # of an array of four, by what the scheduler says
        for name, value in {"ID": number, "MIN": 1, "MAX": 4, "STEP": 1}.items():
            monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", str(value))
        sample.main(command)
        assert f"--shard {number}/4" in capsys.readouterr().out
        assert not (tmp_path / "tokens/manifest.json").exists()
    sample.main([*command, "--shard", "2/4"])
    assert digest(tmp_path) == digest(one_process)


def test_tokens(one_process, expected):
    found = open_tokens(one_process / "tokens")
    assert np.array_equal(found.tokens[:], expected[0])
    assert np.array_equal(found.labels, expected[2]) and np.array_equal(found.ids, np.arange(N))


def test_images(one_process, expected):
    _, images, classes = expected
    assert np.array_equal(np.load(one_process / "images.npy"), images)
    npz = NpzImages(one_process / "samples.npz")
    assert np.array_equal(np.concatenate([batch.permute(0, 2, 3, 1) for batch in npz]), images)
    assert np.array_equal(npz.labels, classes)
    tars = open_source(one_process / "images")
    assert np.array_equal([np.asarray(tars.read(i)) for i in range(N)], images)
    assert np.array_equal(tars.labels, classes)
    for i in range(N):
        assert np.array_equal(np.asarray(Image.open(one_process / f"png/{classes[i]}/{i:08d}.png")), images[i])


def test_several_processes_write_the_same_bytes(argv, one_process, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=3"]
    argv = ["--images" if part == "--n" else part for part in argv]  # the launcher takes --n for its own
    process = start([*argv, "--save", "tar", "npz", "png"], tmp_path, launch)
    assert process.wait(900) == 0  # it takes seconds; many where the cores are busy
    with zipfile.ZipFile(tmp_path / "samples.npz") as archive:
        archive.extract("arr_0.npy", tmp_path)
    (tmp_path / "arr_0.npy").rename(tmp_path / "images.npy")  # as --save npy would have kept it
    assert digest(tmp_path) == digest(one_process)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_write_the_bytes_of_one(argv, tmp_path):
    """Each process computes on a GPU of its own."""
    argv = ["--images" if part == "--n" else part for part in argv] + ["--device", "cuda", "--save", "tar"]
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        assert start(argv, tmp_path / str(count), launch).wait(900) == 0
    assert digest(tmp_path / "1") == digest(tmp_path / "2")


def test_a_finished_run_is_not_run_again(argv, one_process, capsys):
    before = {path: path.stat().st_mtime_ns for path in (one_process / "tokens").rglob("*")}
    sample.main([*argv, "--output", str(one_process), "--save", "tar", "npy", "npz", "png"])
    assert "nothing was left to sample" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in (one_process / "tokens").rglob("*")}


@pytest.mark.parametrize("kills", [1, pytest.param(10, marks=pytest.mark.torture)])
def test_killed_and_run_again(argv, one_process, kills, tmp_path):
    argv, moments = [*argv, "--save", "tar", "npy", "npz", "png"], random.Random(0)
    for _ in range(kills):
        process = start(argv, tmp_path)
        while process.poll() is None and not (tmp_path / "tokens/begun.json").exists():
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        process.wait()
    sample.main([*argv, "--output", str(tmp_path)])
    assert digest(tmp_path) == digest(one_process)
    assert not list(tmp_path.rglob("*tmp*"))


class Features(NamedTuple):
    features: torch.Tensor


class Colours:
    """Nine features that can be checked by hand."""

    protocol = "colours"

    def __call__(self, images):
        return Features(torch.nn.functional.adaptive_avg_pool2d(images.float(), (1, 3)).flatten(1))


def test_straight_to_the_distance(argv, expected, monkeypatch, tmp_path, capsys):
    """The figures in metrics.json are those of the images, which are not kept."""
    network, images = Colours(), torch.from_numpy(expected[1]).permute(0, 3, 1, 2)
    reference = torch.randint(0, 256, (30, 16, 16, 3), dtype=torch.uint8)
    np.savez(tmp_path / "reference.npz", arr_0=reference.numpy())
    monkeypatch.setattr(sample, "_network", lambda options: network)
    sample.main([*argv, "--output", str(tmp_path / "run"), "--reference", str(tmp_path / "reference.npz")])
    sides = [FeatureStatistics(9).update(network(x).features) for x in (images, reference.permute(0, 3, 1, 2))]
    record = json.loads((tmp_path / "run/metrics.json").read_text())
    assert record["metrics"]["fd"] == pytest.approx(frechet_distance(*sides), rel=1e-5)
    assert record["samples"]["count"] == N
    assert not list((tmp_path / "run").rglob("*.png"))
    assert "images/s" in capsys.readouterr().out


def test_grid(argv, checkpoint, tmp_path):
    sample.main([*argv, "--output", str(tmp_path / "two.png"), "--grid", "2x3", "--classes", "2,0"])
    classes = torch.tensor([2, 2, 2, 0, 0, 0])
    tokens = load_generator(checkpoint / "rar").generate(classes, seed=6, **SETTINGS)
    with torch.inference_mode():
        images = to_uint8(load_tokenizer(checkpoint / "tokenizer").detokenize(tokens)).permute(0, 2, 3, 1)
    picture = np.asarray(Image.open(tmp_path / "two.png"))
    assert picture.shape == (34, 52, 3)
    assert np.array_equal(picture[18:, 36:], images[5]) and np.array_equal(picture[:16, :16], images[0])


def test_out_of_gpu_memory_halves_the_batch_once(argv, monkeypatch, tmp_path, capsys, expected):
    real, sizes = AutoregressiveSampler.generate, []

    def generate(self, classes, **arguments):
        sizes.append(len(classes))
        if len(classes) > limit:
            raise torch.OutOfMemoryError
        return real(self, classes, **arguments)

    monkeypatch.setattr(AutoregressiveSampler, "generate", generate)
    limit = 1
    assert run_verb(sample.main, [*argv, "--output", str(tmp_path / "a")]) == 0
    assert "going on in batches of 1" in capsys.readouterr().err and sizes[:2] == [2, 1]
    assert np.array_equal(open_tokens(tmp_path / "a/tokens").tokens[:], expected[0])
    limit = 0
    assert run_verb(sample.main, [*argv, "--output", str(tmp_path / "b")]) == 1
    assert "out of GPU memory in batches of 1" in capsys.readouterr().err


def test_no_space_left(argv, one_process, monkeypatch, tmp_path, capsys):
    """A full disk in the midst of a shard: that shard goes, the others stay, the same command finishes later."""
    argv = [*argv, "--output", str(tmp_path), "--save", "tar", "npy", "npz", "png"]
    real = np.save

    def save(path, array):
        if "shard-00002" in str(path) and "labels" in str(path):
            raise OSError(28, "No space left on device")
        real(path, array)

    with monkeypatch.context() as full:
        full.setattr(np, "save", save)
        assert run_verb(sample.main, argv) == 1
    assert "no space left" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*tmp*"))
    assert sorted(p.name for p in (tmp_path / "tokens").glob("shard-*")) == ["shard-00000", "shard-00001"]
    assert run_verb(sample.main, argv) == 0
    assert digest(tmp_path) == digest(one_process)


@pytest.mark.parametrize(
    "extra, message",
    [
        (["--classes", "0,3"], "classes: found [3], expected some of 0..2"),
        (["--n", "0"], "argument --n/--images: found 0, expected a whole number from 1"),
        (["--shard_images", "-1"], "argument --shard_images: found -1"),
        (["--shard_images", "50001"], "argument --shard_images: found 50001, expected a whole number from 1 to 50000"),
        (["--shard", "3/2"], "argument --shard: found '3/2', expected i/N"),
        (["--batch_size", "0"], "argument --batch_size: found 0"),
        (["--class_weights", "1,2"], "expected 3 numbers"),
        (["--temperature", "-1"], "temperature: found -1.0"),
        (["--preset", "rar-x"], "no preset 'rar-x'"),
        (["--seed", "7", "--output", "RUN"], "seed 6 there, 7 now"),
        (["--tokenizer", ""], "--tokenizer: found an empty text"),
    ],
)
def test_bad_input(argv, one_process, extra, message, tmp_path, capsys):
    folder = [] if "RUN" in extra else ["--output", str(tmp_path)]
    extra = [str(one_process) if part == "RUN" else part for part in extra]
    try:
        code = run_verb(sample.main, [*argv, *folder, "--save", "tar", "npy", "npz", "png", *extra])
    except SystemExit as stop:  # of an option that cannot be read
        code = stop.code
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "extra, power",
    [
        ([], 1.2),  # of SETTINGS
        (["--guidance_power", "none"], None),
        (["--preset", "digits", "--guidance_power", "none"], None),
    ],
)
def test_guidance_power_of_the_options(argv, extra, power, tmp_path):
    """Constant guidance is the value None, which no option could give."""
    assert run_verb(sample.main, [*argv, "--n", "3", "--output", str(tmp_path), *extra]) == 0
    assert json.loads((tmp_path / "tokens" / "manifest.json").read_text())["guidance_power"] == power


def test_a_preset_decides_what_no_option_does(argv, tmp_path):
    models = argv[: argv.index("--guidance_scale")]
    preset = ["--preset", "digits", "--temperature", "1.5"]
    assert run_verb(sample.main, [*models, "--n", "3", "--output", str(tmp_path), *preset]) == 0
    made = json.loads((tmp_path / "tokens" / "manifest.json").read_text())
    expected = {"guidance_scale": 2.0, "guidance_power": 1.0, "temperature": 1.5, "top_k": 0, "top_p": 1.0}
    assert {name: made[name] for name in expected} == expected


def test_tokenizer_of_another_codebook(argv, make_model, tmp_path, capsys):
    model = make_model(4, 32, 3)
    weights = {"model": model.state_dict(), "ema": model.state_dict()}
    checkpoints.save(tmp_path / "rar", weights, {"config": {"kind": "rar", "config": asdict(model.config)}})
    assert run_verb(sample.main, [*argv, "--generator", str(tmp_path / "rar"), "--output", str(tmp_path / "out")]) == 2
    assert "32 codes" in capsys.readouterr().err


def test_folder_with_other_files(argv, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert run_verb(sample.main, [*argv, "--output", str(tmp_path)]) == 2
    assert "no sample of ours" in capsys.readouterr().err
