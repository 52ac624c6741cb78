"""Runs that generate images on the command line: sheets, films, reconstructions, quality by a trained classifier."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawing import Drawing, Encoding
from PIL import Image

import jaxgen
import jaxgen.tasks
from experiments.mnist_fnn import EXPERIMENT as FNN
from jaxgen import SavedRun
from jaxgen.cli import main
from jaxgen.image_quality import Classifier
from jaxgen.image_quality.features import digest, penultimate
from jaxgen.image_samples import ImageGenerator, sample_images
from jaxgen.image_sheets import read_png, sheet
from jaxgen.run import run

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """Lets `config.json` name the tasks of the tests, as it names jaxgen's own."""
    for task in (Drawing, Encoding):
        monkeypatch.setattr(jaxgen.tasks, task.__name__, task, raising=False)


@pytest.fixture(scope="module")
def digits(data_dir):
    return {split: jaxgen.load("digits", split, data_dir=data_dir) for split in ("train", "test")}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tmp_path_factory.mktemp("quality")


@pytest.fixture(scope="module")
def classifier(digits, workdir, data_dir):
    """The feed-forward net on digits, which is right on 95 % of them after 8 epochs."""
    task = jaxgen.ImageClassification(jaxgen.FeedForward(), pixel_range=(0.0, 1.0))
    return fitted(task, optax.adam(1e-3), workdir / "classifier", digits, data_dir, "mnist_fnn", epochs=8)


def trained(task, directory, digits, data_dir):
    """A run of the task, trained as `python -m experiments.NAME` would."""
    with pytest.MonkeyPatch.context() as patch:
        for known in (Drawing, Encoding):
            patch.setattr(jaxgen.tasks, known.__name__, known, raising=False)
        return fitted(task, optax.adam(0.05), directory, digits, data_dir, "drawing", steps=200)


def fitted(task, optimizer, directory, digits, data_dir, experiment, **length):
    jaxgen.fit(
        task,
        digits["train"],
        optimizer,
        **length,
        test=digits["test"],
        workdir=directory,
        record={"experiment": experiment, "data_dir": str(data_dir)},
        progress=False,
    )
    return directory


@pytest.fixture(scope="module")
def conditional(digits, workdir, data_dir):
    return trained(Encoding(), workdir / "conditional", digits, data_dir)


@pytest.fixture(scope="module")
def unconditional(digits, workdir, data_dir):
    return trained(Drawing(num_classes=0), workdir / "unconditional", digits, data_dir)


def call(capsys, *arguments):
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return left.value.code, *capsys.readouterr()


def test_sheets_of_samples(conditional, unconditional, tmp_path, capsys):
    code, out, error = call(capsys, "sample", conditional)
    assert (code, error) == (0, "") and out == f"{conditional / 'samples' / 'samples.png'}\n"
    saved = SavedRun(conditional)
    expected = sheet(sample_images(saved, 64), 10)
    np.testing.assert_array_equal(read_png(conditional / "samples" / "samples.png"), expected)
    output = tmp_path / "grid.png"
    arguments = ("--num-samples", 20, "--output", output, "--class", 7, "--seed", 3, "--guidance", 2)
    code, _, error = call(capsys, "sample", conditional, *arguments)
    assert (code, error) == (0, "")
    np.testing.assert_array_equal(read_png(output), sheet(sample_images(saved, 20, 3, 7, guidance=2.0), 8))
    assert (
        call(capsys, "sample", unconditional, "--output", output)[0] == 0
    )  # what it wrote it may write over
    np.testing.assert_array_equal(read_png(output), sheet(sample_images(SavedRun(unconditional), 64), 8))


