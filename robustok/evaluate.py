r"""Evaluate images, a tokenizer or a generator: python -m robustok.evaluate WHAT ... [options]

    python -m robustok.evaluate samples samples.npz --reference VIRTUAL_imagenet256_labeled.npz
    python -m robustok.evaluate samples pictures/ --reference photos/ --size 256
    python -m robustok.evaluate reference photos/ --size 256 --save photos-256.npz
    python -m robustok.evaluate tokenizer main-train.pt other.pt --images photos/ --pfid quick
    python -m robustok.evaluate generator rar_b.bin --tokenizer main-train.pt --reference photos-256.npz
    python -m robustok.evaluate decoders main-train.pt post-train.pt --generator rar_b.bin \
        --images photos/ --reference photos-256.npz
    python -m robustok.evaluate benchmark published --files weights/ --images photos/ --reference photos-256.npz
    python -m robustok.evaluate recipe rar/rar-b --figures samples/
    python -m robustok.evaluate tokenizer runs/demo/tokenizer --images digits \
        --network classifier --weights runs/demo/classifier

Images are a folder, tar shards, Parquet files, an .npz with arr_0 (uint8, N x H x W x 3), or "digits". A reference is
any of these, or saved statistics: ADM's .npz or what `reference` writes. Each command prints a table and writes
metrics.json and report.html to the folder --output. `python -m robustok.explain` shows why a tokenizer scores so.
"""

import argparse
import sys
from collections.abc import Callable

import torch

from .config import FlowSamplingConfig, SamplingConfig
from .core.cli import run_verb
from .core.device import on_the_host, resolve_device
from .core.options import (
    PRECISIONS,
    add_device,
    add_fast,
    add_generator_sizes,
    add_network,
    add_output,
    add_sampling,
    add_seed,
    add_size,
    add_tokenizer_sizes,
    choose_speed,
    generator_sizes,
    npz_name,
    positive,
    sampling_of,
    sampling_settings,
    tokenizer_sizes,
    verb_parser,
)
from .core.paths import FILE, FOLDER, check_output
from .core.shards import add_shard, my_shard
from .core.text import say


def main(argv: list[str]) -> int | None:
    """Parses the options and runs one command; the exit code where it has one."""
    options = _parser().parse_args(argv)
    options.device = resolve_device(options.device)
    speed = choose_speed(options, options.device.type)
    read = {name: getattr(options, name, None) for name in ("images", "reference")}
    written, kind = ("save", FILE) if hasattr(options, "save") else ("output", FOLDER)
    check_output(f"--{written}", getattr(options, written), read, kind=kind)
    if speed and options.command is not recipe:
        say(f"computing: {speed}")
    return options.command(options)


def samples(options: argparse.Namespace) -> None:
    """FID, sFID, Inception Score, KID, precision and recall of images."""
    from .evaluation.streams import open_stream

    _compare(open_stream(options.images, options.size), options)


def generator(options: argparse.Namespace) -> None:
    """The same of class-balanced images that a generator makes."""
    stream, settings = _generated_images(options, _tokenizer(options.tokenizer, options).to(options.device))
    made = _made(options.tokenizer, options, settings)
    _compare(stream, options, sampling=settings, made=made)


def decoders(options: argparse.Namespace) -> None:
    """One tokenizer before and after post-training: rFID, pFID or nFID and gFID of both decoders, the same latents."""
    from .evaluation.decoders import evaluate_decoder, refuse_other_latents
    from .evaluation.reference import load_reference
    from .evaluation.streams import open_stream
    from .generation.batches import DecodedImages
    from .report.conditions import of_comparison, together
    from .report.decoders import report_decoders
    from .report.results import Results

    paths = (options.before, options.after)
    both = [_tokenizer(path, options).to(options.device) for path in paths]
    refuse_other_latents(*both, names=paths)
    drawn, settings = _generated_images(options, both[0])
    network, images = _network(options), open_stream(options.images, both[0].image_size)
    against = load_reference(options.reference, network, options.size)
    generated = torch.cat([*on_the_host(drawn.generated())])
    evaluated = []
    for path, tokenizer in zip(paths, both, strict=True):
        samples = DecodedImages(tokenizer, generated, drawn.labels, f"{options.generator} through {path}")
        found = evaluate_decoder(tokenizer, path, images, samples, against, network, robust=options.pfid == "full")
        evaluated.append(found)
    results = Results(options.output, f"Decoders {options.before} and {options.after}")
    report_decoders(results, evaluated, against, network.protocol)
    results.add("sampling", settings)
    common = of_comparison(evaluated[0].samples, against)
    for path, record in zip(paths, results.record["decoders"], strict=True):
        record["conditions"] = together(common, _made(path, options, settings))
    results.save()


