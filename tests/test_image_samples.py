"""Images drawn from a task: what each is a function of, classes, walks; sheets and films; sheets through a run."""

import time
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import Drawing
from PIL import Image

import jaxgen
from jaxgen.errors import UsageError
from jaxgen.image_samples import BATCH_SIZE, GeneratesImages, ImageGenerator, sheet_columns, spherical
from jaxgen.image_sheets import read_png, save_film, save_png, sheet
from jaxgen.models import FeedForward
from jaxgen.parallel import make_mesh, put_state
from jaxgen.sample_sheets import SampleSheets
from jaxgen.tasks import Regression
from jaxgen.train.hooks import Hook
from jaxgen.train.state import TrainState


def state_of(task, mesh=True):
    example = {"image": np.zeros((8, *task.image_shape), np.uint8), "label": np.zeros(8, np.int32)}
    state = TrainState.create(task, optax.sgd(0.1), jax.random.key(0), example)
    classes = np.linspace(0, 1, max(1, task.num_classes)).reshape(-1, 1, 1, 1)
    means = jnp.asarray(np.broadcast_to(classes, state.params["means"].shape), jnp.float32)
    state = TrainState(**{**vars(state), "params": {"means": means}})
    return put_state(state, make_mesh()) if mesh else state


def test_protocol():
    assert isinstance(Drawing(), GeneratesImages)
    with pytest.raises(UsageError, match="Regression generates no images"):
        ImageGenerator(Regression(FeedForward()))


def test_an_image_is_a_function_of_seed_and_index():
    """However many are drawn, on one device or eight; the noise of the latents and the other one alike."""
    task = Drawing()
    generator, state = ImageGenerator(task), state_of(task)
    many = generator.sample(state, BATCH_SIZE + 9, seed=3)
    assert many.shape == (BATCH_SIZE + 9, 28, 28, 1) and many.dtype == np.uint8
    few = generator.sample(state, 5, seed=3)
    np.testing.assert_array_equal(few, many[:5])
    alone = ImageGenerator(task).sample(state_of(task, mesh=False), BATCH_SIZE + 9, seed=3)
    np.testing.assert_array_equal(alone, many)
    same_class = generator.sample(state, 20, 3, np.full(20, 5, np.int32))
    np.testing.assert_array_equal(same_class[[5, 15]], many[[5, 15]])
    assert len(np.unique(same_class, axis=0)) == 20
    assert not np.array_equal(generator.sample(state, 5, seed=4), few)


def test_noise_is_standard_normal():
    task = Drawing(num_classes=0, noise=0.1)
    images = ImageGenerator(task).sample(state_of(task), 500).astype(float)
    # Means of 0 lose what is below; half of the values are above, with a mean of 0.1 * sqrt(1.01) * 0.798.
    assert np.mean(images > 0) == pytest.approx(0.5, abs=0.02)
    assert images[images > 0].mean() == pytest.approx(255 * 0.1 * np.sqrt(1.01) * 0.798, rel=0.03)


def test_classes_come_in_turn():
    task = Drawing(noise=0.01)
    images = ImageGenerator(task).sample(state_of(task), 23)
    expected = 255 * np.linspace(0, 1, 10)[np.arange(23) % 10]
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=6)


@pytest.mark.parametrize(
    ("task", "arguments", "options", "message"),
    [
        (Drawing(), (0,), {}, "num samples is 0"),
        (Drawing(), (4, -1), {}, "seed is -1; it must be at least 0"),
        (Drawing(), (2, 0, np.array([3, 10], np.int32)), {}, "no class 10: the run has classes 0 to 9"),
        (Drawing(), (3, 0, np.array([3], np.int32)), {}, "1 labels are given for 3 images"),
        (Drawing(), (4,), {"steps": 3}, "the task has no steps"),
        (Drawing(0), (1, 0, np.array([3], np.int32)), {}, "trained without classes"),
        (Drawing(0), (4,), {"guidance": 2.0}, "guidance leads to a class, and the run was trained without"),
    ],
)
def test_what_a_task_can_not_do_is_refused(task, arguments, options, message):
    with pytest.raises(UsageError, match=message):
        ImageGenerator(task).sample(state_of(task), *arguments, **options)


