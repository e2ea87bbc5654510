"""The main job, stage by stage: classifier, tokenizer, generator, pairs, post-training; finished ones are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..config import RARConfig
from ..data.images import Images, open_images
from ..data.tokens import TokenSet, TokenWriter, open_tokens, tokenizer_hash
from ..data.transforms import from_uint8, to_uint8
from ..errors import UserError
from ..evaluation import FeatureStatistics, frechet_distance
from ..models.classifier import Classifier
from ..models.load import load_generator, load_tokenizer
from ..models.pretrained import load_backbone, load_lpips, load_teacher, start_from_dinov2
from ..models.tokenizer import Tokenizer
from ..ops.philox import derive_seed
from ..training import checkpoints, distributed
from ..training.frozen import FrozenNetworks, from_classifier
from ..training.loop import fit
from ..training.run import Run
from ..training.stages import ClassifierStage, GeneratorStage
from ..training.tokenizer_stages import PostStage, TokenizerStage

BATCH = 128  # images a forward pass where nothing is learned


class Pipeline:
    """The stages of one run; each method runs its stage to the end or finds it finished."""

    def __init__(self, run: Run):
        self.run, self.config = run, run.config
        self.images: Images = open_images(run.config.data, run.config.tokenizer.image_size)

    @cached_property
    def frozen(self) -> FrozenNetworks:
        """The networks that losses and distances look through: those of the files named, else the run's classifier."""
        paths, shape, device = self.config.frozen, self.config.tokenizer, self.run.device
        networks = from_classifier(self._classifier(), f"FD-{self._data_name}")
        if paths.dinov2:
            networks = replace(networks, teacher=load_teacher(paths.dinov2, shape).to(device))
        if paths.lpips:
            networks = replace(networks, perceptual=load_lpips(paths.lpips).to(device))
        if paths.dino:
            networks = replace(networks, backbone=load_backbone(paths.dino).to(device))
        return networks

    def _classifier(self) -> Classifier:
        if not self.run.is_finished("classifier"):
            fit(ClassifierStage(self.run, self.images), self.run)
        folder = self._result("classifier")
        model = Classifier(**checkpoints.read_json(folder / "config.json")["config"])
        model.load_state_dict(checkpoints.load(folder, "ema")[0])
        return model.to(self.run.device)

    @property
    def _data_name(self) -> str:
        return "digits" if self.config.data.root is None else Path(self.config.data.root).resolve().name

    def tokenizer(self) -> None:
        if self.run.is_finished("tokenizer"):
            return
        torch.manual_seed(self.config.seed)
        model = Tokenizer(self.config.tokenizer)
        if self.config.frozen.dinov2:
            start_from_dinov2(model, self.config.frozen.dinov2)
        model.to(self.run.device)
        fit(TokenizerStage(self.run, self.images, self.frozen, model), self.run)

    def generator(self) -> None:
        """Tokens of the training images once, then RAR on them."""
        if self.run.is_finished("generator"):
            return
        tokenizer = self.load_tokenizer("tokenizer")
        train = self.images.train
        if not self.run.is_finished("tokens"):
            with self.run.finishing("tokens"):
                self._write_tokens(
                    "tokens", tokenizer, len(train), lambda rows: self._tokenize(tokenizer, train.load(rows))
                )
        fit(GeneratorStage(self.run, self._generator_shape(tokenizer), self.training_tokens()), self.run)

    def pairs(self) -> None:
        """Generated tokens for every training image by preservation ratio sigma (section 6), in every mode.

        Row p of the pairs belongs to training image p mod N.
        """
        if self.run.is_finished("pairs"):
            return
        tokenizer, generator = self.load_tokenizer("tokenizer"), self.load_generator()
        real = self.training_tokens()
        count = len(real) * self.config.pairs.per_image
        with self.run.finishing("pairs"):
            self._write_tokens(
                "pairs/direct", tokenizer, count, lambda rows: self._generate_beside(generator, real, rows)
            )
            if "reencode" in self.config.pairs.modes:
                direct = open_tokens(self.run.folder / "pairs/direct").tokens

                def reencoded(rows: Tensor) -> Tensor:
                    """What the frozen encoder sees of the generated images (paper, section 4.3)."""
                    tokens = torch.from_numpy(direct[rows.numpy()].astype("int64")).to(self.run.device)
                    return self._tokenize(tokenizer, self.decode(tokenizer, tokens))

                self._write_tokens("pairs/reencode", tokenizer, count, reencoded)

    def post(self) -> None:
        """One post-trained decoder per mode of the pairs; the first is `post`, the others `post-MODE`."""
        main = self._result("tokenizer")
        training = checkpoints.load(main, "training")[0]
        for mode in self.config.pairs.modes:
            name = self.post_folder(mode)
            if self.run.is_finished("post", name):
                continue
            pairs = open_tokens(self.run.folder / "pairs" / mode)
            stage = PostStage(
                self.run, name, self.images, pairs, self.frozen, self.load_tokenizer("tokenizer"),
                checkpoints.under(training, "module.discriminator."), training["extra.lecam"], self._stopping_distance,
            )  # fmt: skip
            fit(stage, self.run)

    def post_folder(self, mode: str) -> str:
        return "post" if mode == self.config.pairs.modes[0] else f"post-{mode}"

    def load_tokenizer(self, stage: str) -> Tokenizer:
        return load_tokenizer(self._result(stage)).to(self.run.device).eval()

    def training_tokens(self) -> TokenSet:
        return open_tokens(self.run.folder / "tokens")

    def load_generator(self):
        return load_generator(self._result("generator")).to(self.run.device).eval()

    @torch.inference_mode()
    def sample(self, per_class: int, purpose: str) -> tuple[Tensor, Tensor]:
        """(tokens (n, L), classes (n,)) with the run's sampling settings; `purpose` names the seed."""
        generator, s = self.load_generator(), self.config.sampling
        classes = torch.arange(self.images.num_classes).repeat_interleave(per_class)
        seed = derive_seed(self.config.seed, "sample", purpose)
        ids = torch.arange(len(classes))
        parts = [
            generator.generate(
                part.to(self.run.device), seed=seed, sample_ids=who.to(self.run.device), **self._guidance()
            )
            for part, who in zip(classes.split(s.batch_size), ids.split(s.batch_size), strict=True)
        ]
        return torch.cat(parts), classes

    @torch.inference_mode()
    def decode(self, tokenizer: Tokenizer, tokens: Tensor) -> Tensor:
        """Tokens (n, L) -> uint8 images (n, 3, S, S)."""
        return torch.cat([to_uint8(tokenizer.detokenize(part)) for part in tokens.split(BATCH)])

    def statistics(self, images: Tensor) -> FeatureStatistics:
        """Moments of the features of uint8 images."""
        features = self.frozen.features(images).features
        return FeatureStatistics(features.shape[1]).update(features)

    @cached_property
    def _stopping(self) -> tuple[Tensor, FeatureStatistics]:
        """Tokens sampled once, and the moments of the images kept to stop by."""
        stop = self.images.stop
        per_class = self.config.evaluation.samples_per_class
        return self.sample(per_class, "stop")[0], self.statistics(stop.load(torch.arange(len(stop))))

    def _stopping_distance(self, tokenizer: Tokenizer) -> float:
        tokens, reference = self._stopping
        return frechet_distance(self.statistics(self.decode(tokenizer, tokens)), reference)

    def _generator_shape(self, tokenizer: Tokenizer) -> RARConfig:
        """The generator's config with what the tokenizer and the data decide; a different given value is refused."""
        decided = {
            "codebook_size": len(tokenizer.codebook),
            "num_classes": self.images.num_classes,
            "num_tokens": tokenizer.grid**2,
        }
        for name, value in decided.items():
            given = getattr(self.config.generator, name)
            if given not in (None, value):
                raise UserError(f"generator.{name}: found {given}, but tokenizer and data have {value}; leave it out")
        return replace(self.config.generator, **decided)

    def _guidance(self) -> dict:
        s = self.config.sampling
        return {"guidance_scale": s.guidance_scale, "guidance_power": s.guidance_power, "temperature": s.temperature,
                "top_k": s.top_k, "top_p": s.top_p}  # fmt: skip

    @torch.inference_mode()
    def _tokenize(self, tokenizer: Tokenizer, images: Tensor) -> Tensor:
        """uint8 images (n, 3, S, S) -> tokens (n, L)."""
        return torch.cat([tokenizer.tokenize(from_uint8(part.to(self.run.device))) for part in images.split(BATCH)])

    @torch.inference_mode()
    def _generate_beside(self, generator, real: TokenSet, rows: Tensor) -> Tensor:
        """Generated sequences for pairs `rows`, each under its image's class, with a share sigma of its tokens kept."""
        seed, device = derive_seed(self.config.seed, "pairs"), self.run.device
        parts = []
        for part in rows.split(self.config.sampling.batch_size):
            image = part % len(real)
            kept = torch.from_numpy(real.tokens[image.numpy()].astype("int64")).to(device)
            parts.append(
                generator.generate(real.labels[image].to(device), seed=seed, sample_ids=part.to(device),
                                   keep_tokens=kept, keep_ratio=self.config.pairs.sigma, **self._guidance())
            )  # fmt: skip
        return torch.cat(parts)

    def _write_tokens(
        self, folder: str, tokenizer: Tokenizer, count: int, tokens_of: Callable[[Tensor], Tensor]
    ) -> None:
        """Token shards of `count` rows, dealt out over the processes; shards that exist are not made again."""
        about = {"tokenizer": tokenizer_hash(tokenizer), "codebook_size": len(tokenizer.codebook),
                 "class_names": self.images.class_names, "settings": self.run.settings("pairs")}  # fmt: skip
        writer, train = TokenWriter(self.run.folder / folder, about), self.images.train
        for number in writer.missing(count)[distributed.rank() :: distributed.world()]:
            rows = torch.tensor(writer.shard_range(number, count))
            image = rows % len(train)
            writer.write(number, tokens_of(rows), train.labels[image], train.ids[image])
        distributed.barrier()
        if distributed.is_main():
            writer.finish(count)
        distributed.barrier()

    def _result(self, stage: str) -> Path:
        """The checkpoint that a finished stage chose. Raises UserError where the stage has not run."""
        state = self.run.stage_state(stage)
        if not state.get("finished"):
            raise UserError(
                f"{self.run.folder / stage} is not finished; run `python -m robustok.train --name {self.config.name} "
                f"--stage {stage}` (or --stage all) first"
            )
        return self.run.folder / stage / state["best"]
