"""The doctor says what runs here and why the rest does not."""

import json

import torch

from robustok import doctor
from robustok.ops.vq.backends import registry


def test_report_as_json(capsys):
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["threads"] == torch.get_num_threads()
    cpu = found["backends"]["cpu"]
    assert cpu["auto"] in registry.BACKENDS and cpu[cpu["auto"]] == "can run"
    assert {
        name: reason or "can run" for name, reason in registry.reasons(torch.device("cpu")).items()
    }.items() <= cpu.items()


def test_report_for_people(capsys):
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in registry.BACKENDS)
    assert "operations on cpu tensors take the backend" in text
