"""What LoRAX is compared with: other methods on the same stream, with the same head, memory, training and scores.

`lorax` itself is not among them: it is learned by episodes (`lorax.learning.episode`), each of which leaves a state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lorax.learning.methods import der, ease, finetune, joint, linear
from lorax.learning.queries import Fetch
from lorax.learning.training import OnEpoch
from lorax.params import Params
from lorax.stream import Task

Method = Callable[[Sequence[Task], Fetch, Params, Path, OnEpoch | None], list[tuple[float, ...]]]
"""Learns tasks in order, beginning with nothing; a pure function of their images and the parameters.

Args:
    tasks: the stream; none extends another.
    fetch: finds images.
    params: all of params.yaml.
    home: a folder that any methods, seeds and episodes may share, such as `work/scenarios/NAME`: what frozen parts
        say of images is kept there, and in no result is to be seen whether it was.
    on_epoch: told each finished epoch, of every task; None: nobody.

Returns:
    The accuracy matrix as `LearnerState.accuracy` has it: row k is the accuracy on the tests of tasks 0..k, once k is
    learned.
"""

METHODS: Mapping[str, Method] = {
    "finetune": finetune.learn,
    "linear": linear.learn,
    "ease": ease.learn,
    "der": der.learn,
    "joint": joint.learn,
}
"""By name, in the order in which a table shows them."""
