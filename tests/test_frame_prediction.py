"""Prediction of frames: its figures, rollouts, what must not change them, films, and a real small run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from test_run import EXPERIMENTS

import jaxgen
from jaxgen.cli import main
from jaxgen.data import from_arrays
from jaxgen.data.moving import MovingReader, draw_motions, fly
from jaxgen.data.sources import Source
from jaxgen.errors import UsageError
from jaxgen.films import choose, film
from jaxgen.models import ConvLSTM
from jaxgen.run import run
from jaxgen.saved_run import SavedRun
from jaxgen.tasks import FramePrediction
from jaxgen.train.context import Context
from jaxgen.train.state import TrainState
from jaxgen.train.step import make_train_step

GIVEN = 3


def made(batch_size=4, time=7):
    """A task whose logits are not all near zero, with its parameters and some videos."""
    task = FramePrediction(ConvLSTM((8, 8, 1), (6,), patch_size=2), given=GIVEN)
    rng = np.random.default_rng(0)
    video = rng.integers(0, 256, (batch_size, time, 8, 8, 1), np.uint8)
    params, _ = task.init(jax.random.key(0), {"video": video})
    return task, jax.tree.map(lambda leaf: 3 * leaf, params), video


def apply(task, params, frames, carry=None):
    """The model's logits, and its carry."""
    return jax.jit(task.model.apply)({"params": params}, jnp.asarray(frames, jnp.float32), carry)


def rollout(task, params, frames, steps):
    return jax.jit(task.rollout, static_argnums=3)(params, {}, frames, steps)


def figures(task, params, batch):
    places = jnp.arange(len(batch["video"]))
    context = Context(rng=jax.random.key(0), step=jnp.int32(0), places=places, train=False)
    terms, outputs = jax.jit(lambda *given: task.loss(params, {}, (), *given))(batch, context)
    return {name: float(value.compute()) for name, value in {**terms, **outputs.metrics}.items()}


def small_digits(split, size=16, frames=8):
    """Scans of 8 x 8 that fly about in frames of 16 x 16."""
    scans = (load_digits().images * (255 / 16)).round().astype(np.uint8)
    scans, count, seed = (scans[:1437], 2000, 0) if split == "train" else (scans[1437:], 200, 1)
    chosen, start, velocity = draw_motions(len(scans), count, seed)
    places = np.moveaxis(fly(start, 2 * velocity, (size - 8, size - 8), frames), 0, 1).astype(np.uint8)
    reader = MovingReader(scans[chosen], places, size)
    return Source("small", split, reader, shape=(frames, size, size, 1))


def test_figures_are_those_of_numpy(compiled_quickly):
    task, params, video = made()
    found = figures(task, params, {"video": video})
    truth = video / 255
    logits = np.asarray(apply(task, params, truth[:, :-1])[0])
    rolled_out = np.asarray(rollout(task, params, video[:, :GIVEN], 4))

    def nats(probabilities, truth):
        found = -(truth * np.log(probabilities) + (1 - truth) * np.log(1 - probabilities))
        return found.sum((2, 3, 4)).mean()

    def squares(predicted, truth):
        return ((predicted - truth) ** 2).sum((2, 3, 4)).mean()

    next_frames = 1 / (1 + np.exp(-logits.astype(np.float64)))
    assert found["cross_entropy"] == pytest.approx(nats(next_frames, truth[:, 1:]), rel=1e-5)
    assert found["mse"] == pytest.approx(squares(next_frames, truth[:, 1:]), rel=1e-5)
    assert found["rollout_loss"] == pytest.approx(nats(rolled_out, truth[:, GIVEN:]), rel=1e-5)
    assert found["rollout_mse"] == pytest.approx(squares(rolled_out, truth[:, GIVEN:]), rel=1e-5)
    last = np.repeat(truth[:, GIVEN - 1 : GIVEN], 4, axis=1)
    for prefix, copied, rest in (
        ("", truth[:, :-1], truth[:, 1:]),
        ("rollout_", last, truth[:, GIVEN:]),
    ):
        assert found[f"{prefix}copying_mse"] == pytest.approx(squares(copied, rest), rel=1e-5)
        levels, fitted = np.rint(copied * 15), np.zeros_like(copied)
        for level in range(16):
            fitted[levels == level] = rest[levels == level].mean()
        assert found[f"{prefix}copying_loss"] == pytest.approx(nats(fitted, rest), rel=1e-5)


def test_rollout_goes_on_by_its_own_frames(compiled_quickly):
    """Told its own predictions as if they were the truth, it predicts the same; one frame ahead that is told anyway."""
    task, params, video = made()
    frames = jnp.asarray(video[:, :GIVEN] / 255, jnp.float32)
    rolled_out = rollout(task, params, video[:, :GIVEN], 4)
    known = jnp.concatenate([frames, rolled_out], axis=1)
    logits, _ = apply(task, params, known[:, :-1])
    np.testing.assert_allclose(jax.nn.sigmoid(logits[:, GIVEN - 1 :]), rolled_out, atol=1e-5)
    assert float(jnp.abs(jnp.diff(rolled_out, axis=1)).max()) > 0.1
    predicted = jax.jit(task.predict)(params, {}, {"video": video})["prediction"]
    np.testing.assert_array_equal(predicted, np.rint(255 * np.asarray(rolled_out)))


