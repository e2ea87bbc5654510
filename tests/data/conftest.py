import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = {"cat": 7, "Dog": 6, "eel": 8}


@pytest.fixture
def photos(tmp_path) -> Path:
    """A folder of 21 random PNGs of different sizes in the classes cat, Dog and eel."""
    random = np.random.default_rng(0)
    root = tmp_path / "photos"
    for name, count in CLASSES.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            size = (*random.integers(20, 60, 2), 3)
            Image.fromarray(random.integers(0, 256, size, np.uint8)).save(root / name / f"{number}.png")
    return root


def write_parquet(
    photos: Path, folder: Path, *, split="train", struct=True, group=4, labels=(), names=(), spoiled=None, only=None
) -> list[Path]:
    """The images of `photos` as two Parquet files of 8 and 13 rows, in the schema of Hugging Face's data sets.

    labels, names: in place of the folder's; None: no column, no metadata. spoiled: bytes by row in place of the
    image's. only: write one of the files alone.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(photos.rglob("*.png"), key=lambda path: (path.parent.name, path.name))
    classes = sorted({path.parent.name for path in files})
    data = [(spoiled or {}).get(row, path.read_bytes()) for row, path in enumerate(files)]
    images = [{"bytes": b, "path": path.name} for b, path in zip(data, files, strict=True)] if struct else data
    columns = {"image": pa.array(images, pa.struct({"bytes": pa.binary(), "path": pa.string()}) if struct else None)}
    features = {"image": {"_type": "Image"}}
    if labels is not None:
        columns["label"] = pa.array(list(labels) or [classes.index(path.parent.name) for path in files])
    if labels is not None and names is not None:
        features["label"] = {"_type": "ClassLabel", "names": list(names) or classes}
    table = pa.table(columns)
    table = table.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for number, part in enumerate((table[:8], table[8:])):
        written.append(folder / f"{split}-{number:05d}-of-00002.parquet")
        if only in (None, number):
            pq.write_table(part, written[-1], row_group_size=group)
    return written
