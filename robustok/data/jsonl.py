"""Token sequences as lines of JSON, as the authors release them: {"class_id": 3, "tokens": [17, ...]}."""

import codecs
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..core.errors import UserError
from ..core.files import remove_leftovers, sha256, written_whole
from ..core.paths import regular_file
from .images import bad_budget
from .listing import MAX_CLASSES
from .tokens import TokenSet, TokenWriter

LONGEST = 1 << 20  # bytes of a line: 256 tokens take 1500
SHORTEST = len(b'{"class_id":0,"tokens":[0]}')
MANY = 10_000  # problems that are collected, however many the file may have


def import_jsonl(
    path: str | Path, folder: str | Path, *, codebook_size: int, num_classes: int, shard_rows: int = 65536
) -> tuple[TokenSet, list[str]]:
    """Reads `path` line by line into the token shards `folder`; ids are the line numbers, from 0.

    A line that is not valid is left out and named in the list returned ("line 7: ..."); the first valid line sets the
    number of tokens. Blank lines hold nothing and are passed over. The file is read twice, so that it is refused before
    anything is written: UserError if no line is valid, or more are not than `images.bad_budget` grants.
    """
    path = regular_file(path, "lines of JSON")
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes: found {num_classes}, expected 1 to {MAX_CLASSES}")
    problems: list[str] = []
    count = sum(1 for _ in _valid_rows(path, codebook_size, num_classes, problems))
    if count == 0:
        raise UserError(f"{path}: no valid line; {problems[0] if problems else 'the file is empty'}")
    if len(problems) > (budget := bad_budget(count + len(problems))):
        raise UserError(
            f"{path}: {len(problems)} of {count + len(problems)} lines are not valid, more than the {budget} that are "
            f"left out ({problems[0]}); repair or remove them. Nothing was written"
        )
    names = [str(label) for label in range(num_classes)]
    about = {"tokenizer": None, "codebook_size": codebook_size, "class_names": names, "lines": sha256(path)}
    writer = TokenWriter(folder, about, shard_rows=shard_rows)
    rows = _valid_rows(path, codebook_size, num_classes, [])
    missing = set(writer.missing(count))
    for number in range(-(-count // shard_rows)):
        chunk = list(islice(rows, shard_rows))
        if number in missing:
            ids, labels, tokens = zip(*chunk, strict=True)
            writer.write(
                number, torch.from_numpy(np.stack(tokens).astype(np.int64)), torch.tensor(labels), torch.tensor(ids)
            )
    return writer.finish(count), problems


def export_jsonl(tokens: TokenSet, path: str | Path) -> None:
    """Writes every row of `tokens` as a line {"class_id": ..., "tokens": [...]} of `path`, whole or not at all."""
    path = Path(path)
    remove_leftovers(path.parent, path.name)
    with written_whole(path) as temporary, open(temporary, "w") as file:
        for start in range(0, len(tokens), 1024):
            rows = slice(start, start + 1024)
            for label, row in zip(tokens.labels[rows].tolist(), tokens.tokens[rows].tolist(), strict=True):
                file.write(json.dumps({"class_id": label, "tokens": row}) + "\n")


def _valid_rows(
    path: Path, codebook_size: int, num_classes: int, problems: list[str]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(line number from 0, class, tokens) of each valid line; the others go to `problems`."""
    shape = None
    with path.open("rb") as file:
        lines = os.fstat(file.fileno()).st_size // SHORTEST  # no more can be valid
        for number, line in enumerate(iter(lambda: file.readline(LONGEST + 1), b"")):
            if len(line) > LONGEST:
                raise UserError(f"{path}: line {number + 1} has over {LONGEST:,} bytes; expected one image a line")
            if len(problems) > max(MANY, bad_budget(lines + len(problems))):
                raise UserError(f"{path}: {len(problems)} lines are not valid ({problems[0]}); repair or remove them")
            line = line.removeprefix(codecs.BOM_UTF8) if number == 0 else line
            if not line.strip():
                continue
            try:
                label, tokens = _parse(line, codebook_size, num_classes)
                shape = shape or tokens.shape
                if tokens.shape != shape:
                    raise ValueError(f"expected {shape} tokens as in the lines before, found {tokens.shape}")
                yield number, label, tokens
            except ValueError as error:
                problems.append(f"line {number + 1}: {error}")


def _parse(line: bytes, codebook_size: int, num_classes: int) -> tuple[int, np.ndarray]:
    try:
        record = json.loads(line)
        label, tokens = record["class_id"], np.array(record["tokens"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f'expected {{"class_id": int, "tokens": [int, ...]}}, found {line[:60]!r}') from error
    if type(label) is not int or not 0 <= label < num_classes:
        raise ValueError(f"class_id: expected a whole number in 0..{num_classes - 1}, found {label!r}")
    if tokens.dtype.kind != "i" or not tokens.size:
        raise ValueError(f"tokens: expected whole numbers, found {str(record['tokens'])[:60]}")
    if tokens.min() < 0 or tokens.max() >= codebook_size:
        raise ValueError(f"tokens: expected 0..{codebook_size - 1}, found {tokens.min()}..{tokens.max()}")
    return label, tokens.astype(np.uint16)