def test_walks(conditional, tmp_path, capsys):
    output = tmp_path / "walk.gif"
    arguments = ("--from-seed", 1, "--to-seed", 2, "--frames", 12, "--class", 4, "--output", output)
    code, out, error = call(capsys, "interpolate", conditional, *arguments)
    assert (code, out, error) == (0, f"{output}\n", "")
    saved = SavedRun(conditional)
    frames = ImageGenerator(saved.task).walk(saved.state, (1, 2), 12, 4)
    with Image.open(output) as film:
        assert film.n_frames == 12 and film.size == (224, 224)
        for index in (0, 5, 11):
            film.seek(index)
            np.testing.assert_array_equal(np.asarray(film.convert("L"))[::8, ::8], frames[index, ..., 0])


def test_reconstructions_stand_beside_their_pictures(conditional, digits, tmp_path, capsys):
    images = digits["test"].gather(np.arange(2))["image"]
    paths = [tmp_path / "light.png", tmp_path / "ink.png"]
    for path, image in zip(paths, (images[0], 255 - images[1]), strict=True):
        Image.fromarray(image[..., 0]).save(path)
    code, out, error = call(capsys, "reconstruct", conditional, *paths, "--class", 3)
    assert (code, error) == (0, "")
    mean = np.asarray(SavedRun(conditional).state.params["means"])[3]
    pairs = [page for image in images for page in (image, np.round(255 * (image / 255 + mean) / 2))]
    expected = sheet(np.stack(pairs).astype(np.uint8), 2).astype(int)
    assert np.abs(read_png(conditional / "samples" / "reconstructions.png") - expected).max() <= 1
    assert out.endswith("reconstructions.png\n")


def test_features_are_what_the_last_layer_is_applied_to(classifier, digits):
    saved = SavedRun(classifier)
    images = digits["test"].gather(np.arange(300))["image"]
    found = Classifier(saved)(images)
    layers = saved.state.params
    hidden = np.maximum(
        saved.task.scale(images).reshape(300, -1) @ layers["hidden_0"]["kernel"] + layers["hidden_0"]["bias"],
        0,
    )
    np.testing.assert_allclose(found.features, hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.classes, saved.predict({"image": images})["prediction"])


def test_features_of_a_convolutional_net():
    model = jaxgen.ConvNet(channels=(2,), widths=(5,), num_classes=3)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype(np.float32)
    params = model.init(jax.random.key(0), images)["params"]
    features, logits = penultimate(model, params, {}, jnp.asarray(images))
    output = params["head"]["output"]
    assert features.shape == (4, 5)
    np.testing.assert_allclose(features @ output["kernel"] + output["bias"], logits, rtol=1e-5, atol=1e-6)


def test_digest_is_of_every_weight():
    weights = {"a": np.zeros(3, np.float32), "b": np.zeros(2, np.float32)}
    others = [{**weights, "a": np.array([0, 0, 1e-30], np.float32)}, {"c": weights["a"], "b": weights["b"]}]
    digests = {digest(tree) for tree in (weights, *others, {**weights, "b": np.zeros((2, 1), np.float32)})}
    assert len(digests) == 4 and digest(dict(reversed(weights.items()))) in digests


def test_quality_is_measured_and_kept(conditional, classifier, digits, tmp_path, capsys):
    code, out, error = call(capsys, "evaluate", conditional, "--classifier", classifier)
    assert (code, error) == (0, "")
    assert "test/bound_1 99 " in out and "test/bound_50 50" in out and "test/loss" in out
    for name in (
        "Fréchet distance",
        "kernel distance",
        "recall",
        "recognised as asked",
        "classes present",
        "±",
    ):
        assert name in out
    (record,) = json.loads((conditional / "image_quality.json").read_text())
    assert record["num_samples"] == len(digits["test"]) and record["split"] == "test"
    judge = Classifier(SavedRun(classifier))
    assert record["classifier"]["weights"] == judge.identity["weights"]
    assert record["classifier"]["weights"][:12] in out and str(classifier) in out
    figures = json.loads((classifier / "result.json").read_text())
    assert record["classifier"]["accuracy"] == pytest.approx(figures["test/accuracy"], abs=1e-6)
    generated, real = record["generated"], record["real"]
    assert generated["accuracy"] > 0.9 and generated["classes_present"] == 10
    assert len(generated["class_accuracy"]) == 10 and real["accuracy"] > 0.9
    # Mean images with noise are recognised, but neither real nor as different as real ones are.
    assert generated["frechet_distance"] > 2 * real["frechet_distance"] > 0
    assert generated["kernel_distance"] > 5 * abs(real["kernel_distance"])
    assert generated["recall"] < 0.5 < real["recall"] and generated["diversity"] < 0.7 * real["diversity"]
    for _ in range(2):  # the second time in the place of the first
        call(
            capsys, "evaluate", conditional, "--classifier", classifier, "--num-samples", 90, "--guidance", 5
        )
    records = json.loads((conditional / "image_quality.json").read_text())
    assert len(records) == 2 and records[0] == record
    assert records[1]["guidance"] == 5 and records[1]["generated"]["diversity"] < generated["diversity"]


