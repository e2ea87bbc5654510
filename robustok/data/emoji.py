"""Noto emoji as a folder of images: 3,786 drawings of 64 x 64 pixels, from the npm package emoji-datasource-google.

The package is under the MIT licence, the drawings (Google's Noto Emoji) are under the Apache licence 2.0.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from ..core.errors import UserError
from ..core.files import written_whole
from ..core.parsing import parsing
from ..core.paths import regular_file
from .groups import write_groups

PACKAGE = "emoji-datasource-google@16.0.0"
CONTENT = "979a46c8870d3bdbf2d96f68aae412028087447b28d2cd4304d04837beda559f"  # see `content_hash`
LIST, PICTURES = "package/emoji.json", "package/img/google/64/"
BACKGROUND = "white"
_MOST_BYTES = 1 << 25  # of a member; the list has 2 MB
_MOST_MEMBERS = 20_000
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
            f"{archive}: its emoji.json and pictures of 64 pixels have the SHA-256 {found}, expected {content}; "
            f"give the tarball of {PACKAGE}, as `npm pack {PACKAGE}` writes it"
        )
    groups: dict[str, str] = {}
    drawn: dict[bytes, str] = {}  # a picture -> the group that it is in: some flags and families are drawn alike
    with written_whole(folder) as temporary:
        temporary.mkdir()
        for emoji in json.loads(members[LIST]):
            category = emoji["category"].replace(" & ", " and ").replace(" ", "_").lower()
            (temporary / category).mkdir(exist_ok=True)
            tones = (emoji, *emoji.get("skin_variations", {}).values())
            pictures = {tone["image"]: _on_background(members[PICTURES + tone["image"]]) for tone in tones}
            alike = [picture.tobytes() for picture in pictures.values()]
            group = next((drawn[pixels] for pixels in alike if pixels in drawn), emoji["unified"])
            drawn |= dict.fromkeys(alike, group)
            for file, picture in pictures.items():
                picture.save(temporary / category / file)
                groups[f"{category}/{file}"] = group
        write_groups(temporary, groups)
        (temporary / "LICENSE.txt").write_text(LICENCE)
    return len(groups)


def content_hash(members: dict[str, bytes]) -> str:
    """SHA-256 over names, lengths and bytes in the order of the names: however the tarball was packed."""
    digest = hashlib.sha256()
    for name, data in sorted(members.items()):
        digest.update(f"{name} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def _read(archive: Path) -> dict[str, bytes]:
    """The list and the pictures, by name. Nothing is unpacked to disk."""
    found: dict[str, bytes] = {}
    cure = f"give the tarball that `npm pack {PACKAGE}` writes"
    with parsing(archive, "a tarball", cure), tarfile.open(regular_file(archive, "a tarball"), "r:gz") as tar:
        for number, member in enumerate(tar):
            if number == _MOST_MEMBERS:
                raise UserError(f"{archive}: more than {_MOST_MEMBERS:,} members; {cure}")
            if member.isreg() and (member.name == LIST or member.name.startswith(PICTURES)):
                if member.size > _MOST_BYTES:
                    raise UserError(f"{archive}: {member.name[:200]} has {member.size:,} bytes; {cure}")
                found[member.name] = _bytes_of(tar, member)
    return found


def _bytes_of(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file: Any = tar.extractfile(member)
    return file.read()


def _on_background(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as stored:
        drawing = stored.convert("RGBA")
    picture = Image.new("RGBA", drawing.size, BACKGROUND)
    picture.alpha_composite(drawing)
    return picture.convert("RGB")
