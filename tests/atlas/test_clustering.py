"""Families are found where there are some, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from lorax.atlas import clustering
from lorax.atlas.clustering import agreement, cut, find_families, grow_tree, most_clusters, silhouettes


def clouds(families: int, members: int, spread: float = 0.3, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = np.repeat(random.standard_normal((families, 24)), members, axis=0)
    return (centres + spread * random.standard_normal(centres.shape)).astype(np.float32)


def test_as_many_families_are_found_as_there_are_and_each_is_whole() -> None:
    found = find_families(clouds(6, 5))
    assert found.count == 6
    assert sorted(np.bincount(found.members)) == [5] * 6
    assert agreement(found.members, np.repeat(list("abcdef"), 5).tolist()) == pytest.approx((1, 1))
    assert found.best[0] == (6, found.silhouette)
    assert found.chance is not None
    assert found.silhouette > found.chance


def test_without_families_there_is_one_cluster() -> None:
    random = np.random.default_rng(3)
    assert find_families(random.standard_normal((30, 16))).count == 1
    smooth = np.outer(random.standard_normal(30), np.ones(16)) + 0.3 * random.standard_normal((30, 16))
    found = find_families(smooth)
    assert found.best[0][1] > 0.5
    assert (found.count, set(found.members)) == (1, {0})


def test_two_families_are_told_from_one_cloud() -> None:
    assert find_families(clouds(2, 12, 0.2)).count == 2


def test_few_entries_are_one_cluster_unless_a_number_is_asked_for() -> None:
    few = clouds(2, 3)
    assert (find_families(few).count, find_families(few).chance) == (1, None)
    assert find_families(few, 2).members.tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    assert find_families(few[:1]).members.tolist() == [0]
    assert find_families(few, 6).count == 6


def test_by_hand_the_tree_joins_the_smallest_angle_first() -> None:
    angles = np.radians([0, 10, 90, 120])
    tree = grow_tree(np.stack([np.cos(angles), np.sin(angles)], 1))
    assert [set(join) for join in tree[:, :2].tolist()] == [{0, 1}, {2, 3}, {4, 5}]
    assert tree[:2, 2] == pytest.approx([1 - np.cos(np.radians(d)) for d in (10, 30)], abs=1e-6)
    assert cut(tree, 4).tolist() == [0, 1, 2, 3]
    assert cut(tree, 3).tolist() == [0, 0, 1, 2]
    assert cut(tree, 2).tolist() == [0, 0, 1, 1]


def test_of_equal_heights_as_many_clusters_are_cut_as_are_asked_for() -> None:
    tree = grow_tree(np.repeat(np.eye(3, dtype=np.float32), 4, axis=0))
    for count in range(1, 13):
        assert np.bincount(cut(tree, count)).tolist() == sorted(np.bincount(cut(tree, count)), reverse=True)
        assert len(set(cut(tree, count).tolist())) == count


def test_by_hand_the_silhouette_of_two_pairs() -> None:
    angles = np.radians([0, 10, 90, 100])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    own = 1 - np.cos(np.radians(10))
    outer = np.mean([1 - np.cos(np.radians(d)) for d in (90, 100)])
    inner = np.mean([1 - np.cos(np.radians(d)) for d in (80, 90)])
    expected = np.mean([1 - own / outer, 1 - own / inner])
    assert silhouettes(vectors, grow_tree(vectors)) == {2: pytest.approx(expected, abs=1e-6)}


def test_of_a_large_collection_a_sample_is_clustered_and_the_others_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MOST_CLUSTERED", 20)
    found = find_families(clouds(4, 25))
    assert found.count == 4
    assert agreement(found.members, np.repeat(list("abcd"), 25).tolist()) == pytest.approx((1, 1))


def test_no_cluster_of_a_large_collection_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "MOST_CLUSTERED", 20)
    assert most_clusters(100) == 20
    for count in (7, 20):
        members = find_families(clouds(1, 100, 1.0), count).members
        assert sorted(set(members.tolist())) == list(range(count))


def test_agreement_counts_what_is_labelled_only() -> None:
    assert agreement(np.array([0, 0, 1, 1, 0]), ["a", "a", "b", "b", ""]) == pytest.approx((1, 1))
    assert agreement(np.array([0, 1]), ["a", ""]) is None


def test_one_cluster_or_one_label_has_nothing_to_agree_with() -> None:
    assert agreement(np.array([0, 0, 0, 0]), ["a", "a", "b", "b"]) is None
    assert agreement(np.array([0, 0, 1, 1]), ["a", "a", "a", ""]) is None


def test_equal_vectors_are_one_cluster() -> None:
    assert find_families(np.ones((10, 4))).count == 1
