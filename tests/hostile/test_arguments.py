"""Arguments that cannot be meant, on every verb: one line that names them and says what was expected, exit code 2."""

import os
from pathlib import Path

import pytest

from .table import Case, check, parameters

HUGE = str(1 << 63)
TOO_LONG = "n" * 300
LEFT = ("runs/*/.lock", "runs/*/log.jsonl")  # of a run that was opened
SHOWN = {HUGE: "HUGE", TOO_LONG: "TOO_LONG", "": "EMPTY"}  # in the names of cases


def place(folder: Path) -> None:
    """What arguments name that is not what is expected."""
    for name in ("text.txt", "text.npz"):
        (folder / name).write_text("just a sentence")
    (folder / "folder").mkdir()
    (folder / "folder.npz").mkdir()
    (folder / "lines.jsonl").write_text('{"class_id": 0, "tokens": [1, 2]}\n')
    for ending in ("", ".npz", ".yaml", ".jsonl", ".json"):
        os.mkfifo(folder / f"pipe{ending}")
    for name, target in {"zero": "/dev/zero", "loop": "loop", "broken": "nowhere", "alias": "photos"}.items():
        (folder / name).symlink_to(target)


def cases(start: str, table: dict[str | tuple[str, ...], tuple[str, ...]], needs: tuple[str, ...] = ()) -> list[Case]:
    """start: the verb and the arguments before those of the table, which are what is wrong -> what is said."""
    made = []
    for wrong, says in table.items():
        rest = tuple(wrong.split()) if isinstance(wrong, str) else wrong
        argv = (*start.split(), *rest)
        name = f"{argv[0]} {' '.join(SHOWN.get(part, part) for part in rest) or 'alone'}"
        made.append(Case(ascii(name)[1:-1], place, argv, says, needs=needs, may_leave=LEFT))
    return made


