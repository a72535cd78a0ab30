"""Verdicts on image files as they are read, and why each came out as it did: what branches and texture add to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from lorax.data.prefetch import prefetched_batches
from lorax.data.reading import Reading, read_image
from lorax.data.walk import Found
from lorax.learning.texture_head import CLEAN
from lorax.stream import ClassTable
from lorax.verdicts.predictor import REAL, SYNTHETIC, UNKNOWN, Judged, Predictor, Verdict


@dataclass(frozen=True)
class Evidence:
    """What spoke for an answer, in logits, calibrated where the version is; all parts add up to `log_odds`."""

    answer: str  # "real", "synthetic", a generator's label, or "one of" several
    log_odds: float  # the logarithm of the odds of the answer against all others
    branches: Mapping[str, float]  # of each by its task, against the answer where it is negative
    texture: float | None  # what the frozen backbone's texture brings; None where no head reads it
    rest: float  # what neither brings
    perturbation: str | None  # what the texture tells was done to the image, of which a head of its own is asked and
    # no branch; "clean" if nothing, None where no head reads it


def evidence_of(predictor: Predictor, judged: Judged) -> Evidence:
    """What each branch, and the texture, adds to a verdict's log-odds.

    The head is linear, so class c's logit is b[c] + Σ_k W[c,k]·f[k] with the feature f[k] of branch k. Let A be the
    classes of the answer, R the others, and p(c|A), p(c|R) the probabilities within each. Then

        log P(A)/P(R) = Σ_k e[k] + rest,   e[k] = Σ_{c in A} p(c|A) W[c,k]·f[k] - Σ_{c in R} p(c|R) W[c,k]·f[k]

    holds exactly, with the biases and the difference of the two entropies in the rest, out of which what the texture
    adds is taken likewise. The others weigh as much as they compete: being unlike a class that nobody would think of is
    no evidence. Calibration divides logits by a temperature and adds to the biases, so W and b are taken with it. Of
    several crops it is their mean feature that is explained.

    Args:
        judged: by all branches; an undecided one is explained by its likeliest answer.
    """
    assert judged.features is not None
    branches = predictor.network.branches
    weight, bias = _calibrated_head(predictor)
    shares = torch.einsum(
        "ckd,kd->ck", weight.unflatten(1, (branches, -1)), judged.features.double().view(branches, -1)
    )
    answer, chosen = _answer(judged.verdict, predictor.classes)
    added, kind = _of_texture(predictor, judged)
    if kind not in (None, CLEAN):  # then branches say nothing
        shares, bias = torch.zeros_like(shares), torch.zeros_like(bias)
    logits = shares.sum(1) + bias + (predictor.calibration.bias if predictor.calibration else 0.0)
    if added is not None:
        logits = logits + added
    ours, others = (logits.masked_fill(~mask, -torch.inf) for mask in (chosen, ~chosen))
    weights = _softmax(ours) - _softmax(others)
    evidence, texture = weights @ shares, None if added is None else float(weights @ added)
    log_odds = ours.logsumexp(0) - (others.logsumexp(0) if weights.lt(0).any() else 0.0)
    names = [branch.task for branch in predictor.state.branches]
    by_task = dict(zip(names, evidence.tolist(), strict=True))
    rest = float(log_odds - evidence.sum()) - (texture or 0.0)
    return Evidence(answer, float(log_odds), by_task, texture, rest, kind)


def _calibrated_head(predictor: Predictor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight (C, K·D) and bias (C,) of the branches' logits, divided by the temperature."""
    head, calibration = predictor.network.head, predictor.calibration
    temperature = calibration.temperature if calibration else 1.0
    return head.weight.detach().double().cpu() / temperature, head.bias.detach().double().cpu() / temperature


def _of_texture(predictor: Predictor, judged: Judged) -> tuple[torch.Tensor, str] | tuple[None, None]:
    """What the texture adds to the calibrated logits, (C,), where it is read, and the kind of perturbation it tells."""
    head, calibration = predictor.network.texture_head, predictor.calibration
    if head is None:
        return None, None
    [added], [kind] = head.answer(judged.texture.float()[None])
    calibrated = added.double().cpu() / (calibration.temperature if calibration else 1.0)
    return calibrated, list(predictor.state.statistics)[int(kind)]


def _answer(verdict: Verdict, classes: ClassTable) -> tuple[str, torch.Tensor]:
    """What is to be explained, and which classes say it (C,)."""
    is_real = torch.tensor(classes.is_real)
    likeliest = max((e for e in classes.entries if not e.is_real), key=lambda e: verdict.probabilities[e.label])
    if verdict.one_of:
        return f"one of {', '.join(verdict.one_of)}", torch.tensor([e.label in verdict.one_of for e in classes.entries])
    if verdict.verdict in (SYNTHETIC, UNKNOWN) and verdict.generator is None:  # a generator may be called "unknown"
        return "synthetic", ~is_real
    if verdict.verdict == REAL or (
        verdict.generator is None and verdict.real >= verdict.probabilities[likeliest.label]
    ):
        return REAL, is_real
    return likeliest.label, torch.arange(len(classes)) == likeliest.id


def _softmax(logits: torch.Tensor) -> torch.Tensor:
    """Zeros where no class competes."""
    return logits.softmax(0).nan_to_num(0.0)


@dataclass(frozen=True)
class Answer:
    """One file's line: what was read, and the verdict unless it could not be read."""

    reading: Reading
    judged: Judged | None
    evidence: Evidence | None = None


def answers(predictor: Predictor, files: Iterable[Found], *, explain: bool = False) -> Iterator[list[Answer]]:
    """Judge files in lists of up to a batch, in order; they are read and decoded ahead, in threads.

    Args:
        predictor: an exact one, where its verdicts are to be explained.
        files: see above.
        explain: say what each branch adds, and what the files hold beside pixels.
    """
    warnings.filterwarnings("ignore", module="PIL")  # of damaged notes in a file, which nobody asked about
    read = partial(read_image, side=predictor.network.crop, with_container=explain)
    for batch in prefetched_batches(read, files, predictor.batch_size):
        pairs = zip(batch, judged(predictor, batch), strict=True)
        yield [Answer(r, j, evidence_of(predictor, j) if explain and j else None) for r, j in pairs]


def judged(predictor: Predictor, readings: Sequence[Reading]) -> list[Judged | None]:
    """What is said of each image; None of those that could not be read."""
    good = [reading for reading in readings if not reading.error]
    answered = iter(predictor.look([r.crops for r in good], [r.name for r in good]))
    return [None if reading.error else next(answered) for reading in readings]