def test_walk_leads_from_sample_to_sample():
    task = Drawing(noise=0.3)
    generator, state = ImageGenerator(task), state_of(task)
    walk = generator.walk(state, (1, 2), 70, label=5)
    assert walk.shape == (70, 28, 28, 1)
    label = np.full(1, 5, np.int32)
    np.testing.assert_array_equal(walk[0], generator.sample(state, 1, 1, label)[0])
    steps = np.abs(np.diff(walk.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert steps.max() < 4  # nothing beside the latents moves
    no_noise = ImageGenerator(Drawing(noise=0.3)).walk(state, (2, 2), 3, label=5)
    np.testing.assert_array_equal(no_noise[0], no_noise[2])
    with pytest.raises(UsageError, match="a walk needs at least 2"):
        generator.walk(state, (1, 2), 1)


def test_spherical_interpolation_keeps_the_length():
    rng = np.random.default_rng(0)
    start, end = rng.normal(size=(2, 6, 5)).astype(np.float32)
    end *= np.linalg.norm(start) / np.linalg.norm(end)
    points = spherical(start, end, np.linspace(0, 1, 7))
    np.testing.assert_allclose(
        np.linalg.norm(points.reshape(7, -1), axis=1), np.linalg.norm(start), rtol=1e-5
    )
    np.testing.assert_allclose(points[[0, -1]], [start, end], atol=1e-6)
    flat = points.reshape(7, -1)
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairwise(flat)]
    np.testing.assert_allclose(np.arccos(cosines), np.arccos(cosines)[0], rtol=1e-3)  # even steps
    np.testing.assert_allclose(spherical(start, 2 * start, [0.5])[0], 1.5 * start, rtol=1e-5)


def test_sheet_arranges_images_row_by_row(tmp_path):
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((1, 28, 28, 3), 40, np.uint8)
    page = sheet(images, columns=3)
    side = 2 * 28  # small images are enlarged
    assert page.shape == (2 * (side + 2) + 2, 3 * (side + 2) + 2, 3)
    corners = page[2 :: side + 2, 2 :: side + 2, 0][:2, :3]
    np.testing.assert_array_equal(corners, [[0, 40, 80], [120, 160, 255]])
    assert (page[:2] == 255).all() and (page[:, side + 2 : side + 4] == 255).all()
    save_png(tmp_path / "a.png", page)
    np.testing.assert_array_equal(read_png(tmp_path / "a.png"), page)
    assert [sheet_columns(n) for n in (0, 1, 10, 100)] == [8, 8, 10, 8]


def test_film_shows_every_frame(tmp_path):
    grey = [np.full((20, 60, 1), 50 * n, np.uint8) for n in range(5)]
    save_film(tmp_path / "film.gif", grey, [100] * 4 + [900], [f"step {n}" for n in range(5)])
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 5 and film.info["loop"] == 0
        for n in range(5):
            film.seek(n)
            pixels = np.asarray(film.convert("L"))
            assert film.info["duration"] == (900 if n == 4 else 100)
            assert pixels.shape == (38, 60) and (pixels[18:] == 50 * n).all() and pixels[:18].min() < 100


class Seen(Hook):
    def __init__(self):
        self.steps = []

    def on_report(self, step, figures):
        self.steps.append(step)


def digits():
    return jaxgen.load("digits", "train").arrays()


@pytest.fixture(autouse=True)
def prepared(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def train(directory, steps, sheets, **options):
    return jaxgen.fit(
        Drawing(),
        digits(),
        optax.adam(0.05),
        steps=steps,
        workdir=directory,
        hooks=[sheets, *options.pop("hooks", ())],
        progress=False,
        **options,
    )


def test_sheets_are_saved_through_a_run_and_filmed(tmp_path):
    sheets = SampleSheets(Drawing(), tmp_path / "run" / "samples")
    result = train(tmp_path / "run", 600, sheets, steps_per_call=1)
    found = sorted((tmp_path / "run" / "samples").glob("step-*.png"))
    steps = [int(path.stem[5:]) for path in found]
    assert 20 <= len(steps) <= 24 and steps[-1] == 600
    assert steps[:4] == [1, 4, 9, 17] and np.all(np.diff(np.diff(steps)) > -2)
    expected = ImageGenerator(Drawing()).sample(result.state, 60)
    np.testing.assert_array_equal(read_png(found[-1]), sheet(expected, 10))
    assert not np.array_equal(read_png(found[0]), read_png(found[-1]))
    with Image.open(tmp_path / "run" / "samples" / "film.gif") as film:
        assert film.n_frames == len(steps)


def test_sheets_change_neither_the_run_nor_its_reports(tmp_path):
    with_sheets, without = Seen(), Seen()
    sheets = SampleSheets(Drawing(), tmp_path / "samples")
    first = train(None, 300, sheets, hooks=[with_sheets], report_every=50)
    second = train(None, 300, without, report_every=50)
    np.testing.assert_array_equal(first.state.params["means"], second.state.params["means"])
    assert with_sheets.steps == without.steps and len(without.steps) > 6


def test_resumed_run_draws_again_what_it_does_again(tmp_path):
    directory = tmp_path / "run" / "samples"
    train(tmp_path / "run", 100, SampleSheets(Drawing(), directory))
    stale = directory / "step-00000150.png"
    stale.write_bytes(b"")
    sheets = SampleSheets(Drawing(), directory)
    train(tmp_path / "run", 200, sheets)
    assert not stale.exists() and (directory / "step-00000200.png").exists()


def test_slow_sheets_are_left_out(tmp_path, monkeypatch):
    sheets = SampleSheets(Drawing(), tmp_path)
    sheets.on_start(0, 1000, 100)
    state, clock = state_of(Drawing()), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(SampleSheets, "_draw", lambda *_: clock.__setitem__(0, clock[0] + 2))
    drawn = []
    for step in range(1, 1001):
        clock[0] += 0.5
        if sheets.wants_state(step):
            sheets.on_state(step, state)
            drawn.append(step)
    # The first one's time is compilation, and some seconds are free; then 2 s are only taken every 40 s.
    assert drawn[:4] == [2, 7, 16, 28] and all(
        later - earlier >= 80 for earlier, later in pairwise(drawn[3:-1])
    )
    assert drawn[-1] == 1000 and len(drawn) > 8
