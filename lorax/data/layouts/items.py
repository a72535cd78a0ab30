"""What a reader of a layout finds: images, each with what the layout says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

REAL, FAKE = "0_real", "1_fake"


@dataclass(frozen=True)
class Reading:
    """How a source is to be read, as far as it does not say so itself.

    Args:
        split: for data without a test split: the share of images, by content, that goes to train/.
        manifests: lists of the source's images, or folders of such lists, wherever they lie.
        lists: files that tell the split of each image by its path; what they don't name is left out.
        real: what is real: names of class folders, or of generators as a table calls them; and folders that lend real
            images. "none": nothing here is.
        labels: value of the label column -> "real" or "fake"; "*" stands for every other value whose name does
            not say so.
        generators: the generators to take, in this order, as the source calls them -> name of the task; all if empty.
        columns: of a table: "image", "path", "label", "generator", "split", "date" -> the column's name.
        levels: what each level of folders is: "split", "class", "generator", "subject" or "*" (nothing).
        order: of the tasks: "release", "name" or "given"; "" is by release where the source knows it, else as given.
        limit: the most images of each class in each split, drawn by content.
        recode: JPEG's quality, at which every image is encoded anew.
    """

    split: float | None = None
    manifests: tuple[Path, ...] = ()
    lists: tuple[Path, ...] = ()
    real: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    generators: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)
    levels: tuple[str, ...] = ()
    order: str = ""
    limit: int | None = None
    recode: int | None = None


@dataclass(frozen=True)
class Item:
    """An image as its layout lists it.

    Args:
        path: where its bytes are.
        shown: what messages call it; no other image of the source is called so.
        name: of its file, once it has landed.
        class_folder: 0_real, 1_fake, or as CDDB numbers several generators of a task.
        generator: as the source calls it; "" for a real image that belongs to none in particular.
        split: train, val, test, or "" where the source has none.
        subject: what the image shows, where the layout tells.
        released: when its generator came out, as ISO 8601 writes it; "" if the source does not say.
    """

    path: Path
    shown: str
    name: str
    class_folder: str
    generator: str = ""
    split: str = ""
    subject: str = ""
    released: str = ""

    @property
    def is_real(self) -> bool:
        return self.class_folder == REAL


@dataclass(frozen=True)
class Found:
    """What a reader made of a source.

    Args:
        taken_for: the layout, in words.
        items: the images.
        told: what else a person should know, such as what was left out.
        complaints: why it can't land as it is.
        as_is: path below data/<task> -> file, where the source is one task in CDDB's layout, whatever is wrong with
            it; else None.
    """

    taken_for: str
    items: tuple[Item, ...] = ()
    told: tuple[str, ...] = ()
    complaints: tuple[str, ...] = ()
    as_is: Mapping[str, Path] | None = None
