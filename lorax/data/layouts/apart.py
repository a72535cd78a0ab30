"""Images that are no files in their source become some, in a folder apart, until they are moved to where they land."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from PIL import Image

from lorax.data.images import FORMATS, Progress, decode, in_threads
from lorax.data.layout import is_image
from lorax.data.layouts.items import Item
from lorax.errors import ImageError, LayoutError

_ENDINGS = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
    "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip
_UNKNOWN = ".png"  # refused as no image that can be decoded, with its name, which one that is none by name would not be
_JPEG = (".jpg", ".jpeg")
_IN_A_FOLDER = 1000


class Apart:
    """A folder that fills with images."""

    def __init__(self, root: Path) -> None:
        self._root, self._count = root, 0

    def file(self, data: bytes, name: str, given: str = "") -> tuple[Path, str]:
        """Write an image's bytes, as they are.

        Args:
            data: the bytes.
            name: what the file will be called, without its ending.
            given: what the source calls it, whose ending counts where the bytes tell none.

        Returns:
            The file, and its name with the ending that the bytes tell.
        """
        path = self._new()
        path.write_bytes(data)
        return path, name + (_ending(data) or (PurePosixPath(given).suffix if is_image(given) else _UNKNOWN))

    def recoded(self, items: Sequence[Item], quality: int, progress: Progress | None) -> list[Item]:
        """Images encoded anew as JPEG; one that can't be decoded stays as it is."""

        def encoded(pair: tuple[Item, Path]) -> Item:
            item, path = pair
            try:
                pixels = decode(item.path)
            except ImageError:
                return item
            Image.fromarray(pixels).save(path, "JPEG", quality=quality)
            name = item.name if item.name.lower().endswith(_JPEG) else f"{item.name}.jpg"
            return replace(item, path=path, name=name)

        return in_threads(encoded, [(item, self._new()) for item in items], progress, "encoding anew")

    def _new(self) -> Path:
        folder = self._root / str(self._count // _IN_A_FOLDER)
        folder.mkdir(exist_ok=True)
        self._count += 1
        return folder / str(self._count)


def inside(root: Path, folder: Path, given: str, shown: str) -> Path:
    """The file that a table names, relative to its own folder or to the root.

    Raises:
        LayoutError: it is not there, or not in the root.
    """
    tried = [(place / given).resolve() for place in (folder, root)]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise LayoutError(f"{shown}: {given} is neither in {folder}, nor in {root}.")
    if not found.is_relative_to(root.resolve()):
        raise LayoutError(f"{shown}: {given} lies outside {root}; only what is in there is read. Move it there.")
    return found


def _ending(data: bytes) -> str:
    """What the bytes' format is called by; '' where they are none that is read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _ENDINGS[image.format or ""]
    except Exception:  # Pillow raises nearly anything on damaged bytes
        return ""
