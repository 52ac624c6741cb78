"""Augmentation inside the train step: the same on 1 or 8 devices and with 1 or 4 microbatches; mixup's loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import BATCH, MICROBATCHES, Problem, assert_close, ragged_weights, run

from jaxgen.augment import Augmentation, mixup_shares
from jaxgen.models import FeedForward
from jaxgen.tasks import ImageClassification
from jaxgen.train.context import Context

RNG = np.random.default_rng(0)
EVERYTHING = Augmentation(
    shift=2.0, rotation=20.0, scale=0.1, elastic=1.0, smoothness=3.0, crop=1, flip=True, cutout=3
)


def task_with(augmentation, **options):
    return ImageClassification(
        FeedForward((), num_classes=3), pixel_range=(0.0, 1.0), augmentation=augmentation, **options
    )


def augmented(augmentation):
    """A linear classifier of augmented images, with ragged weights."""
    batches = [
        {
            "image": RNG.integers(0, 256, (BATCH, 9, 8, 1)).astype(np.uint8),
            "label": np.arange(BATCH, dtype=np.int32) % 3,
            "weight": ragged_weights(i),
        }
        for i in range(3)
    ]
    task = task_with(augmentation)
    params, _ = task.init(jax.random.key(0), batches[0])
    return Problem(task.loss, jax.device_get(params), batches, optax.sgd(0.1))


@pytest.fixture(scope="module")
def problem():
    return augmented(EVERYTHING)


@pytest.fixture(scope="module")
def expected(problem):
    return run(problem)


@pytest.mark.parametrize(
    ("way", "accumulate"),
    [("single", MICROBATCHES), ("mesh", 1), ("pmap", 1), ("pmap", MICROBATCHES)],
)
def test_augmentation_is_the_same_in_every_way_of_running(way, accumulate, problem, expected):
    assert_close(run(problem, way, accumulate=accumulate), expected, rtol=1e-4, atol=1e-5)


def test_each_step_augments_anew():
    """Two runs that differ in augmentation alone part at once, and three equal batches give three losses."""
    problem = augmented(EVERYTHING)
    same = Problem(problem.loss, problem.params, [problem.batches[0]] * 3, optax.sgd(0.0))
    step = jax.jit(same.step())
    state, losses = same.state(), set()
    for batch in same.batches:
        state, metrics = step(state, batch)
        losses.add(float(metrics["loss"].compute()))
    assert len(losses) == 3


def context(train):
    return Context(jax.random.key(5), jnp.int32(0), jnp.arange(4), train=train)


BATCH_OF_4 = {
    "image": jnp.asarray(RNG.random((4, 9, 8, 1)), jnp.float32),
    "label": jnp.array([0, 1, 2, 1]),
    "weight": jnp.array([1.0, 2.0, 0.0, 0.5]),
}


def loss_of(task):
    return jax.jit(lambda params, state, context: task.loss(params, state, (), BATCH_OF_4, context))


@pytest.mark.parametrize("augmentation", [EVERYTHING, Augmentation(mixup=0.4)])
def test_evaluation_and_prediction_see_the_images_as_they_are(augmentation):
    plain, augmenting = task_with(Augmentation()), task_with(augmentation)
    params, state = plain.init(jax.random.key(0), BATCH_OF_4)
    evaluated = [loss_of(task)(params, state, context(False)) for task in (plain, augmenting)]
    jax.tree.map(np.testing.assert_array_equal, *evaluated)
    trained = [loss_of(task)(params, state, context(True))[0] for task in (plain, augmenting)]
    assert trained[0]["cross_entropy"].total != trained[1]["cross_entropy"].total
    predicted = [task.predict(params, state, BATCH_OF_4) for task in (plain, augmenting)]
    jax.tree.map(np.testing.assert_array_equal, *predicted)


@pytest.mark.parametrize("objective", ["cross_entropy", "mse"])
def test_mixup_loss_is_that_of_mixed_images_and_mixed_labels(objective):
    """In plain NumPy, with the row of weight 0 left out; accuracy is against each example's own label."""
    task = task_with(Augmentation(mixup=0.4), objective=objective)
    params, state = task.init(jax.random.key(0), BATCH_OF_4)
    terms, outputs = loss_of(task)(params, state, context(True))
    shares = np.asarray(mixup_shares(context(True).example_rngs(), 0.4))
    partner = {0: 1, 1: 3, 3: 0}
    total, right = 0.0, 0.0
    images, labels, weights = jax.device_get([BATCH_OF_4[name] for name in ("image", "label", "weight")])
    layer = jax.device_get(params)["output"]
    for i, j in partner.items():
        share = shares[i]
        image = share * images[i] + (1 - share) * images[j]
        logits = image.ravel() @ layer["kernel"] + layer["bias"]
        for part, label in ((share, labels[i]), (1 - share, labels[j])):
            if objective == "cross_entropy":
                value = np.log(np.exp(logits).sum()) - logits[label]
            else:
                value = ((logits - np.eye(3)[label]) ** 2).sum()
            total += part * weights[i] * value
        right += weights[i] * (logits.argmax() == labels[i])
    term = terms[objective]
    assert float(term.total) == pytest.approx(total, rel=1e-5)
    assert float(term.count) == pytest.approx(3.5 if objective == "cross_entropy" else 3.5 * 3, rel=1e-6)
    assert float(outputs.metrics["accuracy"].total) == right
    gradient = jax.grad(lambda p: task.loss(p, state, (), BATCH_OF_4, context(True))[0][objective].total)(
        params
    )
    assert all(np.isfinite(leaf).all() and (leaf != 0).any() for leaf in jax.tree.leaves(gradient))


def test_mixup_is_equal_in_distribution_with_microbatches():
    """Other pairs, the same counts, and losses of the same size."""
    problem = augmented(Augmentation(mixup=1.0))
    (whole, whole_metrics), (divided, divided_metrics) = run(problem), run(problem, accumulate=MICROBATCHES)
    mesh, _ = run(problem, "mesh")
    assert_close(mesh.params, whole.params, rtol=1e-4, atol=1e-5)
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, divided.params)
    assert max(jax.tree.leaves(differences)) > 1e-4
    counts = [m["loss"].means["cross_entropy"].count for m in (whole_metrics, divided_metrics)]
    assert counts[0] == pytest.approx(counts[1], rel=1e-5)
    losses = [float(m["loss"].compute()) for m in (whole_metrics, divided_metrics)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