def test_rollout_fed_with_the_truth_is_the_prediction_of_next_frames(compiled_quickly):
    task, params, video = made()
    truth = video / 255
    logits, carry = apply(task, params, truth[:, :GIVEN])
    expected, _ = apply(task, params, truth[:, :-1])
    found = [logits[:, -1]]
    for time in range(
        GIVEN, 6
    ):  # the loop of `_go_on`, with frames that happened in the place of predicted ones
        logits, carry = apply(task, params, truth[:, time : time + 1], carry)
        found.append(logits[:, 0])
    np.testing.assert_allclose(jnp.stack(found, axis=1), expected[:, GIVEN - 1 :], atol=2e-5)
    first = rollout(task, params, video[:, :GIVEN], 1)
    np.testing.assert_allclose(first[:, 0], jax.nn.sigmoid(expected[:, GIVEN - 1]), atol=1e-5)


def test_padding_does_not_count(compiled_quickly):
    task, params, video = made()
    garbage = np.concatenate([video, np.full((2, *video.shape[1:]), 255, np.uint8)])
    weight = np.array([1, 1, 1, 1, 0, 0], np.float32)
    found = figures(task, params, {"video": garbage, "weight": weight})
    assert found == pytest.approx(figures(task, params, {"video": video}), rel=1e-5)
    assert figures(task, params, {"video": video, "weight": np.zeros(4, np.float32)})["copying_loss"] == 0


def test_microbatches_give_the_same_step(compiled_quickly):
    task, _, video = made()
    batch = {"video": video, "weight": np.array([1, 1, 1, 0], np.float32)}
    optimizer, after = optax.sgd(1e-3), []
    for accumulate in (1, 2):
        step = jax.jit(make_train_step(task.loss, optimizer, accumulate=accumulate))
        state, metrics = step(TrainState.create(task, optimizer, jax.random.key(0), batch), batch)
        after.append((state.params, float(metrics["loss"].compute()), float(metrics["mse"].compute())))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *after)


def test_resumed_run_is_the_same_bit_for_bit(tmp_path, compiled_quickly):
    task, _, video = made(batch_size=12)
    found = {}
    for name, lengths in {"whole": (6,), "resumed": (3, 6)}.items():
        for steps in lengths:
            found[name] = jaxgen.fit(
                task,
                {"video": video},
                optax.adam(1e-2),
                steps=steps,
                batch_size=8,
                workdir=tmp_path / name,
                progress=False,
            )
    jax.tree.map(np.testing.assert_array_equal, *(one.state.params for one in found.values()))
    assert found["whole"].history[-1]["train/loss"] == found["resumed"].history[-1]["train/loss"]


def test_it_learns_to_foresee_flying_digits():
    train, test = small_digits("train"), small_digits("test")
    task = FramePrediction(ConvLSTM((16, 16, 1), (32,), patch_size=4), given=4)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 200))
    found = jaxgen.fit(
        task, train, optimizer, steps=200, batch_size=32, test=test, progress=False, devices=jax.devices()[:1]
    ).figures
    for name in ("", "rollout_"):
        assert found[f"test/{name}mse"] < 0.7 * found[f"test/{name}copying_mse"]
    assert found["test/loss"] < 0.9 * found["test/copying_loss"]
    assert found["test/rollout_loss"] < 0.9 * found["test/rollout_copying_loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": ConvLSTM((8, 12, 1), patch_size=2)},
            "small has frames of 16 x 16 x 1, the model is for 8 x 12 x 1",
        ),
        ({"given": 8}, "small has 8 frames a sequence, which leaves none to predict after the 8 given ones"),
    ],
)
def test_data_that_does_not_fit(changes, message):
    task = FramePrediction(ConvLSTM((16, 16, 1), patch_size=2), given=4)
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(task, **changes).check(small_digits("test"))
    with pytest.raises(UsageError, match=r"digits has image, label, not video"):
        task.check(
            dataclasses.replace(from_arrays({"image": np.zeros((1, 2, 2)), "label": [0]}, name="digits"))
        )
    with pytest.raises(UsageError, match="0 given frames are too few"):
        dataclasses.replace(task, given=0)


