"""Files of weights that are recognised in whatever wrapping they come, and one message for each that is not."""

import re
from pathlib import Path

import pytest
import torch

from robustok.core.errors import UserError
from robustok.formats.layout import Given
from robustok.formats.opening import CONTAINERS, open_published
from robustok.models.load import load_generator, load_tokenizer, open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"
PEERS = Path(__file__).parents[1] / "golden_peers"
WEIGHTS = {"encoder.weight": torch.ones(2), "decoder.bias": torch.zeros(3)}
STEM, CODES = "encoder.down.0.block.0.norm1.weight", "quantize.embedding.weight"
TAMING, MASKGIT = "encoder.mid.block_1.norm1.weight", "encoder.mid.0.norm1.weight"


def saved(path: Path, content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("name", [None, *(name for names in CONTAINERS.values() for name in names)])
def test_usual_wrappings(prefix, name, tmp_path):
    state = {prefix + key: tensor for key, tensor in WEIGHTS.items()}
    content = state if name is None else {name: state, "epoch": 3, "optimizer": {"state": {}}}
    file = open_published(saved(tmp_path / "x.pt", content))
    assert file.state.keys() == WEIGHTS.keys()
    assert list(file.weights) == ["ema" if name in (None, *CONTAINERS["ema"]) else "model"]


def test_compiled_parts_and_what_is_no_weight(tmp_path):
    content = {"encoder._orig_mod.weight": torch.ones(2), "decoder.bias": torch.zeros(3), "version": 2}
    assert open_published(saved(tmp_path / "x.pt", content)).state.keys() == WEIGHTS.keys()


def test_names_that_would_fall_together_stay(tmp_path):
    content = {"module.x": torch.ones(1), "x": torch.ones(1)}
    assert open_published(saved(tmp_path / "x.pt", content)).state.keys() == content.keys()


@pytest.mark.parametrize("container", [None, "state_dict", "model_state_dict"])
def test_a_wrapped_tokenizer_loads(container, tmp_path):
    path = PEERS / "llamagen" / "vq_tiny.pt"
    state = {f"module.{key}": tensor for key, tensor in open_published(path).state.items()}
    wrapped = saved(tmp_path / "x.pt", state if container is None else {container: state})
    found, expected = load_tokenizer(wrapped).state_dict(), load_tokenizer(path).state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def marks(*keys: str) -> dict:
    return {key: torch.zeros(4) for key in keys}


# what a file holds -> what is said of it where a tokenizer is expected
REFUSED = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", r"is a Git-LFS pointer.*git lfs pull"),
    "page": (b"\n <!DOCTYPE html><html>", r"is a web page, not the weights it offers"),
    "answer": (b"<?xml version='1.0'?><Error/>", r"is a server's answer in XML"),
    "list": ([1, 2], r"holds a list; expected a state dict or a training checkpoint"),
    "no weights": ({"epoch": 3, "model": {}}, r"no known layout: found epoch, model; expected tensors by name, or a"),
    "unusual place": ({"my_weights": WEIGHTS, "step": torch.tensor(3)}, r"found my_weights, step; .* one of ema, "),
    "nothing known": (WEIGHTS, r"found encoder\.weight, decoder\.bias; expected one of: .*LlamaGen VQ tokenizer, "),
    "one mark lacks": (
        marks("encoder.conv_blocks.0.res.0.norm1.weight", "encoder.mid.1.q.weight"),
        r"nearest is the LlamaGen VQ tokenizer, but it has no quantize\.embedding\.weight \(it has encoder\.conv",
    ),
    "two are as near": (
        marks(STEM, CODES),
        rf"VQGAN or IBQ tokenizer, but it has no {re.escape(TAMING)} \(.*\), or the MaskGIT-VQGAN, but it has no "
        rf"{re.escape(MASKGIT)}",
    ),
    "half of a wrapped one": (
        {"state_dict": {f"module.{key}": torch.zeros(1) for key in (STEM, TAMING)}},
        rf"nearest is the taming VQGAN or IBQ tokenizer, but it has no {re.escape(CODES)}",
    ),
    "a tensor lacks": (
        marks(STEM, MASKGIT, CODES),
        r"recognised as MaskGIT-VQGAN \(it has .*\), but 4 missing: encoder\.conv_in\.weight",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_said_of_other_files(name, tmp_path):
    content, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        load_tokenizer(saved(tmp_path / "x.pt", content))
    assert str(error.value).startswith(str(tmp_path / "x.pt")) and "weights_only" not in str(error.value)


def test_the_other_role_is_named(tmp_path):
    with pytest.raises(UserError, match=r"is a LlamaGen GPT \(it has .*\); expected a tokenizer"):
        load_tokenizer(PEERS / "llamagen" / "gpt_tiny.pt")
    with pytest.raises(UserError, match=r"is a MaskGIT-VQGAN \(it has .*\); expected a generator"):
        load_generator(PEERS / "maskgit_vqgan" / "maskgit_f16_tiny.bin")


def test_marks_of_a_layout_that_does_not_recognise_them(tmp_path):
    state = marks("encoder.conv_blocks.0.res.0.norm1.weight", CODES, "s2to1encoder.x")
    with pytest.raises(UserError, match=r"no known layout|recognised as"):
        open_checkpoint(saved(tmp_path / "x.pt", state), "tokenizer", **vars(Given()))
