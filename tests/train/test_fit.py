"""`fit`: the loop on data in memory."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.data import from_arrays
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.models import FeedForward
from jaxgen.parallel import make_mesh
from jaxgen.run_directory import RunDirectory
from jaxgen.tasks import ImageClassification, Regression
from jaxgen.train.evaluate import Evaluator
from jaxgen.train.feed import trace_once
from jaxgen.train.hooks import Hook, Progress
from jaxgen.train.loop import DivergedError, Tally


def rows(number=64, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(number, 4)).astype(np.float32)
    target = features @ np.array([1.0, -2.0, 0.5, 3.0], np.float32) + 1
    return {"features": features, "target": target + rng.normal(size=number).astype(np.float32) / 10}


def images(number=64, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, number).astype(np.int32)
    pixels = rng.integers(0, 60, (number, 6, 6, 1)) + 60 * labels[:, None, None, None]
    return {"image": pixels.astype(np.uint8), "label": labels}


LINE = Regression(FeedForward(widths=(), num_classes=1)).standardised(rows())
PICTURES = ImageClassification(FeedForward(widths=(8,), num_classes=3))


def fit(task=LINE, data=None, optimizer=None, **options):
    options = {"steps": 10, "batch_size": 16, "progress": False, **options}
    return jaxgen.fit(task, data or rows(), optimizer or optax.sgd(0.1), **options)


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result.state.params)]


def test_learns_a_line():
    result = fit(steps=200, test=rows(seed=1))
    assert result.figures["test/r2"] > 0.99
    assert result.figures["steps"] == int(result.state.step) == 200
    assert [record["step"] for record in result.history if "test/r2" in record][-1] == 200


def test_same_seed_same_run_other_seed_other_run():
    first, again, other = fit(seed=1), fit(seed=1), fit(seed=2)
    for a, b in zip(leaves(first), leaves(again), strict=True):
        assert a.tobytes() == b.tobytes()
    assert any((a != b).any() for a, b in zip(leaves(first), leaves(other), strict=True))


def test_calls_of_any_length_give_the_same_state_bit_for_bit():
    results = [
        fit(steps=20, steps_per_call=count, report_every=every) for count, every in ((2, 5), (7, 20), (20, 3))
    ]
    for result in results[1:]:
        for a, b in zip(leaves(results[0]), leaves(result), strict=True):
            assert a.tobytes() == b.tobytes()


def test_devices_and_feeds_agree():
    # float32 sums in another order: a few units in the last place a step.
    reference = leaves(fit(devices=jax.devices()[:1]))
    for options in (
        {"devices": jax.devices()[:1], "resident": False},
        {"resident": False},
        {"accumulate": 2},
        {},
    ):
        for a, b in zip(reference, leaves(fit(**options)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6, err_msg=str(options))


@pytest.mark.parametrize("batch_size", [8, 40, 64, 1000])
def test_evaluation_sees_every_example_once(batch_size):
    result = fit(PICTURES, images(), optax.adam(1e-2), steps=8)
    split = from_arrays(images(61, seed=3), split="test")
    mesh = make_mesh()
    figures = Evaluator(PICTURES, {"test": split}, mesh, batch_size)(result.state, ("test",))
    outputs = PICTURES.predict(result.state.params, {}, split.arrays())
    probabilities = np.asarray(outputs["probabilities"])
    labels = split.arrays()["label"]
    assert figures["test/accuracy"] == pytest.approx(
        np.mean(np.asarray(outputs["prediction"]) == labels), abs=1e-6
    )
    assert figures["test/loss"] == pytest.approx(
        -np.mean(np.log(probabilities[np.arange(61), labels])), abs=1e-5
    )


def test_restores_onto_another_number_of_devices(tmp_path):
    whole = leaves(fit(steps=12))
    fit(steps=6, workdir=tmp_path / "run", devices=jax.devices()[:2])
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device_count"] == 2
    rest = fit(steps=12, workdir=tmp_path / "run", devices=jax.devices()[:8])
    assert len(rest.state.params["output"]["kernel"].sharding.device_set) == 8
    for a, b in zip(whole, leaves(rest), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_going_on_with_another_number_of_devices_is_said_and_recorded(tmp_path, capsys):
    fit(steps=6, workdir=tmp_path / "run", devices=jax.devices()[:2])
    fit(steps=12, workdir=tmp_path / "run", devices=jax.devices()[:4], progress=True)
    assert "begun on 2 devices, goes on with 4" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["device_count"] == 4


def test_one_process_at_a_time_trains_in_a_directory(tmp_path):
    class Second(Hook):
        def on_progress(self, step):
            with pytest.raises(JaxgenError, match="another process is training in"):
                fit(workdir=tmp_path / "run")

    fit(workdir=tmp_path / "run", hooks=[Second()])
    assert (tmp_path / "run" / "result.json").exists()


def test_directory_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty and holds no run"):
        fit(workdir=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_loser_of_the_race_for_a_directory_takes_nothing_away(tmp_path):
    path = tmp_path / "run"
    first, second = RunDirectory(path), RunDirectory(path)
    first.make()
    second._made = [path]  # as where both have made it at once
    with first.held():
        with pytest.raises(JaxgenError, match="another process is training"), second.held():
            pass
        assert path.is_dir()


def test_nan_is_never_the_best():
    tally = Tally()
    for value in (float("nan"), 0.5, float("nan"), 0.4):
        tally.note((value, 0.0), patience=3)
    assert (tally.best, tally.evaluations_since_best, tally.converged) == (0.4, 0, False)


def test_module_of_ones_own_needs_no_train():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            return nn.Dense(3)(inputs.reshape(len(inputs), -1))

    result = fit(ImageClassification(Own()), images(), optax.adam(1e-2), steps=150, test=images(seed=1))
    assert result.figures["test/accuracy"] > 0.9


def test_resumed_run_keeps_its_number_of_devices(tmp_path):
    fit(steps=6, workdir=tmp_path / "run", devices=jax.devices()[:2])
    rest = fit(steps=12, workdir=tmp_path / "run")
    assert len(rest.state.params["output"]["kernel"].sharding.device_set) == 2


def test_best_state_in_memory_is_that_of_the_best_validation_loss():
    seen = {}

    class Watch(Hook):
        def on_evaluation(self, step, figures, state):
            seen[step] = figures["validation/loss"]

    # A learning rate that rises until the loss rises too.
    optimizer = optax.sgd(lambda step: 0.02 * 1.12**step)
    result = fit(
        steps=100, optimizer=optimizer, validation=rows(seed=1), patience=3, evaluate_every=4, hooks=[Watch()]
    )
    best = min(seen, key=seen.get)
    assert result.figures["steps"] == best + 12 < 100
    assert result.figures["evaluated_step"] == int(result.state.step) == best
    assert result.figures["validation/loss"] == pytest.approx(seen[best], rel=1e-6)


@pytest.mark.parametrize("cadence", [{}, {"checkpoint_every": 7}, {"checkpoint_every": 1000}])
def test_best_state_is_kept_whatever_the_cadence_of_checkpoints(cadence, tmp_path):
    options = {
        "steps": 60,
        "optimizer": optax.sgd(lambda step: 0.02 * 1.12**step),
        "validation": rows(seed=1),
        "evaluate_every": 4,
    }
    in_memory = fit(**options)
    in_files = fit(**options, **cadence, workdir=tmp_path / "run")
    assert in_memory.figures["evaluated_step"] == in_files.figures["evaluated_step"] < 60
    for a, b in zip(leaves(in_memory), leaves(in_files), strict=True):
        assert a.tobytes() == b.tobytes()


def test_weights_of_the_data_count_in_training_and_evaluation():
    """Examples of weight 0 are as good as absent, whatever they hold; on the host and on the device."""
    data, other = rows(), rows(seed=5)
    weights = np.repeat([1.0, 0.0], 32).astype(np.float32)
    spoilt = {
        name: np.where((weights > 0).reshape(-1, *[1] * (v.ndim - 1)), v, 9.0) for name, v in data.items()
    }
    for resident in (True, False):
        results = [
            fit(data={**d, "weight": weights}, test={**other, "weight": weights}, resident=resident)
            for d in (data, spoilt)
        ]
        for a, b in zip(*map(leaves, results), strict=True):
            np.testing.assert_array_equal(a, b)
    half = {name: values[:32] for name, values in other.items()}
    expected = np.mean((LINE.predict(results[0].state.params, {}, half)["prediction"] - half["target"]) ** 2)
    assert results[0].figures["test/mse"] == pytest.approx(float(expected), rel=1e-5)


def test_ema_is_what_is_evaluated():
    result = fit(steps=30, ema_decay=0.9, test=rows(seed=1))
    plain = dataclasses.replace(result.state, ema_params=None)
    figures = {}
    for name, state in (("ema", result.state), ("plain", plain)):
        predictions = LINE.predict(state.evaluation_params(), {}, rows(seed=1))["prediction"]
        figures[name] = float(np.mean((predictions - rows(seed=1)["target"]) ** 2))
    assert result.figures["test/mse"] == pytest.approx(figures["ema"], rel=1e-5)
    assert figures["ema"] != pytest.approx(figures["plain"], rel=1e-3)


@dataclasses.dataclass(frozen=True)
class Root(Regression):
    """Its gradient is infinite at zero, its loss is not."""

    def loss(self, params, model_state, carry, batch, context):
        terms, outputs = super().loss(params, model_state, carry, batch, context)
        extra = jax.numpy.sqrt(jax.numpy.abs(params["output"]["bias"] * 0)).sum()
        return {"mse": terms["mse"].replace(total=terms["mse"].total + extra)}, outputs


class TestDivergence:
    def test_bad_data_is_named(self):
        data = rows()
        data["features"][5, 2] = np.nan
        with pytest.raises(
            DivergedError, match=r"'features' is not finite in 1 of the 16 examples in the batch of step"
        ):
            fit(data=data, steps=8)

    def test_bad_parameters_are_named(self):
        message = r"step 2: the parameters output/bias went bad in step 1; .*no checkpoint had been made"
        with pytest.raises(DivergedError, match=message):
            fit(Root(LINE.model), steps=8)

    def test_bad_parameters_are_noticed_at_the_end(self):
        with pytest.raises(DivergedError, match="output/bias went bad in step 1"):
            fit(Root(LINE.model), steps=1)

    def test_bad_parameters_are_not_saved(self, tmp_path):
        """A gradient that is bad where the loss is good is noticed at a checkpoint, before it is saved."""
        with pytest.raises(
            DivergedError, match=r"output/bias went bad in step 1; .*no checkpoint had been made"
        ):
            fit(Root(LINE.model), steps=8, workdir=tmp_path / "run", checkpoint_every=1)

    def test_overflow_is_named(self):
        with pytest.raises(DivergedError, match="overflowed on a finite batch with finite parameters"):
            fit(optimizer=optax.sgd(1e18), steps=50)

    def test_last_good_checkpoint_is_kept(self, tmp_path):
        rates = optax.piecewise_constant_schedule(0.01, {6: 1e30})
        with pytest.raises(DivergedError, match="the last good checkpoint is that of step 6"):
            fit(optimizer=optax.sgd(rates), steps=20, workdir=tmp_path / "run", checkpoint_every=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"steps": None}, "as steps or as epochs"),
        ({"epochs": 3}, "as steps or as epochs"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"batch_size": 65}, "larger than the training set of 64: give a smaller batch size, --batch-size"),
        ({"batch_size": 12}, "8"),
        ({"patience": 2}, "needs a validation split"),
        ({"report_every": 0}, "report_every must be at least 1"),
        ({"data": {"features": np.zeros((3, 4)), "target": np.zeros(4)}}, "different lengths"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be at least 0 and below 1"),
        ({"optimizer": "adam"}, "'adam' is no optimizer: give an Optax transformation"),
        ({"task": FeedForward()}, "FeedForward is no task"),
        ({"data": "digits"}, "the train data is no data: give jaxgen.load"),
        ({"data": {}}, "no examples"),
        ({"data": images()}, "not features and target"),
        ({"task": PICTURES}, "not image and label"),
        ({"task": PICTURES, "data": images(classes=5)}, "5 classes, but the model has 3 outputs"),
    ],
)
def test_bad_requests_are_one_line(options, message):
    with pytest.raises(UsageError, match=message) as caught:
        fit(**options) if "data" not in options else jaxgen.fit(
            options.get("task", LINE), options["data"], optax.sgd(0.1), steps=2, batch_size=2, progress=False
        )
    assert "\n" not in str(caught.value)


def test_failed_save_in_the_background_stops_the_run_at_the_next_step(tmp_path, monkeypatch):
    from jaxgen.train.checkpoint import Checkpoints

    steps = []

    class Watch(Hook):
        def on_progress(self, step):
            steps.append(step)

    def check(self):
        if steps and steps[-1] >= 6:
            raise JaxgenError("could not save checkpoint of step 3: No space left on device")

    monkeypatch.setattr(Checkpoints, "check", check)
    with pytest.raises(JaxgenError, match="No space left"):
        fit(steps=20, workdir=tmp_path / "run", checkpoint_every=3, hooks=[Watch()], steps_per_call=1)
    assert steps[-1] == 6


def test_step_is_traced_once_and_says_so():
    doubled = jax.jit(trace_once(lambda x: 2 * x))
    assert doubled(np.float32(1)) == doubled(np.float32(2)) / 2
    with pytest.raises(AssertionError, match="traced again"):
        doubled(np.zeros(3, np.float32))


def test_progress_prints_plain_lines_when_there_is_no_terminal(capsys):
    fit(steps=10, test=rows(seed=1), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step 1/10  epoch 0.25  loss ")
    assert lines[-1].startswith("epoch 2.5  step 10  ")
    assert "test/r2" in lines[-1]
    assert "\x1b" not in "".join(lines)


def test_eta_does_not_count_compilation(capsys):
    progress = Progress()
    progress.on_start(0, 1000, 100)
    progress.on_report(10, {"train/loss": 1.0})
    progress._last_line = -1e9
    progress.on_report(
        20, {"train/loss": 1.0, "train/steps_per_second": 14.0, "train/examples_per_second": 1400.0}
    )
    first, second = capsys.readouterr().out.splitlines()
    assert "ETA" not in first
    assert second.endswith("1,400 examples/s  ETA 1:10")


def test_it_begins_with_the_parameters_that_are_given():
    own, _ = LINE.init(jax.random.key(0), rows())
    given = jax.tree.map(lambda leaf: np.full(leaf.shape, 2.0), own)
    still = jax.tree.map(jax.numpy.asarray, given)
    for params in (given, still):
        result = fit(steps=1, optimizer=optax.sgd(0.0), params=params)
        assert all((leaf == 2.0).all() and leaf.dtype == np.float32 for leaf in leaves(result))
    assert all((leaf == 2.0).all() for leaf in jax.tree.leaves(still)), "they are not donated"


def test_parameters_of_another_model_are_refused():
    own, _ = LINE.init(jax.random.key(0), rows())
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(own)]
    first = jax.tree_util.keystr(paths[0], simple=True, separator="/")
    for wrong in (
        {**own, "more": np.zeros(3)},
        jax.tree.map(lambda leaf: np.zeros((*leaf.shape, 1)), own),
        {},
    ):
        name = "more" if "more" in wrong else first
        with pytest.raises(UsageError, match=f"the parameters to begin with aren't the model's: {name}"):
            fit(params=wrong)