FROM_1 = "expected a whole number from 1 to 2147483647"
CHECK = cases(
    "check_data",
    {
        ("",): ("argument: found an empty text",),
        ("a\0b",): ("holds a zero byte",),
        TOO_LONG: ("File name too long",),
        "text.txt/below": ("text.txt/below cannot be looked at (Not a directory)",),
        "~nobody-of-this-name/photos": ("~nobody-of-this-name/photos does not exist",),
        "": ("the following arguments are required: PATH",),
        "photos other": ("unrecognized arguments: other",),
        "photos --nosuch": ("unrecognized arguments: --nosuch",),
        "photos --sheet": ("argument --sheet: expected one argument",),
        "photos --sheet=": ("--sheet: found an empty text",),
        "photos --sheet folder": ("--sheet: folder is a folder; expected the name of a file",),
        "photos --sheet pipe": ("--sheet: pipe is a named pipe; expected the name of a file",),
        "photos --sheet zero": ("--sheet: zero is a device; expected the name of a file",),
        "photos --sheet broken": ("--sheet: broken is a broken link; expected the name of a file",),
        "photos --sheet loop": ("--sheet: loop cannot be looked at (Too many levels of symbolic links)",),
        "photos --sheet photos/sheet.png": ("--sheet: photos/sheet.png would lie inside PATH = photos",),
        "photos --sheet alias/sheet.png": ("--sheet: alias/sheet.png would lie inside PATH = photos",),
        "photos --sheet text.txt/sheet.png": ("--sheet: text.txt/sheet.png cannot be looked at",),
        "photos --sheet /proc/sheet.png": ("--sheet: /proc/sheet.png cannot be written: nothing can be made in /proc",),
        f"photos --sheet {TOO_LONG}": ("--sheet:", "File name too long"),
    },
    ("photos",),
)
FETCH = cases(
    "fetch_data",
    {
        "": ("the following arguments are required: NAME",),
        "faces": ("argument NAME: invalid choice: 'faces'", "emoji"),
        "emoji other": ("unrecognized arguments: other",),
        "emoji --archive=": ("--archive: found an empty text",),
        "emoji --archive none": ("none does not exist; expected a tarball",),
        "emoji --archive folder": ("folder is a folder; expected a tarball",),
        "emoji --archive pipe": ("pipe is a named pipe; expected a tarball",),
        "emoji --archive zero": ("zero is a device; expected a tarball",),
        "emoji --archive loop": ("loop cannot be looked at",),
        "emoji --archive text.txt": ("text.txt cannot be read as a tarball", "npm pack emoji-datasource-google"),
        "emoji --archive text.txt --output pipe": ("--output: pipe is a named pipe; expected a folder",),
        "emoji --archive text.txt --output text.txt": ("--output: text.txt is a file; expected a folder",),
        "emoji --archive text.txt --output broken": ("--output: broken is a broken link; expected a folder",),
        "emoji --archive text.txt --output /proc/emoji": ("--output: /proc/emoji cannot be written",),
        "emoji --output photos": ("--output: photos is a folder already, and holds no emoji; choose another name",),
        "emoji --archive photos --output photos/new": ("--output: photos/new would lie inside --archive = photos",),
    },
    ("photos",),
)
TOKENIZE = cases(
    "pretokenize --device cpu",
    {
        "photos out": ("--tokenizer is missing", "a checkpoint folder of ours or a published file"),
        "photos out --tokenizer none": ("none does not exist; expected a checkpoint",),
        "photos out --tokenizer text.txt": ("text.txt is a text file; expected weights",),
        "photos out --tokenizer folder": ("folder holds no valid checkpoint: expected config.json",),
        "photos out --tokenizer pipe": ("pipe is a named pipe; expected a checkpoint",),
        "photos out --tokenizer zero": ("zero is a device; expected a checkpoint",),
        "photos out --tokenizer loop": ("loop cannot be looked at",),
        "photos text.txt --tokenizer tokenizer": ("DST: text.txt is a file; expected a folder",),
        "photos photos/tokens --tokenizer tokenizer": ("DST: photos/tokens would lie inside SRC = photos",),
        "photos tokenizer --tokenizer tokenizer": ("DST: tokenizer would lie inside --tokenizer = tokenizer",),
        "photos /proc/tokens --tokenizer tokenizer": ("DST: /proc/tokens cannot be written",),
        ("photos", "", "--tokenizer", "tokenizer"): ("photos: found an empty text",),
        "none out --tokenizer tokenizer": ("none does not exist; expected a folder of images or tar shards",),
        "text.txt out --tokenizer tokenizer": ("text.txt: not an uncompressed tar file",),
        "photos out --tokenizer tokenizer --batch_size 0": (f"argument --batch_size: found 0, {FROM_1}",),
        "photos out --tokenizer tokenizer --batch_size nan": (f"argument --batch_size: found 'nan', {FROM_1}",),
        f"photos out --tokenizer tokenizer --batch_size {HUGE}": (f"argument --batch_size: found {HUGE}, {FROM_1}",),
        "photos out --tokenizer tokenizer --device cuda:99": ("device: found 'cuda:99'", "doctor"),
        "photos out --tokenizer tokenizer --device tpu": ("device: found 'tpu', expected auto, cpu, cuda",),
        "photos out --tokenizer tokenizer --augment roll": ("argument --augment: invalid choice: 'roll'", "tencrop"),
        "none.jsonl out --codebook_size 4 --num_classes 2": ("none.jsonl does not exist; expected lines of JSON",),
        "pipe.jsonl out --codebook_size 4 --num_classes 2": ("pipe.jsonl is a named pipe",),
        "lines.jsonl out": ("a .jsonl file does not say its sizes; add --codebook_size",),
        "lines.jsonl out --codebook_size 70000 --num_classes 2": ("token shards hold 1 to 65536 codes",),
        "lines.jsonl out --codebook_size 4 --num_classes 2000000000": ("num_classes: found 2000000000, expected 1 to",),
        "photos out.jsonl": ("photos", "has no manifest.json"),
        "tokens folder.npz/x.json": ("tokens: expected latent shards",),
    },
    ("photos", "tokenizer", "tokens"),
)
SAMPLE = cases(
    "sample --generator rar --device cpu --output out",
    {
        "--generator none": ("none does not exist; expected a checkpoint",),
        "--generator pipe": ("pipe is a named pipe",),
        "--generator tokenizer": ("tokenizer is a tokenizer checkpoint", "expected a generator"),
        "--tokenizer rar": ("rar is a rar checkpoint", "expected a tokenizer"),
        "--n 0": (f"found 0, {FROM_1}",),
        "--n -5": (f"found -5, {FROM_1}",),
        "--n 1e3": ("found '1e3', expected a whole number",),
        f"--n {HUGE}": (f"found {HUGE}, {FROM_1}",),
        f"--seed {HUGE}": (f"argument --seed: found {HUGE}, expected a whole number from 0 to {2**63 - 1}",),
        "--temperature nan": ("temperature: found nan, expected a number from 0",),
        "--temperature -1": ("temperature: found -1.0",),
        "--guidance_scale inf": ("guidance_scale: found inf, expected a number from 0",),
        "--guidance_scale 1e308": ("guidance_scale: found 1e+308, expected a number from 0 to 1000",),
        "--guidance_power 0": ("guidance_power: found 0.0, expected a positive number",),
        "--top_p 2": ("top_p: found 2.0, expected a share in (0, 1]",),
        "--top_k -1": ("top_k: found -1, expected a number from 0",),
        "--top_k x": ("argument --top_k: invalid int value: 'x'",),
        "--steps 5": ("--steps: this generator is not sampled with that",),
        "--classes 3": ("classes: found [3], expected some of 0..2",),
        "--classes 1,,2": ("argument --classes: invalid list of int value: '1,,2'",),
        "--class_weights nan,1,1": ("class_weights: found [nan, 1.0, 1.0], expected 3 numbers from 0",),
        "--class_weights inf,1,1": ("class_weights: found [inf, 1.0, 1.0], expected 3 numbers from 0",),
        "--class_weights=-1,1,1": ("class_weights: found [-1.0, 1.0, 1.0], expected 3 numbers from 0",),
        "--preset ../configs/digits": ("no preset '../configs/digits'; there are: ", "robustok-b"),
        "--grid 0x3 --tokenizer tokenizer": ("argument --grid: found '0x3', expected ROWSxCOLUMNS",),
        "--grid 99999x99999 --tokenizer tokenizer": ("argument --grid: found '99999x99999'", "10000 at most"),
        "--grid 2x2": ("--grid needs images: give the --tokenizer",),
        "--save gif": ("argument --save: invalid choice: 'gif'", "tar"),
        "--precision float8": ("argument --precision: invalid choice: 'float8'",),
        "--output text.txt": ("--output: text.txt is a file; expected a folder",),
        "--output zero": ("--output: zero is a device; expected a folder",),
        "--output photos": ("photos: holds files that are no sample of ours",),
        "--output photos/out --reference photos --tokenizer tokenizer": ("would lie inside --reference = photos",),
    },
    ("rar", "tokenizer", "photos"),
)
NETWORK = "--network classifier --weights classifier"
EVALUATE = cases(
    "evaluate",
    {
        "": ("the following arguments are required: WHAT",),
        "nothing": ("invalid choice: 'nothing'", "samples"),
        "samples photos": ("the following arguments are required: --reference",),
        "samples none.npz --reference photos": ("none.npz does not exist; expected an .npz file",),
        "samples folder.npz --reference photos": ("folder.npz is a folder; expected an .npz file",),
        "samples pipe.npz --reference photos": ("pipe.npz is a named pipe; expected an .npz file",),
        f"samples photos --reference pipe.npz {NETWORK}": ("pipe.npz is a named pipe; expected an .npz file",),
        f"samples photos --reference none {NETWORK}": ("none does not exist; expected a folder of images",),
        "samples photos --reference photos --weights none": ("none: no such file. Inception features need",),
        "samples photos --reference photos --weights zero": ("zero: no such file. Inception features need",),
        "samples photos --reference photos --network classifier --weights none": ("none does not exist; expected the",),
        "samples photos --reference photos --network classifier --weights loop": ("loop cannot be looked at",),
        "samples photos --reference photos --network resnet": ("argument --network: invalid choice: 'resnet'",),
        "samples photos --reference photos --size 0": ("--size: found 0, expected a whole number from 1 to 10000",),
        "samples photos --reference photos --size 99999": ("argument --size: found 99999",),
        "samples photos --reference photos --output text.txt": ("--output: text.txt is a file; expected a folder",),
        "samples photos --reference photos --output photos/out": ("would lie inside images = photos",),
        "samples photos --reference photos --output alias": ("--output: alias would lie inside",),
        "samples photos --reference photos --network dinov2": ("--weights is missing", "a file of DINOv2's weights"),
        "samples photos --reference photos --network classifier": ("--weights is missing", "a run's RUN/classifier"),
        "samples photos --reference photos --network classifier --weights tokenizer": (
            "is a tokenizer checkpoint; exp",
        ),
        f"samples folder --reference photos {NETWORK}": ("folder holds no images; expected one sub-folder per class",),
        "reference photos --save folder.npz": ("--save: folder.npz is a folder; expected the name of a file",),
        "reference photos --save sums": ("argument --save: found 'sums', expected a name that ends in .npz",),
        "reference text.npz --save text.npz": ("--save: text.npz would replace images = text.npz",),
        "generator rar --tokenizer tokenizer --reference photos --per_class 0": (f"--per_class: found 0, {FROM_1}",),
        f"tokenizer none --images photos {NETWORK}": ("none does not exist; expected a checkpoint",),
        f"tokenizer tokenizer --images photos --lpips none {NETWORK}": ("none does not exist; expected the folder of",),
        "benchmark none.yaml --images photos": ("none.yaml does not exist", "shipped lists are digits, published"),
        "benchmark pipe.yaml --images photos": ("pipe.yaml is a named pipe",),
        "benchmark digits --files none": ("none does not exist; expected the folder with the files",),
        "benchmark digits --shard 3/2": ("argument --shard: found '3/2', expected i/N",),
        "benchmark digits --shard 0/0": ("argument --shard: found '0/0', expected i/N",),
    },
    ("photos", "rar", "tokenizer", "classifier"),
)
EXPLAIN = cases(
    "explain",
    {
        "codebook none --images photos": ("none does not exist; expected a checkpoint",),
        "strips tokenizer --images none": ("none does not exist; expected a folder of images",),
        "strips tokenizer --images photos --count 0": (f"argument --count: found 0, {FROM_1}",),
        f"elbow --images photos --clusters {HUGE}": (f"argument --clusters: found {HUGE}, {FROM_1}",),
        "lipschitz tokenizer --images photos --limit -1": (f"argument --limit: found -1, {FROM_1}",),
        "correlation none.json": ("none.json does not exist; expected a JSON file",),
        "correlation pipe.json": ("pipe.json is a named pipe; expected a JSON file",),
        "correlation folder": ("folder is a folder; expected a JSON file",),
        "strips tokenizer --images photos --output text.txt": ("--output: text.txt is a file; expected a folder",),
        "strips tokenizer --images photos --output photos": ("--output: photos would lie inside --images = photos",),
    },
    ("photos", "tokenizer"),
)
CONVERT = cases(
    "convert",
    {
        "none out": ("none does not exist; expected a checkpoint",),
        "pipe out": ("pipe is a named pipe; expected a checkpoint",),
        "folder out": ("folder holds no valid checkpoint",),
        "tokenizer text.txt": ("DST: text.txt is a file already; choose another name or remove it",),
        "tokenizer broken": ("DST: broken is a broken link already; choose another name",),
        "tokenizer tokenizer/copy": ("DST: tokenizer/copy would lie inside SRC = tokenizer",),
        "tokenizer out.pt": ("DST: found out.pt, the name of a file", "or --to upstream, which writes a file"),
        "tokenizer /proc/copy": ("DST: /proc/copy cannot be written",),
        "tokenizer out --to sideways": ("argument --to: invalid choice: 'sideways'",),
        "tokenizer out --to upstream --teacher none": ("none does not exist; expected a file of weights",),
    },
    ("tokenizer",),
)
DOCTOR = cases(
    "doctor",
    {
        "--tokenizer none": ("none does not exist; expected a checkpoint",),
        "--tokenizer tokenizer --images none": ("none does not exist; expected a folder of images",),
        "--tokenizer tokenizer --images pipe.npz": ("pipe.npz is a named pipe",),
        "--fast": ("unrecognized arguments: --fast",),
        "--images photos": ("--images: found photos without --tokenizer, which is to give them back",),
    },
    ("tokenizer", "photos"),
)
TRAIN = cases(
    "train --runs runs --device cpu",
    {
        "--config none.yaml": ("none.yaml does not exist; expected a YAML file; the presets are in",),
        "--config pipe.yaml": ("pipe.yaml is a named pipe; expected a YAML file",),
        "--config=folder": ("folder is a folder; expected a YAML file",),
        "--data.root none": ("none does not exist; expected a folder of images",),
        "--data.root pipe": ("pipe is a named pipe; expected a folder of images",),
        "--name ..": ("name: found", "the name of one folder"),
        "--name a/b": ("name: found", "the name of one folder"),
        "--name=": ("--name: found an empty text",),
        "--runs text.txt": ("runs: text.txt/demo cannot be looked at", "expected a folder"),
        "--runs /proc": ("runs: /proc/", "cannot be written"),
        "--stage sideways": ("--stage: found 'sideways', expected all or one of classifier",),
        "--device cuda:99": ("device: found 'cuda:99'",),
        "--frozen.lpips pipe": ("frozen.lpips: found pipe, expected a path that is a folder",),
        "--frozen.dinov2 zero": ("frozen.dinov2: found zero, expected a path that is a file",),
        "--start.tokenizer none": ("none does not exist; expected a checkpoint",),
        "--start.classifier none": ("none does not exist; expected the folder of a run's classifier",),
        "--start.classifier text.txt": ("text.txt is a file; expected the folder of a run's classifier",),
        "--start.classifier folder": ("folder",),
        "--start.classifier any --stage classifier": ("--stage: found 'classifier'", "start.classifier = any is"),
        "--tokenizer.widht 8": ("unknown setting 'tokenizer.widht': the nearest valid setting is 'tokenizer.width'",),
        "--foo 3": ("unknown setting 'foo': --print_config lists the valid ones",),
        "sideways": ("unrecognized arguments: sideways",),
    },
)
STUDY = cases(
    "study",
    {
        "--file none.yaml": ("none.yaml does not exist; expected a YAML file; the studies are in",),
        "--file pipe.yaml": ("pipe.yaml is a named pipe; expected a YAML file",),
        "--file folder": ("folder is a folder; expected a YAML file",),
        "--file text.txt": ("text.txt cannot be read as a study", "expected settings, seeds and rows, found 'just a"),
        "--rows nothing": ("--rows: found nothing, expected some of none, annealed-half",),
        "--rows none --seeds -1": ("argument --seeds: found -1, expected a whole number from 0",),
        "--rows none --seeds x": ("argument --seeds: found 'x', expected a whole number from 0",),
        "--rows none --jobs 0": (f"argument --jobs: found 0, {FROM_1}",),
        "--rows none --recipes nothing": ("nothing/none",),
        "--rows none --runs text.txt": ("--runs: text.txt is a file; expected a folder",),
        "--rows none --runs pipe": ("--runs: pipe is a named pipe; expected a folder",),
        "--runs /proc/runs": ("cannot be written",),
        "--output text.txt": ("--output: text.txt is a file; expected a folder",),
        "--output broken": ("--output: broken is a broken link; expected a folder",),
        "sideways": ("unrecognized arguments: sideways",),
    },
)
TABLES = CHECK, FETCH, TOKENIZE, SAMPLE, EVALUATE, EXPLAIN, CONVERT, DOCTOR, TRAIN, STUDY


@pytest.mark.parametrize("case", parameters(*TABLES))
def test_arguments(case: Case, tmp_path: Path, good: Path, server):
    said = check(case, tmp_path, good, server)
    (line,) = [line for line in said.splitlines() if line.startswith("robustok: ")]
    assert said.endswith(f"{line}\n"), "the message is one line, the last"
