"""A family is one entry of the registry: two toys are registered, saved, loaded, sampled, judged and converted.

docs/extending.md is written from this file.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robustok import load_generator, load_tokenizer, vq_nearest
from robustok.checkpoints.checkpoint import Checkpoint
from robustok.checkpoints.writing import save
from robustok.config import RunConfig
from robustok.convert import main as convert
from robustok.core.errors import UserError
from robustok.data.transforms import to_uint8
from robustok.evaluation import pfid
from robustok.formats.layout import described
from robustok.models.generators.autoregressive import Autoregressive
from robustok.models.interfaces import DiscreteTokenizer, TokenGenerator
from robustok.models.load import check_codebooks
from robustok.models.registry import FAMILIES, Family, family_of


@dataclass(frozen=True)
class PatchConfig:
    image_size: int = 8
    patch: int = 4
    codebook_size: int = 16


class PatchTokenizer(nn.Module):
    """Every patch is the code nearest to its three mean colours."""

    similarity, perturbable = "l2", "codes"

    def __init__(self, config: PatchConfig):
        super().__init__()
        self.config, self.image_size = config, config.image_size
        self.num_latents = self.num_tokens = (config.image_size // config.patch) ** 2
        self.latent_shape = (self.num_latents, 3)
        self.codes = nn.Parameter(torch.rand(config.codebook_size, 3) * 2 - 1)

    @property
    def codebook(self) -> Tensor:
        """A property, because isinstance does not see the parameters of a module on Python 3.12 and newer."""
        return self.codes

    @property
    def device(self) -> torch.device:
        return self.codebook.device

    def encode(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, self.config.patch).flatten(2).mT

    def decode(self, z_q: Tensor) -> Tensor:
        side = self.image_size // self.config.patch
        return F.interpolate(z_q.mT.unflatten(2, (side, side)), scale_factor=float(self.config.patch))

    def tokenize(self, images: Tensor) -> Tensor:
        return vq_nearest(self.encode(images), self.codebook.detach(), similarity=self.similarity)

    def lookup(self, indices: Tensor) -> Tensor:
        return self.codebook[indices]

    @torch.no_grad()
    def detokenize(self, indices: Tensor) -> Tensor:
        return self.decode(self.lookup(indices)).clamp(-1, 1)


@dataclass(frozen=True)
class BigramConfig:
    num_tokens: int = 4
    codebook_size: int = 16
    num_classes: int = 3


class Bigram(Autoregressive):
    """The next token depends on the last one and on the class."""

    def __init__(self, config: BigramConfig):
        super().__init__()
        self.config, self.num_tokens = config, config.num_tokens
        self.codebook_size, self.num_classes = config.codebook_size, config.num_classes
        self.after = nn.Embedding(config.codebook_size + 1, config.codebook_size)  # the last row begins a sequence
        self.of_class = nn.Embedding(config.num_classes + 1, config.codebook_size)  # the last row is no class

    def forward(self, tokens: Tensor, classes: Tensor, orders: Tensor | None = None) -> Tensor:
        before = F.pad(tokens[:, :-1], (1, 0), value=self.codebook_size)
        return self.after(before) + self.of_class(classes)[:, None]

    def loss(self, tokens: Tensor, classes: Tensor, *, seed: int, sample_ids: Tensor, sharpness: float = 1.0):
        loss = F.cross_entropy(sharpness * self(tokens, classes).flatten(0, 1), tokens.flatten())
        return loss, {"loss": loss}

    def decoder(self, streams: int, choices=None) -> "BigramDecoder":
        return BigramDecoder(self)

    def cache_bytes(self, streams: int) -> int:
        return 0


class BigramDecoder:
    moved = 0

    def __init__(self, model: Bigram):
        self.model = model

    def start(self, classes: Tensor) -> Tensor:
        self.offsets = self.model.of_class(classes)
        return self.model.after.weight[-1] + self.offsets

    def prepare(self, step: int) -> None:
        pass

    def step(self, tokens: Tensor, step) -> Tensor:
        return self.model.after(tokens) + self.offsets

    def extend(self, tokens: Tensor, runs) -> Tensor:
        return self.model.after(tokens[runs.last]) + self.offsets[runs.sequences[runs.last]]


class PatchFile:
    """Somebody else's file of a PatchTokenizer; it does not say how large a patch is."""

    name, marks = "published patch tokenizer", ("palette",)

    def recognises(self, keys) -> bool:
        return "palette" in keys

    def read(self, file, given) -> Checkpoint:
        config = PatchConfig(codebook_size=len(file.state["palette"]), patch=given.num_heads or 4)
        return Checkpoint(file.path, described(self), config, {"ema": {"codes": file.state["palette"] / 255}})

    def holds(self, config):
        return True

    def write(self, checkpoint) -> dict:
        return {"palette": checkpoint.choose("ema")["codes"] * 255}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """The two lines that a new family costs."""

    def sharper(run: RunConfig, epoch: float) -> dict[str, float]:
        return {"sharpness": 1.0 + epoch}

    patch = Family("patch", "tokenizer", PatchConfig, PatchTokenizer, (PatchFile(),))
    bigram = Family("bigram", "generator", BigramConfig, Bigram, schedule=sharper)
    monkeypatch.setitem(FAMILIES, "patch", patch)
    monkeypatch.setitem(FAMILIES, "bigram", bigram)


