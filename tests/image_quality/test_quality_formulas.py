"""Distances of features against the formulas that torch-fidelity publishes, written here on their own in float64."""

import numpy as np
import pytest
from scipy import linalg
from scipy.spatial.distance import cdist

from jaxgen.errors import UsageError
from jaxgen.image_quality import frechet_distance, kernel_distance, precision_and_recall
from jaxgen.image_quality.features import Recognised
from jaxgen.image_quality.kernel import squared_discrepancy
from jaxgen.image_quality.measures import diversity, measure


def draw(number, width, shift=0.0, scale=1.0, seed=0):
    """Draws correlated features, as rectified as a hidden layer's."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return np.maximum(rng.normal(shift, scale, (number, width)) @ mixing, 0).astype(np.float32)


def reference_fid(one, two):
    """As torch_fidelity.metric_fid: the trace of the root from the eigenvalues of the product of the covariances."""
    one, two = one.astype(np.float64), two.astype(np.float64)
    (m1, s1), (m2, s2) = ((f.mean(axis=0), np.atleast_2d(np.cov(f, rowvar=False))) for f in (one, two))
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype(complex)).real.sum()
    return (m1 - m2) @ (m1 - m2) + np.trace(s1) + np.trace(s2) - 2 * root


def reference_mmd(one, two):
    """As torch_fidelity.metric_kid: the unbiased estimate, with the polynomial kernel of degree 3, gamma 1 / width."""
    one, two, m = one.astype(np.float64), two.astype(np.float64), len(one)
    within_one, within_two, between = (
        (np.matmul(x, y.T) * (1.0 / x.shape[1]) + 1) ** 3 for x, y in ((one, one), (two, two), (one, two))
    )
    total = (
        within_one.sum() - np.diagonal(within_one).sum() + within_two.sum() - np.diagonal(within_two).sum()
    )
    return total / (m * (m - 1)) - 2 * between.sum() / (m * m)


def reference_prc(generated, real, k=3):
    """As torch_fidelity.metric_prc: whole matrices of distances, and the (k + 1)-th smallest in each row."""
    radii = [np.sort(cdist(f, f), axis=1)[:, k] for f in (generated, real)]
    between = cdist(generated, real)
    return (between <= radii[1]).any(axis=1).mean(), (radii[0] >= between.T).any(axis=1).mean()


@pytest.mark.parametrize(("numbers", "width"), [((500, 400), 24), ((30, 40), 64), ((100, 100), 1)])
def test_frechet_distance(numbers, width):
    one, two = draw(numbers[0], width), draw(numbers[1], width, 0.2, 1.3, seed=1)
    found = frechet_distance(one, two)
    assert found == pytest.approx(reference_fid(one, two), rel=1e-5)
    assert found == pytest.approx(frechet_distance(two, one), rel=1e-6)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-5)


def test_frechet_distance_by_the_root_of_the_matrix():
    one, two = draw(500, 12), draw(400, 12, 0.3, seed=1)
    s1, s2 = (np.cov(f.astype(np.float64), rowvar=False) for f in (one, two))
    difference = one.astype(np.float64).mean(axis=0) - two.astype(np.float64).mean(axis=0)
    expected = difference @ difference + np.trace(s1 + s2 - 2 * linalg.sqrtm(s1 @ s2).real)
    assert frechet_distance(one, two) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_known_gaussians():
    """Of 1 dimension it is the difference of means and deviations, squared."""
    rng = np.random.default_rng(0)
    found = frechet_distance(rng.normal(0, 1, (10**6, 1)), rng.normal(2, 3, (10**6, 1)))
    assert found == pytest.approx(4 + 4, rel=0.01)


def test_kernel_distance_of_a_subset():
    one, two = draw(300, 24).astype(float), draw(300, 24, 0.2, seed=1).astype(float)
    assert squared_discrepancy(one, two) == pytest.approx(reference_mmd(one, two), rel=1e-9)


def test_kernel_distance_over_subsets():
    """The subsets are drawn one after another, generated before real."""
    one, two = draw(300, 24), draw(250, 24, 0.2, seed=1)
    rng = np.random.default_rng(7)
    expected = [
        reference_mmd(one[rng.choice(300, 50, replace=False)], two[rng.choice(250, 50, replace=False)])
        for _ in range(20)
    ]
    found = kernel_distance(one, two, seed=7, subsets=20, subset_size=50)
    np.testing.assert_allclose(found, [np.mean(expected), np.std(expected)], rtol=1e-9)


def test_kernel_distance_has_an_error_bar_where_samples_are_few():
    same = kernel_distance(draw(200, 24), draw(200, 24, seed=1))
    assert same.deviation > 0 and abs(same.mean) < 3 * same.deviation
    other = kernel_distance(draw(200, 24), draw(200, 24, 0.5, seed=1))
    assert other.mean > 5 * other.deviation


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall(neighbours):
    generated, real = draw(450, 8, scale=0.8), draw(350, 8, 0.2, seed=1)
    found = precision_and_recall(generated, real, neighbours)
    expected = reference_prc(generated.astype(float), real.astype(float), neighbours)
    assert found == expected and found.precision != found.recall
    assert 0.1 < found.recall < 0.95 and 0.1 < found.precision < 1


def test_precision_and_recall_of_known_sets():
    real = draw(300, 8)
    assert precision_and_recall(real, real) == (1, 1)
    assert precision_and_recall(real + 100, real) == (0, 0)
    collapsed = np.repeat(real[:1], 300, axis=0)
    precision, recall = precision_and_recall(collapsed, real)
    assert precision == 1 and recall <= 1 / 300


@pytest.mark.parametrize(
    ("distance", "number"), [(frechet_distance, 1), (kernel_distance, 1), (precision_and_recall, 3)]
)
def test_features_that_can_not_be_compared_are_refused(distance, number):
    with pytest.raises(UsageError, match="samples"):
        distance(draw(number, 4), draw(50, 4))
    with pytest.raises(UsageError, match="of 4 and of 5 numbers"):
        distance(draw(50, 4), draw(50, 5))
    with pytest.raises(UsageError, match="aren't finite"):
        distance(np.full((50, 4), np.nan), draw(50, 4))


def test_diversity_is_that_of_pairs_of_one_class():
    features, classes = draw(40, 6), np.arange(40, dtype=np.int32) % 3
    squares = cdist(features, features) ** 2
    pairs = (classes[:, None] == classes) & ~np.eye(40, dtype=bool)
    expected = np.sqrt(squares[pairs].mean())
    assert diversity(Recognised(features, classes)) == pytest.approx(expected, rel=1e-6)
    alike = np.repeat(draw(3, 6), 5, axis=0)
    assert diversity(Recognised(alike, np.repeat(np.arange(3, dtype=np.int32), 5))) == pytest.approx(
        0, abs=1e-6
    )
    assert diversity(Recognised(features[:2], np.arange(2, dtype=np.int32))) == 0


def test_figures_by_class():
    classes = np.array([0, 0, 1, 1, 1, 3] * 2, np.int32)
    labels = np.array([0, 1, 1, 1, 3, 3] * 2, np.int32)
    seen = Recognised(draw(12, 6), classes)
    figures = measure(seen, labels, Recognised(draw(12, 6, seed=1), classes), 4)
    assert figures["accuracy"] == pytest.approx(4 / 6) and figures["classes_present"] == 3
    np.testing.assert_allclose(figures["class_shares"], [2 / 6, 3 / 6, 0, 1 / 6])
    assert figures["class_accuracy"] == [1, pytest.approx(2 / 3), None, 0.5]
    assert "accuracy" not in measure(seen, None, seen, 4)
