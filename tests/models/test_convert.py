"""Converting checkpoints to our layout and back to the released one."""

import json

import pytest
import torch

from robustok import load_generator, load_tokenizer
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.formats.pickles import read_pickled
from robustok.formats.robustok_args import released_args
from robustok.model_configs import TokenizerConfig


def test_conversion_to_ours_and_back(released, converted, tmp_path, images):
    """Ours gives the same tokenizer; upstream gives back every tensor, the arguments and the teacher."""
    ours, theirs = load_tokenizer(converted), load_tokenizer(released, num_heads=2)
    assert ours.config == theirs.config
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    convert([str(converted), str(tmp_path / "back.pt"), "--to", "upstream"])
    back, source = read_pickled(tmp_path / "back.pt"), read_pickled(released)
    assert back["args"] == source["args"] and back["steps"] == source["steps"] and back.keys() == source.keys()
    for weights in ("model", "ema"):
        assert back[weights].keys() == source[weights].keys()
        for name, tensor in source[weights].items():
            same = torch.equal(back[weights][name], tensor) and back[weights][name].dtype == tensor.dtype
            assert same or name == "quantize.ema_vocab_hit_SV", name


def test_conversion_of_a_generator(generator_file, tmp_path):
    convert([str(generator_file), str(tmp_path / "rar")])
    convert([str(tmp_path / "rar"), str(tmp_path / "rar.bin"), "--to", "upstream"])
    source = read_pickled(generator_file)
    for found in (load_generator(tmp_path / "rar").state_dict(), read_pickled(tmp_path / "rar.bin")):
        assert found.keys() == source.keys()
        assert all(torch.equal(found[name].float(), tensor.float()) for name, tensor in source.items())


def test_upstream_needs_a_teacher_and_takes_one(converted, tmp_path, released):
    (converted / "teacher.safetensors").unlink()
    manifest = json.loads((converted / "manifest.json").read_text())
    del manifest["files"]["teacher.safetensors"]
    (converted / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"no semantic teacher.*--teacher"):
        convert([str(converted), str(tmp_path / "out.pt"), "--to", "upstream"])
    source = read_pickled(released)["model"]
    teacher = {k.removeprefix("semantic_model."): v for k, v in source.items() if k.startswith("semantic_model.")}
    torch.save(teacher, tmp_path / "dinov2.pth")
    convert([str(converted), str(tmp_path / "out.pt"), "--to", "upstream", "--teacher", str(tmp_path / "dinov2.pth")])
    found = read_pickled(tmp_path / "out.pt")["ema"]
    assert all(torch.equal(found["semantic_model." + name], tensor) for name, tensor in teacher.items())


def test_a_target_that_exists_is_kept(converted, released):
    with pytest.raises(UserError, match="is a folder already; choose another name"):
        convert([str(released), str(converted), "--num_heads", "2"])


def test_arguments_for_the_authors_code():
    """A tokenizer that was trained here is described as theirs, or refused where their code cannot build it."""
    published = TokenizerConfig(256, 16, 768, 12, 12, codebook_size=4096, code_width=64)
    args = released_args(published)
    assert (args.codebook_size, args.codebook_embed_dim, args.v_patch_nums) == (4096, 64, [16])
    assert args.encoder_model == args.decoder_model == "vit_base_patch14_dinov2.lvd142m"
    with pytest.raises(UserError, match=r"patches of 16, of DINOv2's ViT-S, B or L .* width=128"):
        released_args(TokenizerConfig())
