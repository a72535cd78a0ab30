"""The landing contract: everything that is checked of a data set before anything changes, all findings at once.

A *refused* finding keeps the data set out, a *warned* one is only told. docs/how-to/refused.md lists them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lorax.data.duplicates import Landed, alike_pictures, same_pictures
from lorax.data.examine import Examined
from lorax.data.findings import Finding
from lorax.data.grid import told_by_blocks
from lorax.data.incoming import Incoming
from lorax.data.layout import SPLITS, class_folder, class_index, class_name
from lorax.data.leaks import LEAST, leak_accuracy
from lorax.params import LandingParams

_MILD = {"shared-reals", "landed-elsewhere", "near-landed-elsewhere", "not-compared"}
"""What is told last."""


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


OnReport = Callable[[Report], None]


def check(incoming: Incoming, landed: Landed, rules: LandingParams, accept_leak: str = "", taken: str = "") -> Report:
    """Hold a data set against the contract.

    Args:
        incoming: the data set.
        landed: the images of all other tasks that have landed.
        rules: the thresholds.
        accept_leak: why a format leak is accepted; '' if it is not.
        taken: why the task's name can't be used; '' if it can.

    Returns:
        The report, with all findings: those that keep it out first, then by how much they spoil.
    """
    files = incoming.files
    leaks = dict(_leaks(files))
    findings = [
        *([Finding("taken", "refused", taken)] if taken else []),
        *(Finding("layout", "refused", text) for text in incoming.complaints),
        *_without_real(files, landed.files),
        *_undecodable(files),
        *_too_few(files, rules),
        *same_pictures(files, landed),
        *_leaking(files, leaks, rules, accept_leak),
        *_blocky(files, leaks, rules),
        *_known_generators(incoming, landed.files),
        *alike_pictures(files, landed, rules.near_bits),
    ]
    worst_first = sorted(findings, key=lambda finding: (finding.severity, finding.kind in _MILD))  # "refused" first
    counts = Counter(f"{_split(path)}/{class_folder(path)}" for path in files)  # whatever the subject between them
    return Report(incoming.task, incoming.digest, dict(sorted(counts.items())), leaks, tuple(worst_first))


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


def _known_generators(incoming: Incoming, landed: Iterable[str]) -> Iterator[Finding]:
    """Classes that bear the name of another task's, which is learned as two generators that can't be told apart."""
    folders = {(path.partition("/")[0], class_folder(path)) for path in landed}
    tasks = {class_name(folder, task): task for task, folder in sorted(folders, reverse=True)}
    tasks.pop("real", None)
    own = {class_name(folder, incoming.task) for folder in {class_folder(path) for path in incoming.files}}
    for name in sorted(own & tasks.keys() if not incoming.extends else ()):
        message = (
            f"task {tasks[name]} has a generator {name} already. As a task of its own the same one is learned twice, "
            f"and either is then taken for the other. If these are more of its images, land them with --task "
            f"{tasks[name]} --extend; if it is another one, rename its class folder."
        )
        yield Finding("known-generator", "warned", message)


def _usable(files: Mapping[str, Examined]) -> tuple[list[Examined], dict[str, list[Examined]]]:
    """The real images, and those of each synthetic class, as far as they are enough to be compared."""
    by_class: dict[tuple[int, str], list[Examined]] = defaultdict(list)
    for path, file in files.items():
        if not file.problem:
            by_class[class_index(path), class_folder(path)].append(file)
    real = [file for (index, _), found in by_class.items() if index == 0 for file in found]
    synthetic = {folder: found for (index, folder), found in sorted(by_class.items()) if index and len(found) >= LEAST}
    return real, synthetic if len(real) >= LEAST else {}


def _leaks(files: Mapping[str, Examined]) -> Iterator[tuple[str, float]]:
    """Each synthetic class that can be compared with the task's real one -> how well its format gives it away."""
    real, synthetic = _usable(files)
    for folder, found in synthetic.items():
        yield folder, leak_accuracy([file.container for file in real], [file.container for file in found])


def _blocky(files: Mapping[str, Examined], leaks: Mapping[str, float], rules: LandingParams) -> Iterator[Finding]:
    """Classes that JPEG's grid in the real images tells from these, where their format does not."""
    real, synthetic = _usable(files)
    for folder, found in synthetic.items():
        ones, others = ([file.blocks for file in kind if file.blocks is not None] for kind in (real, found))
        told = told_by_blocks(ones, others) if min(len(ones), len(others)) >= LEAST else None
        if told is None or leaks[folder] > rules.leak_warned:
            continue
        message = (
            f"real images show the blocks of 8 pixels that JPEG leaves, {folder} ones do not, or less: were they JPEG "
            f"once, and saved anew? By this alone they are told apart with {told:.2f} accuracy; a detector would learn "
            "that. Better have both kinds come the same way."
        )
        yield Finding("was-jpeg", "warned", message)


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
            f"real and {folder} can be told apart with {accuracy:.2f} accuracy by what storing them left in their "
            "pixels: lossy codec, JPEG tables, size, grey, few colours or transparency; a detector would learn that. "
        )
        if accuracy <= rules.leak_refused:
            yield Finding("format-leak", "warned", f"{text}Better store both kinds alike.")
        elif accept_leak:
            yield Finding("format-leak", "warned", f"{text}Accepted: {accept_leak}")
        else:
            yield Finding(
                "format-leak",
                "refused",
                f'{text}Store both kinds alike (--recode jpeg:90 has each encoded anew), or --accept-leak "why".',
            )


def _split(path: str) -> str:
    return path.partition("/")[0]
