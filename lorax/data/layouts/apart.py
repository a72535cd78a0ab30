"""Images that are no files in their source become some, in a folder apart, until they are moved to where they land."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Container, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from lorax.data.images import FORMATS, Progress, decode, in_threads
from lorax.data.layout import is_image, is_within
from lorax.errors import ImageError, LayoutError

_ENDINGS = {
    "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif",
    "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip
_UNKNOWN = ".png"  # refused as no image that can be decoded, with its name, which one that is none by name would not be
_IN_A_FOLDER = 1000
_LARGEST_GB = 1.0


class Apart:
    """A folder that fills with images.

    Args:
        root: the folder.
        only: those of the files that are to be written, where a source is read a second time. () writes none, and tells
            of each image its md5 in `md5s`. None: all.
    """

    def __init__(self, root: Path, only: Container[Path] | None = None) -> None:
        self._root, self._only, self._count = root, only, 0
        self.md5s: dict[Path, str] = {}

    def file(self, data: bytes, name: str, given: str = "") -> tuple[Path, str]:
        """Write an image's bytes, as they are, where it is wanted.

        Args:
            data: the bytes.
            name: what the file will be called, without its ending.
            given: what the source calls it, whose ending counts where the bytes tell none.

        Returns:
            The file, and its name with the ending that the bytes tell.
        """
        path = self._new()
        if self._only is None or path in self._only:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        elif not self._only:
            self.md5s[path] = hashlib.md5(data, usedforsecurity=False).hexdigest()
        return path, name + (_ending(data) or (PurePosixPath(given).suffix if is_image(given) else _UNKNOWN))

    def recoded(self, paths: Sequence[Path], quality: int, progress: Progress | None) -> dict[Path, Path]:
        """Images encoded anew as JPEG: old file -> new one, but for what can't be decoded."""

        def encoded(pair: tuple[Path, Path]) -> bool:
            old, new = pair
            try:
                pixels = decode(old)
            except ImageError:
                return False
            Image.fromarray(pixels).save(new, "JPEG", quality=quality)
            if old.is_relative_to(self._root):
                old.unlink()
            return True

        pairs = [(path, self._new()) for path in paths]
        for folder in {new.parent for _, new in pairs}:
            folder.mkdir(exist_ok=True)
        made = in_threads(encoded, pairs, progress, "encoding anew")
        return {old: new for (old, new), is_made in zip(pairs, made, strict=True) if is_made}

    def _new(self) -> Path:
        self._count += 1
        return self._root / str(self._count // _IN_A_FOLDER) / str(self._count)


def check_size(archive: Path, name: str, size: int) -> None:
    """See that a member of an archive is no larger than an image, before it is in memory: few bytes may become many.

    Raises:
        LayoutError: it is.
    """
    if size > _LARGEST_GB * 1e9:
        raise LayoutError(
            f"{archive}: {name} takes {size / 1e9:.1f} GB; no member of more than {_LARGEST_GB:.0f} GB is read. "
            "Pack the archive again without it."
        )


def inside(root: Path, folders: Sequence[Path], given: str, shown: str) -> Path | None:
    """The file that a table names; None if there is none.

    Args:
        root: the source, resolved.
        folders: where the name may begin, resolved; the first counts that leads to a file.
        given: the name.
        shown: what messages call the row.

    Raises:
        LayoutError: it lies outside the root.
    """
    found = next((path for path in (folder / given for folder in folders) if path.is_file()), None)
    if found is None:
        return None
    real = found.resolve()
    if not is_within(real, root):
        raise LayoutError(f"{shown}: {given} lies outside {root}; only what is in there is read. Move it there.")
    if real == found:
        return real
    named = Path(os.path.normpath(found))  # a link's name tells more than that of what it leads to
    return named if named.is_relative_to(root) and named.resolve() == real else real


def _ending(data: bytes) -> str:
    """What the bytes' format is called by; '' where they are none that is read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return _ENDINGS[image.format or ""]
    except Exception:  # Pillow raises nearly anything on damaged bytes
        return ""
