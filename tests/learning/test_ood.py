from __future__ import annotations

import pytest
import torch
from sklearn.covariance import LedoitWolf

from lorax.learning.ood import Distance, Residual, shrinkage
from lorax.learning.unknown import auroc


@pytest.fixture(scope="module")
def few_images_of_many_features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(40, 90, generator=generator) @ torch.randn(90, 90, generator=generator) / 10
    return mixed.double(), torch.arange(40) % 4


def residuals(features: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    means = torch.stack([features[ids == c].mean(0) for c in range(4)])
    return means, features - means[ids]


def test_the_shrinkage_is_ledoit_and_wolfs(few_images_of_many_features) -> None:
    features, ids = few_images_of_many_features
    _, rest = residuals(features, ids)
    expected = LedoitWolf(assume_centered=True).fit(rest.numpy()).shrinkage_
    assert shrinkage(rest @ rest.T / 40, 90)[0] == pytest.approx(expected)


def test_the_distance_is_the_one_with_the_whole_covariance(few_images_of_many_features) -> None:
    features, ids = few_images_of_many_features
    means, rest = residuals(features, ids)
    precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(rest.numpy()).precision_)
    new = torch.randn(6, 90, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    to_each = torch.stack([((new - mean) @ precision * (new - mean)).sum(1) for mean in means])
    torch.testing.assert_close(Distance.fit(features, ids).squared(new), to_each.min(0).values, rtol=1e-4, atol=1e-4)


def test_identical_images_have_a_finite_distance() -> None:
    fitted = Distance.fit(torch.ones(4, 3), torch.tensor([0, 0, 1, 1]))
    assert fitted.squared(torch.ones(1, 3)).tolist() == [0.0]
    assert torch.isfinite(fitted.squared(torch.zeros(1, 3))).all()


def test_auroc_by_hand() -> None:
    assert auroc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])) == 1.0
    assert auroc(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])) == 0.5
    assert auroc(torch.tensor([0.5]), torch.tensor([0.0, 1.0, 2.0, 3.0])) == 0.25
    assert auroc(torch.tensor([]), torch.tensor([1.0])) is None


def test_the_residual_of_scores_is_nothing_at_an_answer_and_grows_between_them() -> None:
    residual = Residual.of_head(torch.eye(3), torch.zeros(3))  # scores are the texture
    textures = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0.25, 0.25, 0.25], [0, 0, 3]])
    torch.testing.assert_close(residual.squared(textures), torch.tensor([0.0, 0, 0.5, 0.6875, 4]).double())


@pytest.fixture(scope="module")
def known_scores() -> tuple[torch.Tensor, torch.Tensor]:
    """Of 200 images and 3 answers: they sum to 1, as a solved head's do, and the first two answers are confused."""
    generator = torch.Generator().manual_seed(0)
    answers = torch.arange(200) % 3
    confused = torch.randn(200, 1, generator=generator) * torch.tensor([0.3, -0.3, 0.0])
    spread = torch.randn(200, 1, generator=generator) * torch.tensor([0.02, 0.02, -0.04])
    return (torch.eye(3)[answers] + confused + spread).double(), answers


def test_a_measured_residual_is_mahalanobis_distance_with_ledoit_and_wolfs_covariance(known_scores) -> None:
    scores, answers = known_scores
    weight, bias = torch.randn(3, 5, generator=torch.Generator().manual_seed(2)), torch.tensor([0.1, -0.2, 0.3])
    textures = (scores - bias) @ torch.linalg.pinv(weight.double()).T
    precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(scores - torch.eye(3)[answers]).precision_)
    to_each = torch.stack([((scores - one) @ precision * (scores - one)).sum(1) for one in torch.eye(3).double()])
    measured = Residual.of_head(weight, bias).measured(textures, answers)
    torch.testing.assert_close(measured.squared(textures), to_each.min(0).values, rtol=1e-3, atol=1e-3)


def test_a_confusion_that_is_usual_is_less_strange_than_one_that_is_not(known_scores) -> None:
    plain = Residual.of_head(torch.eye(3), torch.zeros(3))
    usual, unusual = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
    told = plain.squared(torch.stack([usual, unusual]))
    assert told[0] == pytest.approx(float(told[1]))
    told = plain.measured(*known_scores).squared(torch.stack([usual, unusual]))
    assert told[1] > 5 * told[0]


def test_scores_that_always_fit_give_a_finite_residual() -> None:
    measured = Residual.of_head(torch.eye(2), torch.zeros(2)).measured(torch.eye(2), torch.arange(2))
    assert measured.squared(torch.eye(2)).tolist() == [0.0, 0.0]
    assert torch.isfinite(measured.squared(torch.zeros(1, 2))).all()


def test_a_residual_is_read_as_it_was_kept_and_one_without_answers_is_in_the_scores_own_units(known_scores) -> None:
    plain = Residual.of_head(torch.eye(3), torch.zeros(3))
    kept = plain.measured(*known_scores).tensors()
    probes = torch.rand(4, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(Residual.parse(kept).squared(probes), plain.measured(*known_scores).squared(probes))
    older = {name: tensor for name, tensor in plain.tensors().items() if name != "score_answers"}
    assert torch.equal(Residual.parse(older).squared(probes), plain.squared(probes))


def test_an_image_that_is_told_perturbed_but_does_not_look_like_one_is_strange() -> None:
    generator, answers = torch.Generator().manual_seed(0), torch.arange(200) % 2
    spread = 0.1 * torch.randn(200, 3, generator=generator)
    known = (
        torch.cat([torch.eye(2)[answers], torch.ones(200, 1)], dim=1) + spread
    )  # two answers' scores, and the kind's
    head, kind = Residual.of_head(torch.eye(2, 3), torch.zeros(2)), torch.tensor([[0.0, 0, 1]])
    beside = head.beside(kind, torch.zeros(1), torch.ones(1)).measured(known, answers)
    plain = head.measured(known, answers)
    new = torch.tensor([[1.0, 0, 0.5]])
    assert float(plain.squared(new)) < float(plain.squared(known).median())
    assert float(beside.squared(new)) > float(beside.squared(known).max())
    unsaid = plain.beside(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1))
    torch.testing.assert_close(unsaid.squared(known), plain.squared(known))
