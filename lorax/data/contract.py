"""The landing contract: everything that is checked of a data set before anything changes, all findings at once.

A *refused* finding keeps the data set out, a *warned* one is only told. docs/operations.md ("Landing") lists them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from lorax.data.examine import Examined
from lorax.data.incoming import Incoming
from lorax.data.layout import SHOWN, SPLITS, class_folder, class_index
from lorax.data.leaks import LEAST, leak_accuracy
from lorax.params import LandingParams
from lorax.text import some

Severity = Literal["refused", "warned"]

_AT_ONCE = 2**22  # pairs of hashes compared in one go, 32 MB each of differences and counts


@dataclass(frozen=True)
class Finding:
    """Something about a data set that its owner should know; `paths` are the files concerned, all of them."""

    kind: str
    severity: Severity
    message: str
    paths: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The message and the first paths."""
        return f"{self.kind}: {self.message}" + (f" ({some(self.paths, SHOWN)})" if self.paths else "")


@dataclass(frozen=True)
class Report:
    """What the contract says of a data set that wants to land as `task`.

    `counts` are the images of each class in each split (`train/0_real` -> 130), `leaks` the accuracy with which each
    synthetic class can be told from real by its files' format alone.
    """

    task: str
    digest: str
    counts: Mapping[str, int]
    leaks: Mapping[str, float]
    findings: tuple[Finding, ...]

    @property
    def refused(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "refused")

    @property
    def warned(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "warned")

    @property
    def text(self) -> str:
        """Why it was refused, in full."""
        listed = "\n  - ".join(finding.text for finding in self.refused)
        return f"task {self.task!r} does not fulfil the landing contract; nothing was changed:\n  - {listed}"

    def record(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "task": self.task,
            "digest": self.digest,
            "refused": bool(self.refused),
            "counts": dict(self.counts),
            "leaks": dict(self.leaks),
            "findings": [
                {"kind": f.kind, "severity": f.severity, "message": f.message, "paths": list(f.paths)}
                for f in self.findings
            ],
        }


def check(
    incoming: Incoming, landed: Mapping[str, str], rules: LandingParams, accept_leak: str = "", taken: str = ""
) -> Report:
    """Hold a data set against the contract.

    Args:
        incoming: the data set.
        landed: path -> md5 of the files of all other tasks that have landed.
        rules: the thresholds.
        accept_leak: why a format leak is accepted; '' if it is not.
        taken: why the task's name can't be used; '' if it can.
    """
    files = incoming.files
    leaks = dict(_leaks(files))
    findings = [
        *([Finding("taken", "refused", taken)] if taken else []),
        *(Finding("layout", "refused", text) for text in incoming.complaints),
        *_without_real(files, landed),
        *_undecodable(files),
        *_too_few(files, rules),
        *_across_splits(files),
        *_conflicting(files),
        *_known_elsewhere(files, landed),
        *_near(files, rules),
        *_leaking(files, leaks, rules, accept_leak),
    ]
    counts = Counter(f"{_split(path)}/{class_folder(path)}" for path in files)
    return Report(incoming.task, incoming.digest, dict(sorted(counts.items())), leaks, tuple(findings))


def _without_real(files: Iterable[str], landed: Iterable[str]) -> Iterator[Finding]:
    if not any(class_index(path) == 0 for path in (*files, *landed)):
        message = (
            "no real images, neither here nor in any task that has landed, so there is nothing to tell these images "
            "from. Land a data set with a 0_real folder first, or add one to this."
        )
        yield Finding("no-real", "refused", message)


def _undecodable(files: Mapping[str, Examined]) -> Iterator[Finding]:
    bad = {path: file.problem for path, file in files.items() if file.problem}
    if bad:
        first = next(iter(bad.values()))
        message = f"{len(bad)} of {len(files)} images can't be used; replace or remove them. The first: {first}"
        yield Finding("undecodable", "refused", message, tuple(bad))


def _too_few(files: Mapping[str, Examined], rules: LandingParams) -> Iterator[Finding]:
    counts = Counter((_split(path), class_folder(path)) for path, file in files.items() if not file.problem)
    for folder in sorted({class_folder(path) for path in files}):
        for split, least in zip(SPLITS, (rules.min_train, rules.min_val), strict=True):
            found = counts[split, folder]
            if found < least:
                message = (
                    f"class {folder} has {found} usable images in {split}/, at least {least} are needed. Add some, or "
                    f"lower landing.min_{split} in params.yaml."
                )
                yield Finding("too-few", "refused", message)


def _across_splits(files: Mapping[str, Examined]) -> Iterator[Finding]:
    train = {file.md5 for path, file in files.items() if _split(path) == "train" and file.md5}
    both = tuple(path for path, file in files.items() if _split(path) == "val" and file.md5 in train)
    if both:
        message = f"{len(both)} images of val/ lie in train/ too, byte for byte; a test on them measures nothing."
        yield Finding("same-in-train-and-val", "refused", message, both)