def _made(tokenizer: str, options: argparse.Namespace, sampling: dict) -> dict:
    """What images of --generator through a tokenizer depend on."""
    from .report.conditions import of_models

    precisions = options.tokenizer_precision, options.precision
    return of_models(tokenizer, options.generator, sampling, *precisions, options.compile)


def _tokenizer(path: str, options: argparse.Namespace):
    from .models.computing import compute_in
    from .models.load import load_tokenizer

    tokenizer = load_tokenizer(path, **tokenizer_sizes(options))
    return compute_in(tokenizer, options.tokenizer_precision, options.compile)


def _generated_images(options: argparse.Namespace, tokenizer):
    """(class-balanced images of --generator through the tokenizer, the settings that they are sampled with)."""
    from .generation.batches import GeneratedImages
    from .models.load import check_fits, load_generator, take_statistics
    from .models.registry import family_of
    from .presets import sampling_defaults

    model = load_generator(options.generator, **generator_sizes(options))
    model = model.to(options.device, getattr(torch, options.precision))
    check_fits(tokenizer, model)
    take_statistics(model, tokenizer)
    sampling = sampling_settings(options, sampling_defaults(options.generator, family_of(model).sampling))
    drawn = {"per_class": options.per_class, "seed": options.seed}
    stream = GeneratedImages(model, tokenizer, name=options.generator, compiled=options.compile, **drawn, **sampling)
    return stream, sampling | drawn


def _compare(stream, options: argparse.Namespace, **made) -> None:
    """Compares a stream with the reference and reports. made: how it was made, as `report_stream` takes it."""
    from .report.comparison import report_stream

    where = {"size": options.size, "shard": my_shard(options)}
    report_stream(stream, _network(options), options.reference, options.output, **where, **made)


def reference(options: argparse.Namespace) -> None:
    """Statistics of images, saved to be compared with again and again."""
    from .core.files import sha256
    from .evaluation.parts import collected
    from .evaluation.streams import open_stream

    stream, parts = open_stream(options.images, options.size), options.save.with_name(f"{options.save.name}.parts")
    with collected(stream, _network(options), my_shard(options), parts) as found:
        if found is not None:
            found.save(options.save)
            say(f"{options.save}: {found.count} images, {found.protocol}, SHA-256 {sha256(options.save)}")


def tokenizer(options: argparse.Namespace) -> None:
    """rFID, pFID or nFID, iFID, PSNR, SSIM, LPIPS and codebook usage of tokenizers: the benchmark table."""
    from .evaluation.streams import open_stream
    from .evaluation.tokenizers import check_evaluable, evaluate_tokenizer
    from .models.frozen.lpips import load_lpips
    from .report.conditions import of_tokenizer
    from .report.results import Results
    from .report.tokenizers import report_tokenizers

    network = _network(options)
    perceptual = load_lpips(options.lpips).to(options.device) if options.lpips else None
    models = [_tokenizer(path, options) for path in options.tokenizers]
    for path, model in zip(options.tokenizers, models, strict=True):  # all of them, before hours go into the first
        check_evaluable(model, path, options.pfid, options.perturbation)
    streams = {size: open_stream(options.images, size) for size in dict.fromkeys(model.image_size for model in models)}
    results = Results(options.output, f"Tokenizers on {options.images}")
    settings = {"perceptual": perceptual, "pfid": options.pfid, "seed": options.seed}
    settings |= {"perturbations": options.perturbation, "ifid": options.ifid}
    evaluated = []
    for path in options.tokenizers:
        model = models.pop(0).to(options.device)
        evaluated.append(evaluate_tokenizer(model, path, streams[model.image_size], network, **settings))
        del model  # with the graphs that a GPU has captured of it
    report_tokenizers(results, evaluated, network.protocol)
    for path, record in zip(options.tokenizers, results.record["tokenizers"], strict=True):
        record["conditions"] = of_tokenizer(path, record, options.tokenizer_precision, options.seed, options.compile)
    results.add("conditions", {"features": {"protocol": network.protocol, "weights": network.sha256}})
    computed = {name: getattr(options, name) for name in ("tokenizer_precision", "compile", "seed")}
    results.add("protocol", {"features": network.protocol, "weights": network.sha256} | computed)
    results.save()


def benchmark(options: argparse.Namespace) -> None:
    """The tokenizers of a list, with their generators where it names them, and how their figures rank them."""
    from .benchmark.command import run_benchmark

    run_benchmark(options, lambda: _network(options))


