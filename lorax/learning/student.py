"""The student: what all branches would say of an image, told from its texture in one pass, and when to believe it.

Asking the branches costs a pass for each of them, so every generator that is learned makes verdicts dearer. The texture
takes one pass, or a part of one, however many branches there are. So the branches' logits are regressed on the texture
of the calibration memory, about which everything has been asked by then; what a head of the texture adds is added to
them as to the branches' own. Where the answer that comes of it is ahead of all others by enough, it is given; else the
branches are asked (a cascade). How much is enough is decided on the same images, each as if it were new.

Source: Hinton et al., Distilling the Knowledge in a Neural Network (arXiv 1503.02531), for answers as what is learned;
Viola and Jones, Rapid Object Detection using a Boosted Cascade of Simple Features (CVPR 2001), for asking more only
where little doesn't settle it; Angelopoulos et al., Conformal Risk Control (ICLR 2024), for the bound on new images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lorax.network.network import TextureHead, kinds_of

MAY_DIFFER = 0.005
"""Share of new images whose answer may be another than all branches would give; a bound needs 1 / this many images."""

_LEAST_AHEAD = 0.5
"""An answer less far ahead of the next one, as probabilities, is unsure however often such ones were right."""

_PENALTY = 100.0
"""Images that a direction of the texture needs, to count; as head.penalty."""

_NO_SPREAD = 1e-3
"""Added to a number's deviation: below it, what varies is rounding."""


@dataclass(frozen=True)
class Student:
    """A linear regression from textures (F numbers each) to the branches' logits.

    Args:
        weight, bias: (C, F) and (C,).
        ahead: how far an answer's probability must be ahead of the next one's for the branches not to be asked.
    """

    weight: Tensor
    bias: Tensor
    ahead: float

    @classmethod
    def fit(cls, textures: Tensor, logits: Tensor) -> Student:
        """Fit to images of textures (n, F), of which the branches' logits are (n, C); no answer is sure yet.

        Solved with as many unknowns as there are images, or numbers in a texture, whichever are fewer.
        """
        rows, said = textures.double(), logits.double()
        mean, middle = rows.mean(0), said.mean(0)
        spread = rows.std(0, unbiased=False) + _NO_SPREAD
        apart = (rows - mean) / spread
        if len(apart) < len(mean):
            solved = apart.T @ torch.linalg.solve(_penalised(apart @ apart.T), said - middle)
        else:
            solved = torch.linalg.solve(_penalised(apart.T @ apart), apart.T @ (said - middle))
        weight = solved.T / spread
        return cls(weight.float(), (middle - weight @ mean).float(), 1.0)

    def answer(self, textures: Tensor, head: TextureHead | None) -> tuple[Tensor, Tensor]:
        """Logits (N, C) of textures (N, F), and whether the branches would add nothing to them (N,); all on the CPU.

        Args:
            head: of the texture, where there is one.
        """
        said = F.linear(textures, self.weight, self.bias)
        if head is None:
            return said, torch.zeros(len(said), dtype=torch.bool)
        return head.beside(said, textures), kinds_of(textures, head.kind_weight, head.kind_bias) != 0

    def is_sure(self, answers: Tensor) -> Tensor:
        """Whether answers (N, A), as probabilities, are to be given without asking the branches: (N,)."""
        return margins(answers) > self.ahead

    def tensors(self) -> dict[str, Tensor]:
        return {"student_weight": self.weight, "student_bias": self.bias}


def _penalised(gram: Tensor) -> Tensor:
    return gram + _PENALTY * torch.eye(len(gram), dtype=gram.dtype)


def said_as_if_new(textures: Tensor, logits: Tensor, folds: Tensor) -> Tensor:
    """What students say (n, C) of each image, fitted to the images of the other folds (n,)."""
    said = torch.empty_like(logits)
    for k in folds.unique():
        new = folds == k
        student = Student.fit(textures[~new], logits[~new])
        said[new] = F.linear(textures[new], student.weight, student.bias)
    return said


def margins(answers: Tensor) -> Tensor:
    """How far the likeliest of the answers (N, A) is ahead of the next one, (N,)."""
    if answers.shape[1] == 1:
        return torch.ones(len(answers), dtype=answers.dtype)
    first, second = answers.topk(2, dim=1).values.unbind(1)
    return first - second


def least_ahead(students: Tensor, branches: Tensor) -> float | None:
    """How far ahead an answer must be, so that of new images at most MAY_DIFFER are answered otherwise than by all.

    One image more is imagined that is sure and differs.

    Args:
        students: answers (n, A), as probabilities, of students that never saw these images.
        branches: those that all branches give.

    Returns:
        See `Student`; None where so few images bound nothing.
    """
    allowed = int(MAY_DIFFER * (len(students) + 1)) - 1
    if allowed < 0:
        return None
    differs = students.argmax(dim=1) != branches.argmax(dim=1)
    ahead = margins(students)[differs].sort(descending=True).values
    return max(float(ahead[allowed]) if len(ahead) > allowed else 0.0, _LEAST_AHEAD)