def test_quality_of_an_unconditional_run(unconditional, classifier, capsys):
    code, out, _ = call(capsys, "evaluate", unconditional, "--classifier", classifier, "--num-samples", 60)
    assert code == 0 and "bound" not in out
    (record,) = json.loads((unconditional / "image_quality.json").read_text())
    assert "accuracy" not in record["generated"] and "accuracy" in record["real"]
    assert record["generated"]["classes_present"] < 10  # one mean image, all over again


def test_evaluation_without_a_classifier_tells_how_to_get_one(unconditional, conditional, capsys):
    code, out, _ = call(capsys, "evaluate", conditional)
    assert code == 0 and "test/bound_50 50" in out
    last = out.splitlines()[-1]
    assert "--classifier RUN; train one: python -m experiments.mnist_cnn --data digits --workdir" in last


@pytest.fixture
def other_classifiers(classifier, tmp_path):
    """Copies of the classifier that say they know another set, larger images, and no hidden layer."""
    paths = []
    for name, change in (
        ("set", lambda config: config["data"].update(name="mnist")),
        ("size", lambda config: config["example"]["image"].update(shape=[32, 32, 1])),
        ("linear", lambda config: config["task"]["model"].update(widths=[])),
    ):
        path = shutil.copytree(classifier, tmp_path / name)
        config = json.loads((path / "config.json").read_text())
        change(config)
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    return paths


