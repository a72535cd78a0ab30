from __future__ import annotations

import pytest
import torch

from lorax.verdicts.alert import clusters, cohesion, responses, standardized


def test_images_that_are_odd_in_the_same_way_are_together_and_single_ones_in_no_cluster() -> None:
    torch.manual_seed(0)
    one, other = torch.zeros(2, 40)
    one[:5], other[20:25] = 6, -6
    strengths = torch.linspace(0.5, 2, 12)[:, None]
    alone = 6 * torch.eye(40)[[30, 35]]
    rows = torch.cat([strengths * one, alone, strengths[:8] * other]) + 0.3 * torch.randn(22, 40)
    assert clusters(rows) == [list(range(12)), list(range(14, 22))]


def test_one_kind_alone_is_one_cluster_or_parts_of_it_but_nothing_is_made_of_few() -> None:
    torch.manual_seed(0)
    rows = torch.full((3, 8), 5.0) + 0.1 * torch.randn(3, 8)
    assert clusters(rows) == []
    assert clusters(rows[:1]) == []
    assert clusters(rows[:2]) == []


@pytest.mark.parametrize("noise", [0, 1e-6])
def test_copies_of_one_image_are_one_cluster_whether_others_are_known_or_not(noise: float) -> None:
    torch.manual_seed(0)
    copies = 3 * torch.randn(1, 40).repeat(20, 1) + noise * torch.randn(20, 40)
    for usual in (torch.zeros(0, 0), torch.randn(1, 40), torch.randn(30, 40)):
        found = standardized(copies, usual)
        assert clusters(found) == [list(range(20))]
        assert cohesion(found) == pytest.approx(1, abs=1e-4)
    assert clusters(torch.zeros(4, 40)) == []


def test_rows_of_zeros_are_in_no_cluster_with_others() -> None:
    torch.manual_seed(0)
    rows = torch.cat([torch.zeros(6, 40), 5 + torch.randn(8, 40), torch.randn(6, 40) - 5])
    assert clusters(rows) == [list(range(6, 14)), list(range(14, 20))]


def test_features_are_measured_in_deviations_from_the_usual_ones() -> None:
    usual = torch.tensor([[0.0, 10.0], [2.0, 10.0], [4.0, 10.0]])
    found = standardized(torch.tensor([[6.0, 10.0]]), usual)
    assert found[0].tolist() == pytest.approx([2.0, 0.0], abs=1e-4)
    alone = standardized(torch.tensor([[1.0], [3.0]]), torch.zeros(0, 1))
    assert alone.tolist() == [[-1.0], [1.0]]


def test_cohesion_is_of_directions_not_of_strengths() -> None:
    assert cohesion(torch.tensor([[1.0, 1.0], [5.0, 5.0], [0.1, 0.1]])) == pytest.approx(1)
    assert cohesion(torch.tensor([[3.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -7.0]])) == pytest.approx(0, abs=1e-6)
    assert cohesion(torch.tensor([[1.0, 0.0], [0.0, 1.0]])) == pytest.approx(0.5**0.5)


def test_a_branch_responds_by_how_far_its_own_features_are() -> None:
    deviations = torch.tensor([[3.0, 3.0, 0.0, 0.0], [-3.0, 3.0, 0.0, 4.0]])
    assert responses(deviations, 2) == pytest.approx([3.0, 2.0])
