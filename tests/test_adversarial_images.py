"""Adversarial generation: a density with a known answer, what must change nothing, and runs from end to end."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from point_players import PointDiscriminator, PointGenerator

import jaxgen
from experiments.digits_gan import EXPERIMENT
from jaxgen.augment import DifferentiableAugmentation
from jaxgen.collapse import CollapseWatch
from jaxgen.data.sources import as_source
from jaxgen.errors import UsageError
from jaxgen.models import Discriminator, Generator
from jaxgen.optim import OptimizerConfig, Schedule
from jaxgen.parallel import make_mesh, put_batch
from jaxgen.run import run
from jaxgen.tasks import AdversarialImages
from jaxgen.train.players import make_players_step
from jaxgen.train.state import TrainState

MODES = np.stack([np.cos(np.arange(8) * np.pi / 4), np.sin(np.arange(8) * np.pi / 4)], axis=1)
WIDTH = 0.05


def ring(count=4096):
    rng = np.random.default_rng(0)
    points = MODES[rng.integers(8, size=count)] + WIDTH * rng.normal(size=(count, 2))
    return {"image": points.astype(np.float32)[:, None, None]}


def test_ring_of_eight_is_covered():
    """All modes, each about as often as it is there, and nearly all points near one of them."""
    task = AdversarialImages(PointGenerator(), PointDiscriminator(), "relativistic-r1", r1=0.1, r2=0.1)
    adam = optax.adam(1e-3, b1=0.0, b2=0.9)
    players = task.players({"generator": adam, "discriminator": adam})
    result = jaxgen.fit(task, ring(), players, steps=3000, batch_size=256, ema_decay=0.99, progress=False)
    latents = jax.random.normal(jax.random.key(1), (2000, 4))
    params = result.state.evaluation_params()
    made = task.generator.apply({"params": params["generator"]}, latents)[:, 0, 0]
    distances = np.linalg.norm(np.asarray(made)[:, None] - MODES, axis=2)
    nearest, near = distances.argmin(axis=1), distances.min(axis=1) < 4 * WIDTH
    assert near.mean() > 0.85  # of points all around the circle it is half
    assert np.bincount(nearest, minlength=8).min() / 2000 > 0.04
    # Nor are they eight single points.
    spreads = [np.asarray(made)[near & (nearest == mode)].std(axis=0).mean() for mode in range(8)]
    assert np.mean(spreads) > WIDTH / 4
    reported = [
        line["train/generator/diversity"] for line in result.history if "train/generator/diversity" in line
    ]
    assert 0.9 < reported[-1] < 1.1


def small_task(objective="ns", **options):
    return AdversarialImages(
        Generator((8, 8, 1), 5, 3, (4, 3)),
        options.pop("discriminator", Discriminator(3, (3, 4))),
        objective,
        **options,
    )


def batch_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, 8, 8, 1)).astype(np.uint8),
        "label": rng.integers(0, 3, size).astype(np.int32),
        "weight": np.ones(size, np.float32),
    }


def step_of(task, batch, optimizer=None):
    sgd = optimizer or optax.sgd(0.1)
    players = task.players({"generator": sgd, "discriminator": sgd})
    state = TrainState.create(task, players, jax.random.key(0), batch)
    return make_players_step(players), state


@pytest.mark.usefixtures("compiled_quickly")
@pytest.mark.parametrize(
    "task",
    [
        small_task("ns", discriminator=Discriminator(3, (3, 4), batch_norm=True)),
        small_task("wgan-gp", discriminator_steps=2),
        small_task("relativistic-r1", r2=0.0, augmentation=DifferentiableAugmentation(0.25, 0.5, 0.5)),
    ],
)
def test_padding_changes_nothing(task):
    """What rows of weight 0 hold, in both turns, penalties, statistics and metrics included."""
    size = 6 * task.slices
    batch = batch_of(size)
    batch["weight"][-2 * task.slices :] = 0
    other = {name: leaf.copy() for name, leaf in batch.items()}
    other["image"][-2 * task.slices :] = 255
    other["label"][-2 * task.slices :] = 1
    step, state = step_of(task, batch)
    compiled = jax.jit(step)
    for found, expected in zip(
        *(jax.tree.leaves(without_rng(compiled(state, given))) for given in (batch, other)), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def without_rng(result):
    state, metrics = result
    return state.params, state.model_state, metrics


@pytest.mark.usefixtures("compiled_quickly")
def test_devices_change_nothing():
    task = small_task("relativistic-r1", r2=0.0)
    batch = batch_of(16)
    step, state = step_of(task, batch)
    alone = jax.jit(step)(state, batch)
    shared = jax.jit(step)(state, put_batch(batch, make_mesh()))
    for found, expected in zip(*(jax.tree.leaves(without_rng(r)) for r in (shared, alone)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("compiled_quickly")
def test_each_player_changes_its_own_state_alone():
    task = small_task("hinge", discriminator=Discriminator(3, (3, 4), spectral_norm=True))
    batch = batch_of(8)
    params, model_state = task.init(jax.random.key(0), batch)
    context = jaxgen.train.Context(jax.random.key(1), jnp.int32(0), jnp.arange(8), train=True)
    for loss, own in ((task.discriminator_loss, "discriminator"), (task.generator_loss, "generator")):
        _, outputs = jax.jit(loss)(params, model_state, (), batch, context)
        for name in ("discriminator", "generator"):
            same = jax.tree.map(
                lambda a, b: bool((a == b).all()), outputs.model_state[name], model_state[name]
            )
            assert all(jax.tree.leaves(same)) == (name != own)


def test_optimizers_differ_by_the_rate():
    optimizers = small_task(discriminator_rate=4.0).optimizers(
        OptimizerConfig(schedule=Schedule(learning_rate=1e-4))
    )
    assert optimizers["generator"].schedule.learning_rate == 1e-4
    assert optimizers["discriminator"].schedule.learning_rate == pytest.approx(4e-4)


def options(data_dir, workdir, **given):
    small = {"image_size": (8,), "channels": (4, 8), "latent_size": 8, "evaluate_every": 4}
    return EXPERIMENT.options(data_dir=data_dir, workdir=workdir, **{**small, **given})


@pytest.fixture(scope="module")
def whole(data_dir, tmp_path_factory):
    jax.config.update("jax_disable_most_optimizations", True)
    directory = run(EXPERIMENT, options(data_dir, tmp_path_factory.mktemp("gan") / "whole", steps=6))
    yield directory
    jax.config.update("jax_disable_most_optimizations", False)


def test_a_run_goes_on_bit_for_bit(whole, data_dir, tmp_path):
    for steps in (3, 6):
        parted = run(EXPERIMENT, options(data_dir, tmp_path / "run", steps=steps))
    found, expected = (jaxgen.SavedRun(d.path, data_dir=data_dir).state for d in (parted, whole))
    for a, b in zip(*(jax.tree.leaves(replace(s, rng=0)) for s in (found, expected)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_run_tells_both_optimizers_and_is_opened_again(whole, data_dir):
    recorded = whole.config()["optimizer"]
    assert {name: one["beta1"] for name, one in recorded.items()} == {"discriminator": 0.5, "generator": 0.5}
    assert {"train/generator/diversity", "train/discriminator/margin"} <= whole.result().keys()
    saved = jaxgen.SavedRun(whole.path, data_dir=data_dir)
    figures = saved.evaluate()
    for name in ("margin", "diversity", "loss"):
        assert figures[f"test/{name}"] == pytest.approx(whole.result()[f"test/{name}"], rel=1e-3)
    state, task = saved.state, saved.task
    latents = jax.random.normal(jax.random.key(0), (4, *task.latent_shape))
    labels = jnp.arange(4, dtype=jnp.int32)
    images = task.generate(state.evaluation_params(), state.model_state, state.rng, latents, labels)
    assert images.shape == (4, *task.image_shape)
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    lines = saved.history()
    assert any("train/generator/diversity" in line and "train/discriminator/margin" in line for line in lines)


def test_collapse_is_told(capsys):
    watch = CollapseWatch()
    for step, diversity in enumerate([0.1, 0.9, 0.3, 0.2, 0.8, 0.4]):
        watch.on_report(step, {"train/generator/diversity": diversity, "train/discriminator/margin": 2.0})
    figures = {}
    watch.on_finish(figures, TrainState(*7 * (None,)))
    told = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == ["step 2", "step 5", "the run ends collapsed"]
    assert "differ only 0.30 times as much as two real ones" in told[0]
    assert figures == {"train/generator/diversity": 0.4, "train/discriminator/margin": 2.0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_task("wasserstein"), "unknown objective 'wasserstein'"),
        (lambda: small_task(r1=-1.0), "r1 is -1.0; it must be at least 0"),
        (lambda: small_task(discriminator_steps=0), "discriminator_steps must be at least 1, not 0"),
        (
            lambda: small_task("relativistic-r1", discriminator=Discriminator(3, batch_norm=True)),
            "r1 and r2 penalises the gradient of one image at a time, .*batch_norm=False",
        ),
        (
            lambda: small_task(discriminator=Discriminator(4)),
            "the generator has 3 classes, the discriminator 4: give both the same",
        ),
        (lambda: DifferentiableAugmentation(cutout=2.0), "cutout is 2.0; it must be between 0 and 1"),
        (
            lambda: small_task().check(
                as_source({"image": np.zeros((2, 9, 9, 1)), "label": np.zeros(2, int)}, "train")
            ),
            "has images of 9 x 9 x 1, but the generator makes 8 x 8 x 1",
        ),
        (
            lambda: small_task().check(as_source({"image": np.zeros((2, 8, 8, 1))}, "train")),
            "not image and label",
        ),
        (
            lambda: small_task().generate({}, {}, jax.random.key(0), jnp.zeros((1, 5)), None, guidance=2.0),
            "guidance is for diffusion models",
        ),
        (
            lambda: small_task().generate({}, {}, jax.random.key(0), jnp.zeros((1, 5)), None),
            "trained with 3 classes: say which ones to make",
        ),
        (
            lambda: jaxgen.fit(
                AdversarialImages(PointGenerator(), PointDiscriminator()),
                ring(8),
                AdversarialImages(PointGenerator(), PointDiscriminator()).players(
                    {"generator": optax.sgd(0.1), "discriminator": optax.sgd(0.1)}
                ),
                steps=1,
                validation=ring(8),
            ),
            "a game's losses don't tell which state is the best: leave out the validation split",
        ),
    ],
)
def test_what_can_not_be_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()
