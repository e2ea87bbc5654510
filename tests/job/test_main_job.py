"""The main job from images to report, tiny: what it writes, that it resumes to the bit, what it refuses."""

import json
import os
import re
import signal

import pytest
import torch
from safetensors.torch import load_file

from robustok import load_tokenizer
from robustok.core.errors import RunError, UserError
from robustok.training.run import Run
from robustok.training.stages import decoder
from robustok.training.stages.classifier import ClassifierStage
from robustok.training.stages.generator import GeneratorStage
from robustok.training.stages.post_training import PostTrainingStage
from robustok.training.stages.tokenizer import TokenizerStage

STAGES = ("classifier", "tokenizer", "generator", "post", "post-direct")


def final_tensors(run):
    """{stage/file/name: tensor} of every stage's last checkpoint."""
    tensors = {}
    for stage in STAGES:
        newest = max((run / stage).glob("step-*"), key=lambda path: int(path.name[5:]))
        for file in newest.glob("*.safetensors"):
            tensors |= {f"{stage}/{newest.name}/{file.stem}/{k}": v for k, v in load_file(file).items()}
    return tensors


def test_main_job_writes_metrics_and_an_offline_report(job, monkeypatch):
    for name in ("SOME_TOKEN", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary-4711")  # what the environment holds is written nowhere
    run = job(validation__every_epochs=0.35)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["distance"] == "FD-digits"
    assert {"psnr", "codebook_usage", "codebook_perplexity", "rfd", "pfd"} <= metrics["tokenizer"].keys()
    for name in ("rfd", "pfd", "rkd", "pkd"):
        low, high = metrics["tokenizer"][f"{name}_interval"]
        assert low < metrics["tokenizer"][name] < high and len(metrics["post"][f"{name}_change_interval"]) == 2
    for stage in ("generator", "post", "post_direct"):
        assert metrics[stage]["gfd"] > 0
        assert 0 <= metrics[stage]["class_agreement"] <= 1
        assert {"gkd", "gmind", "gkd_interval", "gkd_filters", "gfd_filters"} <= metrics[stage].keys()
        assert "gfd_inf" not in metrics[stage]  # 50 samples are too few
    assert 0 < metrics["tokenizer"]["codebook_usage"] <= 1
    table = metrics["tokenizer"]["pfd_table"]
    assert len(table) == 15
    assert metrics["tokenizer"]["pfd"] == pytest.approx(sum(row[2] for row in table) / 15)
    assert {"classifier", "tokenizer", "generator", "pairs", "post", "evaluation"} <= metrics["seconds"].keys()
    assert metrics["peak_memory_bytes"] > 1e8
    report = (run / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"](?!data:)", report)
    assert report.count("<img") >= 9
    assert "FD-digits" in report
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 30 and not [path for path in files if b"canary-4711" in path.read_bytes()]
    for curve in ("tokenizer: validation_rfd", "generator: validation_loss", "post: validation_score"):
        assert curve in report
    assert "not FID" in report
    assert (run / "config.yaml").is_file()
    assert any((run / "tensorboard").iterdir())


def test_a_finished_stage_is_not_run_again(job, tokenizer_run, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in tokenizer_run.glob("tokenizer/step-*/*")}

    def never(*_):
        raise AssertionError("a finished stage was trained again")

    monkeypatch.setattr(TokenizerStage, "objective", never)
    job("tokenizer")
    assert before == {path: path.stat().st_mtime_ns for path in tokenizer_run.glob("tokenizer/step-*/*")}


def test_interrupted_in_every_stage_and_resumed_equals_uninterrupted(job, monkeypatch):
    expected = final_tensors(job(name="whole"))
    interrupted = set()

    def interrupt_once(cls, step):
        objective = cls.objective

        def wrapped(self, trained, batch, position):
            if self.name not in interrupted and position.step == step:
                interrupted.add(self.name)
                os.kill(os.getpid(), signal.SIGINT)
            return objective(self, trained, batch, position)

        monkeypatch.setattr(cls, "objective", wrapped)

    for cls, step in (
        (ClassifierStage, 4),
        (TokenizerStage, 5),
        (GeneratorStage, 3),
        (PostTrainingStage, 2),
    ):
        interrupt_once(cls, step)
    for _ in STAGES:
        with pytest.raises(KeyboardInterrupt, match=r"to resume: python -m robustok\.train"):
            job(name="parts")
    found = final_tensors(job(name="parts"))
    assert interrupted == set(STAGES)
    assert found.keys() == expected.keys()
    different = [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])]
    assert different == []


