"""Predictions of files: as a user runs them, for models of stored sets and of folders, with bad files among them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from data.test_strokes import on_paper
from PIL import Image
from rich.console import Console

from experiments.diabetes_fnn import EXPERIMENT as DIABETES
from experiments.mnist_cnn import EXPERIMENT as CNN
from experiments.mnist_fnn import EXPERIMENT as FNN
from jaxgen.cli import main
from jaxgen.data import load
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.predict import Prediction, inverted_line, predict, rows_of_pictures, table
from jaxgen.run import run
from jaxgen.saved_run import SavedRun

ROOT = Path(__file__).parents[1]


def train(experiment, workdir, **options):
    run(experiment, experiment.config(workdir=workdir, **options))
    return workdir


@pytest.fixture(scope="module")
def digits_run(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("predict") / "digits"
    return train(FNN, workdir, data="digits", data_dir=data_dir, epochs=12)


@pytest.fixture(scope="module")
def digits(data_dir):
    return load("digits", "test", data_dir=data_dir).arrays()


@pytest.fixture(scope="module")
def photos(digits, tmp_path_factory):
    """A folder of digits, dark on light, by class: three classes, their names out of the ordinary."""
    folder = tmp_path_factory.mktemp("photos")
    for index, (image, label) in enumerate(zip(digits["image"], digits["label"], strict=True)):
        if label < 3:
            path = folder / ("-zero", "$one$", "two\n2")[label] / f"{index}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(255 - image[..., 0]).save(path)
    return folder


@pytest.fixture(scope="module")
def photos_run(photos, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("predict") / "photos"
    return train(FNN, workdir, data=f"{photos}/", epochs=20, batch_size=16)


def command(*arguments, capsys):
    """Runs the command line; gives its exit code and both outputs."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    return exit_.value.code, *capsys.readouterr()


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_set_itself_is_predicted_as_it_was_evaluated(digits_run, digits, tmp_path):
    for index in range(60):
        image = digits["image"][index, ..., 0]
        Image.fromarray(image if index % 2 else 255 - image).save(tmp_path / f"{index:02}.png")
    found = list(predict(SavedRun(digits_run), [tmp_path]))
    assert [p.path.name for p in found] == [f"{index:02}.png" for index in range(60)]
    assert [p.inverted for p in found] == [True, False] * 30
    assert all((p.image == image).all() for p, image in zip(found, digits["image"], strict=False))
    right = np.mean(
        [p.probabilities.argmax() == label for p, label in zip(found, digits["label"], strict=False)]
    )
    assert right > 0.9
    assert np.allclose([p.probabilities.sum() for p in found], 1, atol=1e-5)


def test_table_csv_and_sheet(digits_run, digits, tmp_path, capsys):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        Image.fromarray(255 - digits["image"][index, ..., 0]).save(pictures / f"{index}.png")
    output = tmp_path / "new" / "mine.csv"
    code, printed, errors = command("predict", digits_run, pictures, "--output", output, capsys=capsys)
    assert (code, errors) == (0, "")
    assert "dark on light, so inverted" in printed
    assert printed.splitlines()[-2:] == [str(output), str(output.with_suffix(".png"))]
    written = rows(output)
    assert list(written[0]) == ["file", "prediction", "probability", *"0123456789"]
    for row, prediction in zip(
        written, predict(SavedRun(digits_run), [pictures / f"{i}.png" for i in range(3)]), strict=True
    ):
        assert row["file"] == str(prediction.path)
        exact = [np.float32(row[name]) for name in "0123456789"]
        np.testing.assert_allclose(exact, prediction.probabilities, rtol=1e-5)
        assert row["prediction"] == str(np.argmax(exact)) and np.float32(row["probability"]) == max(exact)
    assert Image.open(output.with_suffix(".png")).format == "PNG"
    assert sorted(path.name for path in output.parent.iterdir()) == ["mine.csv", "mine.png"]


