"""Noto emoji as a folder of images: 3,786 drawings of 64 x 64 pixels, from the npm package emoji-datasource-google.

The package is under the MIT licence, the drawings (Google's Noto Emoji) are under the Apache licence 2.0.
"""

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import UserError
from ..core.files import written_whole
from ..core.parsing import named_in, parsing
from ..core.paths import regular_file
from .groups import write_groups
from .tar_headers import member_problem

PACKAGE = "emoji-datasource-google@16.0.0"
CONTENT = "979a46c8870d3bdbf2d96f68aae412028087447b28d2cd4304d04837beda559f"  # see `content_hash`
LIST, PICTURES = "package/emoji.json", "package/img/google/64/"
SIDE, BACKGROUND = 64, "white"
_MOST_BYTES = 1 << 27  # of the tar file; the package's has 80 MB
_CURE = f"give the tarball that `npm pack {PACKAGE}` writes"
LICENCES = "LICENSE.txt"  # a folder of emoji is known by it
LICENCE = f"""Noto emoji, 64 x 64 pixels, from the npm package {PACKAGE}, put on a plain white background.
The package is under the MIT licence (c) Cal Henderson; the drawings are Google's Noto Emoji, Apache licence 2.0.
One folder a category; groups.csv: an emoji, its skin tones and emoji that are drawn alike are one group.
"""


def write_emoji(archive: Path, folder: Path, content: str = CONTENT) -> int:
    """Writes the emoji of the package's tarball as a folder of class folders, whole or not at all.

    Classes are the package's categories; the five skin tones alone ("Component") are one of them. Pictures are RGB PNG
    on white, named by their code points. groups.csv holds each emoji, its skin tones and what is drawn alike together.
    content: what `content_hash` must give. Returns the number of images.

    Raises: UserError for a file that is no such tarball, or holds something else; OSError.
    """
    members = _read(archive)
    if (found := content_hash(members)) != content:
        raise UserError(
            f"{archive}: its emoji.json and pictures of {SIDE} pixels have the SHA-256 {found}, expected {content}; "
            f"{_CURE}"
        )
    with parsing(archive, "a package of emoji", _CURE):
        pictures, groups = _drawn(members)
    with written_whole(folder, sync=False) as temporary:
        for path, picture in pictures.items():
            (temporary / path).parent.mkdir(parents=True, exist_ok=True)
            picture.save(temporary / path, "PNG")
        write_groups(temporary, groups)
        (temporary / LICENCES).write_text(LICENCE)
    return len(pictures)


def content_hash(members: dict[str, bytes]) -> str:
    """SHA-256 over names, lengths and bytes in the order of the names: however the tarball was packed."""
    digest = hashlib.sha256()
    for name, data in sorted(members.items()):
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _read(archive: Path) -> dict[str, bytes]:
    """The list and the pictures, by name. Nothing is unpacked to disk, and no more to memory than the bound."""
    found: dict[str, bytes] = {}
    with parsing(archive, "a tarball", _CURE):
        with gzip.open(regular_file(archive, "a tarball")) as file:
            data = file.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UserError(f"{archive} unpacks to more than {_MOST_BYTES:,} bytes; {_CURE}")
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                wanted = member.name == LIST or member.name.startswith(PICTURES)
                if wanted and member.isreg() and member_problem(member, len(data)) is None:
                    found[member.name] = _bytes_of(tar, member)
    return found


def _bytes_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: Any = tar.extractfile(member)
    return file.read()


def _drawn(members: dict[str, bytes]) -> tuple[dict[str, Image.Image], dict[str, str]]:
    """Each picture, and the name of its group, by its path in the folder."""
    pictures: dict[str, Image.Image] = {}
    groups: dict[str, str] = {}
    seen: dict[bytes, str] = {}  # a picture -> the group that it is in: some flags and families are drawn alike
    for emoji in json.loads(members[LIST]):
        category = named_in(Path(), emoji["category"].replace(" & ", " and ").replace(" ", "_").lower(), LIST)
        tones = [emoji["image"], *(tone["image"] for tone in emoji.get("skin_variations", {}).values())]
        own = {str(named_in(category, tone, LIST)): _on_background(members, PICTURES + tone) for tone in tones}
        pixels = [picture.tobytes() for picture in own.values()]
        alike = list(dict.fromkeys(seen[picture] for picture in pixels if picture in seen))
        group = alike[0] if alike else emoji["unified"]
        for table in (seen, groups):  # groups that this emoji joins become one
            table |= {key: group for key, other in table.items() if other in alike[1:]}
        seen |= dict.fromkeys(pixels, group)
        groups |= dict.fromkeys(own, group)
        pictures |= own
    return pictures, groups


def _on_background(members: dict[str, bytes], name: str) -> Image.Image:
    if name not in members:
        raise ValueError(f"the list names {name}, which is not there")
    with Image.open(io.BytesIO(members[name]), formats=["PNG"]) as stored:
        if stored.size != (SIDE, SIDE):
            raise ValueError(f"{name} has {stored.width} x {stored.height} pixels, expected {SIDE} x {SIDE}")
        drawing = stored.convert("RGBA")
    picture = Image.new("RGBA", drawing.size, BACKGROUND)
    picture.alpha_composite(drawing)
    return picture.convert("RGB")