def test_wrong_classifiers_are_one_line(conditional, unconditional, other_classifiers, tmp_path, capsys):
    def refused(*arguments, code=2):
        found, out, error = call(capsys, "evaluate", conditional, *arguments)
        assert found == code and error.count("\n") == 1 and not out
        return error

    other_set, other_size, linear = other_classifiers
    error = refused("--classifier", other_set)
    assert "was trained on mnist, the run on digits; train one: python -m experiments.mnist_cnn" in error
    assert "knows images of 32 x 32 x 1, the run's are of 28 x 28 x 1" in refused("--classifier", other_size)
    assert "none is no run directory" in refused("--classifier", tmp_path / "none")
    assert "is a run of Drawing, not of a classifier" in refused("--classifier", unconditional)
    assert "has no hidden layer" in refused("--classifier", linear)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("sample", ("--class", "10"), "there is no class 10: the run has classes 0 to 9"),
        ("sample", ("--class", "seven"), "unknown class 'seven'; known: 0 to 9"),
        ("sample", ("--class", "-1"), "unknown class '-1'"),
        ("sample", ("--num-samples", "0"), "num samples is 0; it must be at least 1"),
        ("sample", ("--num-samples", "-1", "--class", "7"), "num samples is -1; it must be at least 1"),
        ("sample", ("--seed", "-1"), "seed is -1; it must be at least 0"),
        ("sample", ("--steps", "5"), "the task has no steps"),
        ("sample", ("--prompt", "a", "--top-k", "3"), "--prompt and --top-k are of no use here: the run"),
        ("sample", ("--output", "grid.jpg"), "what is written is a PNG: --output grid.png"),
        ("sample", ("--output", "no/grid.png"), "there is no directory no: make it"),
        ("interpolate", ("--frames", "1"), "a walk needs at least 2"),
        ("interpolate", ("--output", "walk.png"), "what is written is a GIF: --output walk.gif"),
        ("interpolate", ("--class", "12"), "there is no class 12"),
        ("reconstruct", (), "give the pictures to reconstruct"),
        ("reconstruct", ("a.png",), "say by --class what the pictures show"),
        ("reconstruct", ("none.png", "--class", "1"), "none.png can't be read"),
        (
            "evaluate",
            ("--num-samples", "5"),
            "--num-samples is of no use here: images are judged by --classifier",
        ),
        ("evaluate", ("--beam", "4"), "--length-penalty are for texts, and the run generates images"),
        ("evaluate", ("--data", "other"), "is a run of Encoding, not of a model of texts"),
        ("evaluate", ("--classifier", "{classifier}", "--num-samples", "361"), "for 4 to 360"),
        ("evaluate", ("--classifier", "{classifier}", "--split", "train"), "that were held out"),
    ],
)
def test_impossible_requests_are_one_line(
    command, arguments, message, conditional, classifier, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    arguments = [argument.format(classifier=classifier) for argument in arguments]
    code, _, error = call(capsys, command, conditional, *arguments)
    assert code in (1, 2) and message in error and error.count("\n") == 1


def test_unconditional_runs_know_no_classes(unconditional, classifier, capsys):
    for command in ("sample", "interpolate"):
        code, _, error = call(capsys, command, unconditional, "--class", 3)
        assert code == 2 and "trained without classes" in error and error.count("\n") == 1
        code, _, error = call(capsys, command, unconditional, "--guidance", 3)
        assert code == 2 and "guidance leads to a class" in error and error.count("\n") == 1
    code, _, error = call(capsys, "evaluate", unconditional, "--classifier", classifier, "--guidance", 3)
    assert code == 2 and "guidance leads to a class" in error and error.count("\n") == 1
    code, _, error = call(capsys, "reconstruct", unconditional, "a.png")
    assert code == 2 and "a run of Drawing reconstructs no images" in error and error.count("\n") == 1


def test_other_runs_generate_no_images(classifier, capsys):
    code, _, error = call(capsys, "sample", classifier, "--class", 3)
    assert code == 2 and "--class is of no use here: the run generates no images" in error
    code, _, error = call(capsys, "interpolate", classifier)
    assert code == 2 and "a run of ImageClassification generates no images" in error
    code, _, error = call(capsys, "evaluate", classifier, "--classifier", classifier)
    assert code == 2 and "--classifier is of no use here" in error and error.count("\n") == 1


def test_nothing_else_is_written_over(conditional, tmp_path, capsys):
    mine = tmp_path / "mine.png"
    Image.new("L", (3, 3)).save(mine)
    code, _, error = call(capsys, "sample", conditional, "--output", mine)
    assert code == 2 and "mine.png would be written over: give another --output" in error
    assert Image.open(mine).size == (3, 3)


def test_experiment_that_generates_images_leaves_sheets_and_a_film(data_dir, tmp_path, capsys):
    from dataclasses import replace

    experiment = replace(FNN, task=lambda config, train: Drawing())
    options = experiment.options(data="digits", data_dir=data_dir, steps=40, workdir=tmp_path / "run")
    run(experiment, options)
    sheets = sorted(path.name for path in (tmp_path / "run" / "samples").glob("step-*.png"))
    assert sheets[-1] == "step-00000040.png" and len(sheets) > 3
    assert (tmp_path / "run" / "samples" / "film.gif").exists()
    assert (
        f"samples: {tmp_path / 'run' / 'samples'}/ ({len(sheets)} sheets, film.gif)"
        in capsys.readouterr().out
    )