def _conflicting(files: Mapping[str, Examined]) -> Iterator[Finding]:
    places: dict[str, list[str]] = defaultdict(list)
    for path, file in files.items():
        if file.md5:
            places[file.md5].append(path)
    torn = [paths for paths in places.values() if len({class_index(path) for path in paths}) > 1]
    if torn:
        message = f"{len(torn)} images lie in several classes, byte for byte; each can have one label."
        yield Finding("conflicting-labels", "refused", message, tuple(path for paths in torn for path in paths))


def _known_elsewhere(files: Mapping[str, Examined], landed: Mapping[str, str]) -> Iterator[Finding]:
    """Files whose bytes other tasks have: as the other kind of image, as real ones too, as synthetic ones too."""
    wanted = {file.md5 for file in files.values() if file.md5}
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for path, md5 in landed.items():
        if md5 in wanted:
            elsewhere[md5].append(path)
    found: dict[str, list[str]] = defaultdict(list)
    tasks: dict[str, set[str]] = defaultdict(set)
    for path, file in files.items():
        for other in elsewhere.get(file.md5, ()):
            kind = _relation(class_index(path) == 0, class_index(other) == 0)
            found[kind].append(path)
            tasks[kind].add(other.partition("/")[0])
    for kind, (severity, text) in _RELATIONS.items():
        if found[kind]:
            paths = tuple(dict.fromkeys(found[kind]))
            yield Finding(kind, severity, f"{len(paths)} {text} {', '.join(sorted(tasks[kind]))}.", paths)


_RELATIONS: dict[str, tuple[Severity, str]] = {
    "conflicting-labels": ("refused", "images are real here and synthetic elsewhere, or the reverse, in task"),
    "shared-reals": ("warned", "real images are shared with task"),
    "landed-elsewhere": ("warned", "synthetic images have landed already, byte for byte, in task"),
}


def _relation(is_real: bool, is_real_elsewhere: bool) -> str:
    if is_real != is_real_elsewhere:
        return "conflicting-labels"
    return "shared-reals" if is_real else "landed-elsewhere"


def _near(files: Mapping[str, Examined], rules: LandingParams) -> Iterator[Finding]:
    """Images of val/ that look like one of train/; the same bytes are refused anyway."""
    usable = {path: file for path, file in files.items() if not file.problem}
    train = [path for path in usable if _split(path) == "train"]
    same = {usable[path].md5 for path in train}
    val = [path for path in usable if _split(path) == "val" and usable[path].md5 not in same]
    left, right = ([usable[path].fingerprint for path in paths] for paths in (val, train))
    pairs = _nearest_within(left, right, rules.near_bits)
    if pairs:
        message = f"{len(pairs)} images of val/ look like one of train/ (perceptual hash); scores on them flatter."
        shown = tuple(f"{val[one]} ~ {train[other]}" for one, other in pairs.items())
        yield Finding("near-duplicates", "warned", message, shown)


def _leaks(files: Mapping[str, Examined]) -> Iterator[tuple[str, float]]:
    """Each synthetic class that can be compared with the task's real one -> how well its format gives it away."""
    by_class = defaultdict(list)
    for path, file in files.items():
        if not file.problem:
            by_class[class_index(path), class_folder(path)].append(file.container)
    real = [container for (index, _), containers in by_class.items() if index == 0 for container in containers]
    for (index, folder), containers in sorted(by_class.items(), key=lambda item: item[0]):
        if index and len(real) >= LEAST and len(containers) >= LEAST:
            yield folder, leak_accuracy(real, containers)


def _leaking(
    files: Iterable[str], leaks: Mapping[str, float], rules: LandingParams, accept_leak: str
) -> Iterator[Finding]:
    unknown = sorted({class_folder(path) for path in files if class_index(path)} - leaks.keys())
    if unknown:
        message = f"{', '.join(unknown)}: not checked, since that takes {LEAST} real and {LEAST} synthetic images."
        yield Finding("format-leak", "warned", message)
    for folder, accuracy in leaks.items():
        if accuracy <= rules.leak_warned:
            continue
        text = (
            f"real and {folder} can be told apart with {accuracy:.2f} accuracy by codec, mode, size and quantisation "
            "tables alone; a detector would learn that. "
        )
        if accuracy <= rules.leak_refused:
            yield Finding("format-leak", "warned", f"{text}Better store both kinds alike.")
        elif accept_leak:
            yield Finding("format-leak", "warned", f"{text}Accepted: {accept_leak}")
        else:
            yield Finding("format-leak", "refused", f'{text}Store both kinds alike, or --accept-leak "why".')


def _split(path: str) -> str:
    return path.partition("/")[0]


def _nearest_within(hashes: Sequence[int], others: Sequence[int], bits: int) -> dict[int, int]:
    """For each of `hashes` that has one of `others` at most `bits` bits away: its index -> the nearest one's index."""
    if not hashes or not others:
        return {}
    left, right = np.array(hashes, np.uint64), np.array(others, np.uint64)
    step = max(1, _AT_ONCE // len(right))
    found: dict[int, int] = {}
    for start in range(0, len(left), step):
        distances = np.bitwise_count(left[start : start + step, None] ^ right[None, :])
        for row in np.flatnonzero(distances.min(axis=1) <= bits):
            found[start + int(row)] = int(distances[row].argmin())
    return found