def written(model, folder):
    state = model.state_dict()
    about = {"kind": family_of(model).kind, "config": asdict(model.config)}
    save(folder, {"model": state, "ema": state}, {"config": about})
    return folder


@pytest.fixture
def tokenizer(tmp_path):
    torch.manual_seed(0)
    return load_tokenizer(written(PatchTokenizer(PatchConfig()), tmp_path / "patch"))


@pytest.fixture
def generator(tmp_path):
    torch.manual_seed(1)
    return load_generator(written(Bigram(BigramConfig()), tmp_path / "bigram"))


def test_they_are_what_the_rooms_above_ask_for(tokenizer, generator, tmp_path):
    assert isinstance(tokenizer, DiscreteTokenizer) and isinstance(generator, TokenGenerator)
    check_codebooks(tokenizer, generator)
    with pytest.raises(UserError, match="is a patch checkpoint of this package; expected a generator"):
        load_generator(tmp_path / "patch")


def test_sampling(tokenizer, generator):
    """Batch after batch through one sampler, and around kept tokens: what single calls give; then images."""
    classes, settings = torch.tensor([0, 1, 2, 2]), {"guidance_scale": 2.0, "top_k": 8}
    sampler = generator.sampler(**settings)
    ids = torch.arange(4)
    parts = [sampler.generate(classes[part], seed=3, sample_ids=part) for part in ids.split(2)]
    tokens = torch.cat(parts)
    assert torch.equal(tokens, generator.generate(classes, seed=3, **settings))
    kept = generator.generate(classes, seed=3, keep_tokens=tokens, keep_ratio=0.5, **settings)
    assert torch.equal(kept, tokens)  # what lies between the kept tokens is drawn as before
    assert tokenizer.detokenize(tokens).shape == (4, 3, 8, 8)


def test_training_loss_and_its_schedule(generator):
    tokens, classes = torch.randint(0, 16, (5, 4)), torch.zeros(5, dtype=torch.int64)
    schedule = family_of(generator).schedule(RunConfig(), 2.0)
    loss, _ = generator.loss(tokens, classes, seed=0, sample_ids=torch.arange(5), **schedule)
    logits = 3.0 * generator.logits(tokens, classes)
    assert loss.item() == pytest.approx(F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).item())


class Means(NamedTuple):
    features: Tensor


def test_judging(tokenizer):
    tokens = torch.randint(0, 16, (40, 4), generator=torch.Generator().manual_seed(2))
    images = to_uint8(tokenizer.detokenize(tokens))  # which it gives back
    found = pfid(tokenizer, images, lambda batch: Means(batch.double().mean((2, 3))), alphas=(0.2, 1.0), deltas=(12,))
    assert found.rfid == pytest.approx(0, abs=0.1)
    assert 1 < found.table[0.2, 12] < found.table[1.0, 12]


def test_a_published_file(tokenizer, tmp_path):
    """Recognised by its keys, told what it cannot say, converted to ours and back, and named where nothing fits."""
    torch.save({"palette": tokenizer.codebook.detach() * 255}, tmp_path / "theirs.pt")
    theirs = load_tokenizer(tmp_path / "theirs.pt", num_heads=2)
    assert theirs.config == PatchConfig(patch=2)
    convert([str(tmp_path / "theirs.pt"), str(tmp_path / "ours")])
    convert([str(tmp_path / "ours"), str(tmp_path / "back.pt"), "--to", "upstream"])
    assert torch.allclose(torch.load(tmp_path / "back.pt", weights_only=True)["palette"], tokenizer.codebook * 255)
    torch.save({"conv": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"expected one of: .*released RAR generator, .*published patch tokenizer"):
        load_tokenizer(tmp_path / "other.pt")
    with pytest.raises(UserError, match="bigram is a bigram, of which no published layout is known"):
        convert([str(written(Bigram(BigramConfig()), tmp_path / "bigram")), str(tmp_path / "b.pt"), "--to", "upstream"])