def test_film_shows_where_prediction_begins():
    rng = np.random.default_rng(0)
    videos, predicted = (
        rng.integers(0, 256, (3, 5, 64, 64, 1), np.uint8),
        np.zeros((3, 2, 64, 64, 1), np.uint8),
    )
    pages, captions = film(videos, predicted)
    side, margin = 2 * 64 + 2, 8
    assert len(pages) == 5 and pages[0].shape == (3 * side + 2 + 12, 3 * side + 2 + 12, 1)
    assert [int(page[0, 0, 0]) for page in pages] == [255, 255, 255, 0, 0]
    assert captions[2] == "3/5  given" and captions[3] == "4/5  truth, predicted, last given"
    for time, page in enumerate(pages):
        for row, of_row in enumerate((videos, predicted, videos[:, 2:3].repeat(2, axis=1))):
            shown = videos[:, time] if row == 0 or time < 3 else of_row[:, time - 3]
            for column in range(3):
                top, left = margin + row * side, margin + column * side
                np.testing.assert_array_equal(page[top : top + 128 : 2, left : left + 128 : 2], shown[column])


def options(data_dir, workdir, **changes):
    experiment = EXPERIMENTS["moving_digits"]
    small = {
        "data": "digits",
        "frame_size": 32,
        "num_frames": 6,
        "given": 4,
        "features": (4,),
        "batch_size": 16,
        "schedule": "constant",
        "warmup_steps": 0,
    }
    given = {**small, "steps": 6, "data_dir": data_dir, "workdir": workdir, **changes}
    return experiment, experiment.config(**given)


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "m"
    jax.config.update("jax_disable_most_optimizations", True)
    run(*options(data_dir, workdir))
    jax.config.update("jax_disable_most_optimizations", False)
    return workdir


def frames_of(path):
    with Image.open(path) as opened:
        return opened.n_frames, opened.size


def test_run_leaves_a_film_and_is_evaluated_again(finished, data_dir, capsys):
    result = json.loads((finished / "result.json").read_text())
    figures = SavedRun(finished, data_dir).evaluate()
    assert figures == pytest.approx({name: result[name] for name in figures}, rel=1e-6)
    assert {
        f"test/{a}{b}{c}" for a in ("", "rollout_") for b in ("", "copying_") for c in ("loss", "mse")
    } == set(figures)
    assert frames_of(finished / "samples" / "film.gif") == (6, (8 * 130 + 2 + 12, 3 * 130 + 2 + 12 + 18))
    assert {path.name for path in (finished / "plots").glob("*.png")} >= {
        "error_by_frame.png",
        "rollouts.png",
    }


def command(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_sample_films_sequences_by_seed(finished, tmp_path, capsys):
    assert (
        command("sample", finished, "--num-samples", 3, "--output", tmp_path / "film.gif", "--seed", 5) == 0
    )
    assert capsys.readouterr().out == f"{tmp_path / 'film.gif'}\n"
    assert frames_of(tmp_path / "film.gif")[1][0] == 3 * 130 + 2 + 12
    assert command("sample", finished) == 0
    assert capsys.readouterr().out == f"{finished / 'samples' / 'samples.gif'}\n"
    source = SavedRun(finished).source("test")
    np.testing.assert_array_equal(choose(source, 2, 5), choose(source, 3, 5)[:2])
    assert not np.array_equal(choose(source, 2, 5), choose(source, 2, 6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--class", "7"], "--class is of no use here: the run predicts frames"),
        (["sample", "--guidance", "2", "--steps", "3"], "--guidance and --steps are of no use here"),
        (["sample", "--prompt", "two"], "--prompt is of no use here: the run predicts frames"),
        (["sample", "--num-samples", "17"], "num samples is 17; a film has room for 1 to 16 sequences"),
        (["sample", "--seed", "-1"], "seed is -1; it must be at least 0"),
        (["sample", "--output", "film.png"], "what is written is a GIF: --output film.gif"),
        (["interpolate"], "a run of FramePrediction generates no images"),
        (["reconstruct", "a.png"], "a run of FramePrediction reconstructs no images"),
        (["evaluate", "--guidance", "2"], "--guidance is of no use here: the run generates no images"),
        (["predict", "a.png"], "was trained on video: only image classifiers predict files"),
    ],
)
def test_what_a_run_can_not_do_is_one_line(arguments, message, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    assert command(arguments[0], finished, *arguments[1:]) != 0
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_size": 27}, "digits of 28 x 28 don't fly about in frames of 27 x 27"),
        ({"num_frames": 4}, "4 frames a sequence, which leaves none to predict after the 4 given ones"),
        ({"num_frames": 1}, "1 frames a sequence are too few"),
        (
            {"patch_size": 5},
            "frames of 32 x 32 can't be cut into patches of 5 x 5: take a patch size of 1, 2, 4, 8",
        ),
        ({"data": "digit"}, "unknown set of digits 'digit'; did you mean digits"),
        ({"given": 0}, "0 given frames are too few"),
    ],
)
def test_bad_options_are_one_line(changes, message, data_dir, tmp_path):
    with pytest.raises(UsageError, match=message) as raised:
        run(*options(data_dir, tmp_path / "run", **changes))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()
