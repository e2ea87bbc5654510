"""Post-training of a LlamaGen pair: a VQ tokenizer and a GPT in the files that their authors publish, and back again.

    python examples/post_training.py FOLDER

Everything is written into FOLDER, a new one. Both models are tiny and their weights random, so that it takes less than
a minute on scikit-learn's digits: it shows the way that a real pair takes, not figures. With files of your own, leave
out `publish`. What to see: the decoder learned, the tokens stayed as they were, and so the GPT stays valid.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

import robustok
from robustok.convert import main as convert
from robustok.model_configs import ConvTokenizerConfig, LlamaGenConfig
from robustok.models.generators.llamagen import LlamaGen
from robustok.models.tokenizers.conv_tokenizer import ConvTokenizer
from robustok.train import main as train

IMAGE_SIZE, HEADS, TOKENS = 16, 2, 16  # what the published files do not say
VQ = ConvTokenizerConfig(
    image_size=IMAGE_SIZE, widths=(32, 32, 32), stem_width=32, attention=(2,), blocks=1, decoder_blocks=1,
    feature_width=32, codebook_size=64, code_width=4, similarity="cosine",
)  # fmt: skip
GPT = LlamaGenConfig(
    width=32, depth=2, heads=HEADS, mlp_width=64, codebook_size=64, num_classes=10, num_tokens=TOKENS
)  # fmt: skip
SETTINGS = {
    "device": "cpu",
    "data.val": 100,
    "data.test": 300,
    "classifier.epochs": 4,  # the network whose features the losses and early stopping compare
    "pairs.sigma": 0.95,  # share of true tokens that are kept: the best published value for LlamaGen's GPT
    "pairs.modes": "[reencode]",
    "losses.adversarial": 0,
    "post_training.epochs": 4,
    "post_training.batch_size": 64,
    "post_training.lr": 0.003,
    "post_training.warmup_epochs": 0,
    "stopping.every_epochs": 4,  # at the end only: images of a random GPT cannot judge a decoder
}


def publish(folder: Path) -> None:
    """vq.pt and gpt.pt as LlamaGen publishes such files, of random weights."""
    torch.manual_seed(0)
    for name, model in (("vq", ConvTokenizer(VQ)), ("gpt", LlamaGen(GPT))):
        model.save_pretrained(folder / f"made-{name}")
        convert([f"{folder}/made-{name}", f"{folder}/{name}.pt", "--to", "upstream"])


def post_train(folder: Path, settings: dict) -> None:
    """vq.pt and gpt.pt -> decoder.pt, the tokenizer with a decoder that was trained on what the GPT makes."""
    convert([f"{folder}/vq.pt", f"{folder}/vq", "--image_size", str(IMAGE_SIZE)])
    convert([f"{folder}/gpt.pt", f"{folder}/gpt", "--num_heads", str(HEADS), "--num_tokens", str(TOKENS)])
    start = {"start.tokenizer": folder / "vq", "start.generator": folder / "gpt", "runs": folder / "runs"}
    # The settings describe a tokenizer only to the stages before pairs; the classifier takes its size from them.
    shape = {"tokenizer.image_size": IMAGE_SIZE, "tokenizer.patch_size": 4}
    options = [f"--{key}={value}" for key, value in {**SETTINGS, **settings, **start, **shape}.items()]
    for stage in ("classifier", "pairs", "post"):
        train(["--name", "mine", "--stage", stage, *options])
    # The last step. Of a GPT that learned something, "runs/mine/post" is the best step: the one whose images are best.
    last = max((folder / "runs/mine/post").glob("step-*"), key=lambda step: int(step.name.removeprefix("step-")))
    convert([f"{last}", f"{folder}/decoder.pt", "--to", "upstream"])


def digits(count: int) -> Tensor:
    """The last `count` digits, float32 (count, 3, 16, 16) in [-1, 1]."""
    images = torch.from_numpy(load_digits().images[-count:]).float()[:, None] / 8 - 1
    return F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear").expand(-1, 3, -1, -1)


@torch.no_grad()
def main(argv: list[str] | None = None, **settings) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a folder to make: the files of both models, the run, and decoder.pt")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True)
    publish(folder)
    with torch.enable_grad():
        post_train(folder, settings)
    images, found, tokens = digits(100), {}, []
    for name in ("vq.pt", "decoder.pt"):
        tokenizer = robustok.load_tokenizer(folder / name, image_size=IMAGE_SIZE)
        tokens.append(tokenizer.tokenize(images))
        found[name] = F.mse_loss(tokenizer.detokenize(tokens[-1]), images).item()
        print(f"{name:12} mean squared error of decoded digits {found[name]:.3f}")
    print("their tokens are", "the same" if torch.equal(*tokens) else "others")
    return found


if __name__ == "__main__":
    main()