def recipe(options: argparse.Namespace) -> int:
    """Published figures: what they are expected to be, and which fields differ where yours are not."""
    from .recipes.command import run_recipe

    return run_recipe(options, main)


def _network(options: argparse.Namespace) -> Callable:
    from .evaluation.features.registry import open_network

    return open_network(options.network, options.weights, options.mode, options.device)


def _parser() -> argparse.ArgumentParser:
    from .benchmark.command import add_benchmark_options
    from .evaluation.features.registry import INCEPTION_WEIGHTS, NETWORKS
    from .ops.perturbation import KINDS
    from .recipes.command import add_recipe_options

    parser = verb_parser("evaluate", __doc__)
    commands = parser.add_subparsers(required=True, metavar="WHAT")

    def command(function: Callable) -> argparse.ArgumentParser:
        found = commands.add_parser(function.__name__, help=function.__doc__, description=function.__doc__)
        found.set_defaults(command=function)
        add_network(found, NETWORKS, INCEPTION_WEIGHTS)
        add_device(found)
        if function is not recipe:  # which measures as its fields say
            add_fast(found, tokenizer=function not in (samples, reference))
        if function is not reference:  # which writes --save alone
            add_output(found, "evaluation", "metrics.json, report.html and pictures")
        if function not in (samples, reference, recipe):
            add_seed(found, "perturbation or sampling")
        return found

    given = command(samples)
    given.add_argument("images", help="what to evaluate")
    given.add_argument("--reference", required=True, help="images or saved statistics to compare with")
    add_size(given, "both sides")
    add_shard(given, "parts of 5,000 images")
    save = command(reference)
    add_shard(save, "parts of 5,000 images")
    save.add_argument("images", help="the images of the reference")
    add_size(save, "them")
    save.add_argument("--save", required=True, type=npz_name, help=".npz to write")
    many = command(tokenizer)
    many.add_argument("tokenizers", nargs="+", help="checkpoints of this package or released files")
    many.add_argument("--images", required=True, help="images to give back, cut to the tokenizer's size")
    many.add_argument(
        "--pfid",
        choices=("full", "quick", "none"),
        default="full",
        help="perturbed figures in full (pFID: 15 settings), as a quick estimate (3 settings), or none (default full)",
    )
    many.add_argument(
        "--perturbation",
        nargs="+",
        choices=KINDS,
        metavar="KIND",
        help=f"what is done to latents: of {', '.join(KINDS)} (default: neighbor, which is pFID, for a tokenizer with"
        " codes; gaussian, which is nFID, for a continuous one)",
    )
    about = "also the FID of interpolations between images that are nearest by their latents (default) or features"
    many.add_argument("--ifid", nargs="?", const="latent", choices=("latent", "features"), help=about)
    many.add_argument("--lpips", help="folder with the weights of LPIPS (vgg.pth) and VGG-16 (default: no LPIPS)")
    add_tokenizer_sizes(many)
    add_benchmark_options(command(benchmark))
    add_recipe_options(command(recipe))
    drive = command(generator)
    drive.add_argument("generator", help="checkpoint of this package or a released file")
    drive.add_argument("--tokenizer", required=True, help="the tokenizer whose tokens or latents it makes")
    add_shard(drive, "parts of 5,000 images")
    two = command(decoders)
    two.add_argument("before", help="the tokenizer as main training left it")
    two.add_argument("after", help="the same with its decoder post-trained")
    two.add_argument("--generator", required=True, help="what makes the tokens or latents that both decode")
    two.add_argument("--images", required=True, help="images to give back, cut to the tokenizer's size")
    two.add_argument(
        "--pfid", choices=("full", "none"), default="full", help="pFID, or nFID of latents, or none (default full)"
    )
    for sampled in (drive, two):
        sampled.add_argument("--reference", required=True, help="images or saved statistics to compare with")
        add_size(sampled, "the reference's images")
        sampled.add_argument("--per_class", type=positive, default=50, help="images of each class (default 50)")
        about = "of the generator's weights and caches; logits are always float32 (default float32)"
        sampled.add_argument("--precision", choices=PRECISIONS, help=about)
        add_generator_sizes(sampled)
        add_tokenizer_sizes(sampled, heads="tokenizer_heads")
        kinds = {"tokens": sampling_of(SamplingConfig()), "latents": sampling_of(FlowSamplingConfig())}
        add_sampling(sampled, kinds, first="that of the run that made the generator, else ")
    return parser


if __name__ == "__main__":
    sys.exit(run_verb(main))
