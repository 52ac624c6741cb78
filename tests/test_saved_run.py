"""`SavedRun` in one's own code: own models, own arrays, predictions. That of experiments is in `test_run`."""

import flax.linen as nn
import numpy as np
import optax
import pytest

import jaxgen
from jaxgen.cli import main
from jaxgen.data import from_arrays
from jaxgen.errors import OwnCodeError, UsageError
from jaxgen.tasks import ImageClassification, Regression


class Perceptron(nn.Module):
    """A model of a user's own."""

    @nn.compact
    def __call__(self, images):
        return nn.Dense(3)(images.reshape(len(images), -1))


def images(number=300, size=6):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, number).astype(np.int32)
    pixels = rng.integers(0, 60, (number, size, size, 1)) + 60 * labels[:, None, None, None]
    return {"image": pixels.astype(np.uint8), "label": labels}


OWN = ImageClassification(Perceptron())


def fit(task, workdir, data=None, **options):
    options = {"steps": 100, "batch_size": 64, "progress": False, "workdir": workdir, **options}
    return jaxgen.fit(task, data or images(), optax.adam(1e-2), **options)


@pytest.fixture(scope="module")
def own_run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    return workdir, fit(OWN, workdir, test=images(70))


def test_own_model_on_own_arrays(own_run):
    workdir, result = own_run
    saved = jaxgen.SavedRun(workdir, task=OWN)
    figures = saved.evaluate({"test": images(70), "train": from_arrays(images())})
    assert figures["test/loss"] == pytest.approx(result.figures["test/loss"], abs=1e-6)
    assert figures["train/accuracy"] > 0.9
    with pytest.raises(OwnCodeError, match="trained on arrays of your own code: evaluate it there"):
        saved.evaluate()
    with pytest.raises(
        OwnCodeError, match=r"Perceptron, which is not part of jaxgen: .*SavedRun\(path, task="
    ):
        jaxgen.SavedRun(workdir).evaluate({"test": images()})


def test_predictions_for_any_number_of_examples(own_run):
    """One, or more than go through the model at once; with or without labels, and the axis of channels."""
    workdir, result = own_run
    saved, arrays = jaxgen.SavedRun(workdir, task=OWN), images()
    every = saved.predict(arrays)
    expected = OWN.predict(result.state.params, {}, arrays)["probabilities"]
    np.testing.assert_allclose(every["probabilities"], expected, atol=1e-6)
    assert all(type(values) is np.ndarray and len(values) == 300 for values in every.values())
    one = saved.predict({"image": arrays["image"][7:8, ..., 0]})
    np.testing.assert_allclose(one["probabilities"], every["probabilities"][7:8], atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"image": images(2, size=7)["image"]},
            r"on image \[6, 6, 1\].*, and can't be applied to image \[7, 7, 1\]",
        ),
        ({"pixels": np.zeros((2, 6))}, r"trained on image \[6, 6, 1\] and label \[\], not on pixels \[6\]"),
        ({"image": np.zeros((0, 6, 6, 1))}, "the given data holds no examples"),
        (images()["image"], "the given data is no data"),
    ],
)
def test_examples_that_do_not_fit_are_one_line(own_run, given, message):
    with pytest.raises(UsageError, match=message) as caught:
        jaxgen.SavedRun(own_run[0], task=OWN).predict(given)
    assert "\n" not in str(caught.value)


def test_task_that_predicts_nothing(own_run):
    class Silent:
        init, initial_carry, loss = OWN.init, OWN.initial_carry, OWN.loss

    with pytest.raises(UsageError, match="Silent has no predict"):
        jaxgen.SavedRun(own_run[0], task=Silent()).predict(images())


def test_other_task_than_was_trained_is_refused(own_run):
    other = ImageClassification(jaxgen.FeedForward(widths=(5,), num_classes=3))
    with pytest.raises(jaxgen.JaxgenError) as caught:
        jaxgen.SavedRun(own_run[0], task=other).predict(images())
    assert "\n" not in str(caught.value)


def test_plot_draws_the_curves_and_says_what_it_cannot(own_run, capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["plot", str(own_run[0])])
    line, path = capsys.readouterr().out.splitlines()
    assert line.startswith("only the curves can be drawn: the run uses")
    assert path == str(own_run[0] / "plots" / "curves.png")
    assert jaxgen.SavedRun(own_run[0], task=OWN).plot() == [own_run[0] / "plots" / "curves.png"]
    assert "only the curves can be drawn: the run was trained on arrays" in capsys.readouterr().out


def test_split_of_another_set(data_dir, tmp_path):
    """A test split from elsewhere than the training data is found there, or known not to be there."""
    task = Regression(jaxgen.FeedForward(widths=(), num_classes=1))
    train, test = (jaxgen.load("diabetes", split, data_dir=data_dir) for split in ("train", "test"))
    fit(task, tmp_path / "run", train, validation=test, test=test.gather(range(20)))
    saved = jaxgen.SavedRun(tmp_path / "run", data_dir)
    assert len(saved.source("validation")) == len(test)
    with pytest.raises(OwnCodeError, match="trained on arrays"):
        saved.source("test")