def test_the_log_of_a_resumed_run_has_no_step_twice(job, monkeypatch):
    objective = TokenizerStage.objective

    def stop_at_five(self, trained, batch, position):
        if position.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return objective(self, trained, batch, position)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TokenizerStage, "objective", stop_at_five)
        job("tokenizer")
    records = [json.loads(line) for line in (job("tokenizer") / "log.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records if record["stage"] == "tokenizer"]
    assert steps == sorted(set(steps))


def test_a_nan_stops_before_a_checkpoint_and_names_its_term(job, monkeypatch, tmp_path):
    monkeypatch.setattr(decoder, "reconstruction_loss", lambda x, y: ((x - y) ** 2).mean() * float("nan"))
    with pytest.raises(RunError, match=r"tokenizer: stopped after steps 0, 1, 2, .* not finite: reconstruction"):
        job("tokenizer")
    assert list((tmp_path / "runs/x/tokenizer").glob("step-*")) == []


def test_another_config_is_refused_with_the_differences(job, tokenizer_run):
    with pytest.raises(UserError, match=r"belongs to another config(.|\n)*losses\.semantic: stored 0\.1, now 0\.3"):
        job("tokenizer", losses__semantic=0.3)


def test_a_damaged_checkpoint_is_named(job, tokenizer_run):
    (file,) = tokenizer_run.glob("tokenizer/step-*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match=r"model\.safetensors"):
        job("generator")


def test_a_folder_in_use_is_refused(job, tokenizer_run):
    from robustok.config import RunConfig

    other = Run(RunConfig(runs=str(tokenizer_run.parent), name=tokenizer_run.name))
    try:
        with pytest.raises(UserError, match=rf"in use by process {os.getpid()}"):
            job("tokenizer")
    finally:
        other.close()


def test_starting_over_sets_the_old_run_aside(job, tokenizer_run):
    job("tokenizer", resume="never", losses__semantic=0.3)
    assert (tokenizer_run.with_name("x.1") / "tokenizer" / "stage.json").is_file()


def test_a_stage_out_of_order_says_what_to_run_first(job):
    with pytest.raises(UserError, match="--stage tokenizer"):
        job("generator")


def test_post_training_starts_from_given_models(job, tokenizer_run):
    """A tokenizer and a generator made elsewhere are post-trained without being trained here; the encoder stays."""
    made = job("generator")
    start = {"start__tokenizer": made / "tokenizer", "start__generator": made / "generator"}
    job("pairs", name="other", **start)
    other = job("post", name="other", **start)
    before, after = load_tokenizer(made / "tokenizer"), load_tokenizer(other / "post", "model")
    assert all(map(torch.equal, before.encoder_parameters(), after.encoder_parameters()))
    newest = max((other / "post").glob("step-*"), key=lambda path: int(path.name[5:]))
    trained = load_tokenizer(newest, "model")
    assert not any(map(torch.equal, before.decoder_parameters(), trained.decoder_parameters()))
    assert not (other / "tokenizer").exists()


def test_training_goes_on_only_from_a_model_of_the_same_shape(job, tokenizer_run):
    with pytest.raises(UserError, match=r"tokenizer\.width: stored 64, now 128"):
        job("tokenizer", name="other", start__tokenizer=tokenizer_run / "tokenizer", tokenizer__width=128)
