from __future__ import annotations

import pytest

from lorax.data.layouts.words import split_in


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00004.parquet", "train"),
        ("default/validation/0000.parquet", "val"),
        ("default/partial-train/0000.parquet", "train"),  # as the Hub calls the beginning of a long split
        ("images/val2017/1.jpg", "val"),
        ("training_set/x.parquet", ""),
        ("trained.parquet", ""),
    ],
)
def test_the_split_is_told_by_a_folder_or_a_part_of_the_name(path: str, split: str) -> None:
    assert split_in(path) == split