def test_only_what_a_prediction_wrote_is_written_over(digits_run, digits, tmp_path, capsys):
    picture, output = tmp_path / "a.png", tmp_path / "mine.csv"
    Image.fromarray(digits["image"][0, ..., 0]).save(picture)

    def predict_to(path):
        return command("predict", digits_run, picture, "--output", path, capsys=capsys)

    for _ in range(2):
        assert predict_to(output)[0] == 0
    precious = tmp_path / "precious.csv"
    precious.with_suffix(".png").write_bytes(b"a picture")
    (tmp_path / "table.csv").write_text("name,age\n")
    for path, told in ((precious, "precious.png"), (tmp_path / "table.csv", "table.csv")):
        code, _, errors = predict_to(path)
        assert (code, errors.count("\n")) == (2, 1) and f"{told} would be written over" in errors


def test_bad_files_are_told_and_the_rest_goes_on(digits_run, digits, tmp_path, capsys):
    image = Image.fromarray(digits["image"][0, ..., 0])
    good = ["a b.png", "-x.png", "new\nline.png", "[red]$x$.png", "😀.png", os.fsdecode(b"\xff.png")]
    for name in good:
        image.save(tmp_path / name)
    encoded = (tmp_path / "a b.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(encoded[:90])
    (tmp_path / "notes\n.txt").write_text("no picture")
    Image.fromarray(digits["image"][0, ..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    (tmp_path / ".DS_Store").touch()
    code, _, errors = command("predict", digits_run, tmp_path, tmp_path / "gone.png", capsys=capsys)
    assert code == 1
    assert errors.splitlines() == [
        f"jaxgen: {tmp_path}/cut.png is damaged or cut off",
        rf"jaxgen: {tmp_path}/notes\n.txt is no PNG, JPEG, BMP or GIF picture",
        f"jaxgen: {tmp_path}/gone.png can't be read: No such file or directory",
        "jaxgen: 3 of 10 files can't be predicted",
    ]
    written = rows(digits_run / "predictions.csv")
    names = {str(tmp_path / name) for name in [*good[:-1], "deep.png"]} | {rf"{tmp_path}/\xff.png"}
    assert {row["file"] for row in written} == names
    assert len({row["3"] for row in written}) == 1, "it is one picture under seven names"
    assert (digits_run / "predictions.png").exists()


def test_nothing_is_written_where_nothing_is_predicted(digits_run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    code, _, errors = command(
        "predict", digits_run, tmp_path / "empty", "--output", tmp_path / "p.csv", capsys=capsys
    )
    assert code == 1
    assert errors.splitlines() == [
        f"jaxgen: {tmp_path}/empty holds no pictures",
        "jaxgen: 1 of 1 files can't be predicted",
    ]
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}"], "give the pictures to predict"),
        (["{run}", "a.png", "--output", "p.txt"], "the predictions are a CSV: --output p.csv"),
        (["no/run", "a.png"], "no/run is no run directory"),
    ],
)
def test_wrong_requests(arguments, told, digits_run, capsys):
    code, _, errors = command("predict", *(a.format(run=digits_run) for a in arguments), capsys=capsys)
    assert code == 2 and told in errors and len(errors.splitlines()) == 1


def test_run_of_no_image_classifier(data_dir, tmp_path):
    workdir = train(DIABETES, tmp_path / "run", data="diabetes", data_dir=data_dir, steps=2)
    with pytest.raises(UsageError, match="was trained on features and target: only image classifiers"):
        list(predict(SavedRun(workdir), [tmp_path / "a.png"]))


def test_folder_becomes_a_classifier(photos, photos_run, capsys):
    config = json.loads((photos_run / "config.json").read_text())
    assert config["data"]["name"] == str(photos)
    assert config["data"]["splits"] == {"train": "train", "validation": "validation"}
    assert config["task"]["class_names"] == ["$one$", "-zero", r"two\n2"]
    result = json.loads((photos_run / "result.json").read_text())
    assert result["validation/accuracy"] > 0.9 and not any(name.startswith("test/") for name in result)
    code, printed, _ = command("evaluate", photos_run, capsys=capsys)
    assert code == 0 and f"validation/accuracy {100 * result['validation/accuracy']:.2f} %" in printed
    code, printed, _ = command("plot", photos_run, capsys=capsys)
    assert code == 0 and "confusion_matrix.png" in printed


def test_prediction_needs_neither_data_nor_experiments(photos, photos_run, digits, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(photos_run, moved)
    config = json.loads((moved / "config.json").read_text())
    config["data"]["name"] = str(tmp_path / "gone")
    (moved / "config.json").write_text(json.dumps(config))
    code = "import sys; sys.modules['experiments'] = None; from jaxgen.cli import main; main(sys.argv[1:])"
    files = sorted((photos / "-zero").iterdir())[:5]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", moved, *files],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "inverted" not in done.stdout, "the run was trained on dark on light"
    written = rows(moved / "predictions.csv")
    assert [row["prediction"] for row in written] == ["-zero"] * 5
    assert list(written[0])[3:] == ["$one$", "-zero", r"two\n2"]


def test_changed_folder_is_told(photos, photos_run, tmp_path, capsys):
    for name in ("photos", "run"):
        shutil.copytree({"photos": photos, "run": photos_run}[name], tmp_path / name)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["data"]["name"] = str(tmp_path / "photos")
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert "has changed" not in command("evaluate", tmp_path / "run", capsys=capsys)[1]
    Image.new("L", (28, 28), 7).save(tmp_path / "photos" / "$one$" / "new.png")
    code, printed, _ = command("evaluate", tmp_path / "run", capsys=capsys)
    assert code == 0 and printed.startswith(f"{tmp_path}/photos has changed since the run began (from ")
    with pytest.raises(UsageError, match=r"the data of the run .* has changed since it began \(data\.num"):
        train(FNN, tmp_path / "run", data=str(tmp_path / "photos"), epochs=20, batch_size=16)
    (tmp_path / "photos" / "three").mkdir()
    Image.new("L", (28, 28), 9).save(tmp_path / "photos" / "three" / "new.png")
    code, _, errors = command("evaluate", tmp_path / "run", capsys=capsys)
    assert code == 1 and "has other classes than the run was trained on: three" in errors


def test_size_and_channels_of_the_options_reach_the_model(photos, tmp_path, capsys):
    Image.new("RGB", (90, 50), "red").save(tmp_path / "red.png")
    options = {"image_size": (20, 24), "image_channels": 3, "steps": 3, "batch_size": 8, "channels": (4, 4)}
    workdir = train(CNN, tmp_path / "run", data=f"{photos}/", **options)
    saved = SavedRun(workdir)
    assert saved.example["image"].shape == (1, 20, 24, 3)
    assert saved.source("validation").shape == (20, 24, 3)
    (prediction,) = predict(saved, [tmp_path / "red.png"])
    assert prediction.image.shape == (20, 24, 3) and (prediction.image == (255, 0, 0)).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"validation_fraction": 0.2}, "--validation-fraction is for prepared sets"),
        ({"train_split": "train[:50%]"}, "has no split 'train[:50%]'; it has train ("),
        ({"test_split": "tests"}, "has no split 'tests'"),
        ({"image_size": (0, 3)}, "give a height and a width from 1"),
        ({"batch_size": 1000}, "smaller batch size"),
    ],
)
def test_options_that_a_folder_does_not_have(options, told, photos, tmp_path):
    with pytest.raises(UsageError) as raised:
        train(FNN, tmp_path / "run", data=f"{photos}/", **options)
    assert told in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_bad_picture_stops_a_run_before_it_begins(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for number in range(20):
        (tmp_path / "photos" / "$one$" / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([number]))
    with pytest.raises(JaxgenError, match=r"0\.jpg is damaged or cut off.*and 17 more files"):
        train(FNN, tmp_path / "run", data=f"{tmp_path}/photos")
    assert not (tmp_path / "run").exists()


def test_run_that_recorded_no_strokes_looks_at_its_data(data_dir, digits, tmp_path):
    """Runs of earlier versions."""
    Image.fromarray(255 - digits["image"][0, ..., 0]).save(tmp_path / "a.png")
    (prediction,) = predict(SavedRun(ROOT / "tests" / "golden" / "run_v1", data_dir), [tmp_path / "a.png"])
    assert prediction.inverted and prediction.probabilities.argmax() == digits["label"][0]


def test_long_lists_are_cut_on_the_terminal_alone():
    shares = np.array([0.7, 0.05, 0.25], np.float32)
    image = np.zeros((2, 2, 1), np.uint8)
    many = [Prediction(Path(f"{index}[b].png"), image, True, shares) for index in range(130)]
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(table(many, ("a", "b", "c")))
    text = console.export_text()
    assert "99[b].png" in text and "100[b].png" not in text and "and 30 more" in text
    assert "70.0 %" in text and "c 25.0 %, b 5.0 %" in text
    assert len(rows_of_pictures(many, ("a", "b", "c"))) == 131
    assert inverted_line(many).endswith("0[b].png, 1[b].png, 2[b].png and 127 more")


@pytest.mark.shared_data
def test_mnist_digits_on_paper(shared_data, tmp_path):
    """Real digits, inverted, enlarged, off-centre, on greyish noisy paper, as JPEG and PNG."""
    tfds = shared_data / "tfds"
    workdir = train(FNN, tmp_path / "run", data="mnist", data_dir=tfds, test_split="test[:1000]", epochs=4)
    test = load("mnist", "test[:200]", data_dir=tfds).arrays()
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for index, image in enumerate(test["image"][..., 0]):
        scan = on_paper(image, rng, enlargement=rng.uniform(3, 15), shade=rng.uniform(0, 0.3))
        Image.fromarray(scan).save(tmp_path / "scans" / f"{index:03}.{'png' if index % 2 else 'jpg'}")
        Image.fromarray(image).save(tmp_path / f"{index:03}.png")
    originals = list(predict(SavedRun(workdir, tfds), sorted(tmp_path.glob("*.png"))))
    scans = list(predict(SavedRun(workdir, tfds), [tmp_path / "scans"]))
    assert all(p.inverted for p in scans) and not any(p.inverted for p in originals)

    def accuracy(found):
        return np.mean(
            [p.probabilities.argmax() == label for p, label in zip(found, test["label"], strict=True)]
        )

    assert accuracy(originals) > 0.95
    assert accuracy(scans) > accuracy(originals) - 0.03


def test_pictures_are_never_written_over(digits_run, digits, tmp_path, capsys):
    picture = tmp_path / "mine.png"
    Image.fromarray(digits["image"][0, ..., 0]).save(picture)
    before = picture.read_bytes()
    code, _, errors = command(
        "predict", digits_run, picture, "--output", tmp_path / "mine.csv", capsys=capsys
    )
    assert (code, errors.count("\n")) == (2, 1) and "mine.png would be written over" in errors
    assert picture.read_bytes() == before and not (tmp_path / "mine.csv").exists()
    code, _, errors = command(
        "predict", digits_run, tmp_path, "--output", tmp_path / "mine.csv", capsys=capsys
    )
    assert (code, errors.count("\n")) == (2, 1) and "mine.png would be written over" in errors
    code, _, errors = command(
        "predict", digits_run, tmp_path, "--output", tmp_path / "other.csv", capsys=capsys
    )
    assert (code, errors.count("\n")) == (2, 1) and "among the pictures of" in errors
    assert picture.read_bytes() == before and not (tmp_path / "mine.csv").exists()
