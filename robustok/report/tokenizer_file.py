"""What a file of a tokenizer holds, and whether it works: what `doctor --tokenizer` shows."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..core.sizes import say_size
from ..data.pictures import sample_pictures
from ..data.transforms import from_uint8
from ..evaluation.explaining import code_counts
from ..evaluation.perturbing import how_perturbable, similarity_of
from ..evaluation.streams import open_stream
from ..evaluation.value_range import Range, check_range, described
from ..models import load
from ..models.interfaces import LoadedTokenizer, is_discrete
from ..models.registry import family_of

IMAGES = 16  # of a stream that are reconstructed


def examine_tokenizer(path: str, images: str | None = None, **sizes: Any) -> dict[str, Any]:
    """Everything the report says, as JSON types.

    Args:
        images: a path as of `open_stream`, of which the first few are taken; None: two photographs, also mirrored.
        sizes: what the caller says where the file cannot, as of `load_tokenizer`.

    Raises: UserError for a tokenizer or images that cannot be opened.
    """
    checkpoint = load.open_checkpoint(load.locate(path), "tokenizer", **sizes)
    tokenizer = load.build(checkpoint)
    size, source = tokenizer.image_size, checkpoint.source
    pixels = sample_pictures(size) if images is None else next(iter(open_stream(images, size)))[:IMAGES]
    checked = check_range(tokenizer, pixels, _declared(checkpoint))
    return {
        "file": str(checkpoint.path),
        "layout": checkpoint.layout,
        "family": family_of(tokenizer).kind,
        "image_size": size,
        "latents": list(tokenizer.latent_shape),
        "codes": _codes(tokenizer, pixels) if is_discrete(tokenizer) else None,
        "value_range": list(checked.declared),
        "source": None if source is None else asdict(source),
        "reconstruction": {
            "images": images or "two photographs that ship with scikit-learn, also mirrored",
            "count": len(pixels),
            "psnr": {described(values): round(value, 2) for values, value in checked.psnr.items()},
            "mean_colours": round(checked.flat, 2),
            "poor": checked.poor,
            "best_range": list(checked.best),
            "range_fits": checked.fits,
            "verdict": checked.verdict(),
        },
    }


def describe_tokenizer(found: dict[str, Any]) -> str:
    """The same for people, some lines."""
    latents, codes, source = found["latents"], found["codes"], found["source"]
    lines = [
        f"{found['file']}: {found['layout']}",
        f"family {found['family']}: images of {say_size(found['image_size'])} pixels in "
        f"{described(found['value_range'])}, {latents[0]} latents of D = {latents[1]}",
    ]
    if codes is None:
        lines.append("continuous: no codebook")
    else:
        books = f"{codes['codebooks']} codebooks of " if codes["codebooks"] > 1 else ""
        lines.append(
            f"{codes['tokens']} tokens of {books}K = {codes['K']} codes, similarity {codes['similarity']}, "
            f"perturbable: {codes['perturbable']}"
        )
    if source is None:
        lines.append("source of the weights: not known")
    else:
        lines.append(
            f"weights of {source['name']} from {source['repository']}, "
            f"{'published without a licence' if source['licence'] is None else 'licence ' + source['licence']}"
        )
        lines.append(
            f"    its own evaluation: weights {source['weights']}, images in {described(source['value_range'])}, "
            f"resize {source['resize']}, crop {source['crop']}"
        )
    seen = found["reconstruction"]
    lines.append(f"reconstruction of {seen['count']} images ({seen['images']}):")
    lines += [f"    as if in {name:10}PSNR {value:6.2f} dB" for name, value in seen["psnr"].items()]
    lines.append(f"    mean colours alone   {seen['mean_colours']:6.2f} dB")
    if codes is not None:
        lines.append(f"    codes used: {codes['used']} of {codes['K'] * codes['codebooks']}")
    return "\n".join([*lines, seen["verdict"]])


def _declared(checkpoint: Checkpoint) -> Range:
    """The range of values that the network is given: as its config says, else its source; else [-1, 1]."""
    for known in (checkpoint.config, checkpoint.source):
        if hasattr(known, "value_range"):
            return tuple(known.value_range)
    return (-1.0, 1.0)


def _codes(tokenizer: LoadedTokenizer, images: Tensor) -> dict[str, Any]:
    *several, K, _ = tokenizer.codebook.shape
    return {
        "tokens": tokenizer.num_tokens,
        "K": K,
        "codebooks": several[0] if several else 1,
        "similarity": similarity_of(tokenizer),
        "perturbable": how_perturbable(tokenizer),
        "used": int((code_counts(tokenizer, tokenizer.tokenize(from_uint8(images))) > 0).sum()),
    }
