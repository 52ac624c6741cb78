"""Experiments from options to run directory, and the saved run opened again."""

import dataclasses
import importlib
import json
import re

import numpy as np
import pytest

from jaxgen.augment import Augmentation
from jaxgen.cli import experiments
from jaxgen.compare import compare_runs
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.experiment import optimizer_config
from jaxgen.run import parse, run
from jaxgen.saved_run import SavedRun

EXPERIMENTS = {experiment.name: experiment for experiment in experiments()}


DATA = {
    "diabetes_fnn": "diabetes",
    "addition_lstm": "addition/2",
    "dates_attention": "dates",
    "summarise": "docstrings",
    "translate": "dates",
    "copy_recurrent": "copy/10/3",
    **dict.fromkeys(
        [
            "docstrings_t5",
            "pydocs_bert",
            "pydocs_gpt",
            "pydocs_lstm",
            "shakespeare_gpt",
            "shakespeare_lstm",
            "word_vectors",
            "words_lstm",
        ],
        "pydocs",
    ),
}


def options(name, data_dir, workdir, **changes):
    experiment = EXPERIMENTS[name]
    defaults = {**experiment.smoke, "data": DATA.get(name, "digits"), "steps": 20}
    return experiment, experiment.config(**{**defaults, "data_dir": data_dir, "workdir": workdir, **changes})


@pytest.fixture(scope="module")
def finished(data_dir, tmp_path_factory):
    """A run of `mnist_fnn` to its end, on digits."""
    workdir = tmp_path_factory.mktemp("runs") / "a"
    experiment, config = options("mnist_fnn", data_dir, workdir, steps=None, epochs=10)
    run(experiment, config)
    return workdir


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_smoke_run_leaves_everything(name, data_dir, tmp_path, capsys, compiled_quickly):
    experiment, config = options(name, data_dir, tmp_path / "run", smoke=True)
    run(experiment, config)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == printed[-2] == f"run directory: {tmp_path / 'run'}"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 20
    held_out = name != "word_vectors"
    unit = "tokens" if DATA.get(name) in ("dates", "docstrings", "pydocs") else "examples"
    expected = [f"train/{unit}_per_second", "seconds", "parameters", "device"]
    for figure in ["test/loss", *expected] if held_out else expected:
        assert figure in result
        assert figure in printed[-1]
    pictures = [*(tmp_path / "run" / "plots").glob("*.png"), *(tmp_path / "run" / "samples").glob("*.png")]
    assert len(pictures) >= 1 + held_out
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == sorted(steps)
    assert steps[-1] == 20


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_what_it_is(name):
    experiment = EXPERIMENTS[name]
    assert importlib.import_module(f"experiments.{name}").EXPERIMENT is experiment
    assert all((experiment.summary, experiment.data, experiment.time, experiment.reference))


def test_feed_forward_net_learns_digits(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["test/accuracy"] >= 0.95
    assert result["parameters"] == 784 * 128 + 128 + 128 * 10 + 10


def test_saved_run_gives_the_same_figures(finished, data_dir):
    result = json.loads((finished / "result.json").read_text())
    figures = SavedRun(finished, data_dir).evaluate()
    assert {name for name in result if name.startswith("test/")} == figures.keys()
    for name, value in figures.items():
        assert value == pytest.approx(result[name], abs=1e-6), name


def test_finished_run_is_left_alone(finished, data_dir, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    experiment, config = options("mnist_fnn", data_dir, finished, steps=None, epochs=10)
    run(experiment, config)
    assert "finished already, at step 230" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    changed = {path.name for path in after if after[path] != before.get(path)}
    assert not {name for name in changed if not name.startswith("events.out")}


def test_run_stopped_in_what_comes_afterwards_goes_on_by_the_same_command(finished, data_dir, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    experiment, config = options("mnist_fnn", data_dir, finished, steps=None, epochs=10)
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(experiment, then=interrupt), config)
    assert "go on with: python -m experiments.mnist_fnn" in capsys.readouterr().out


def test_run_stopped_while_it_draws_is_finished_by_the_same_command(data_dir, tmp_path, monkeypatch, capsys):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("jaxgen.run_plots.draw_plots", interrupt)
        run(*options("diabetes_fnn", data_dir, tmp_path / "run"))
    assert "go on with: python -m experiments." in capsys.readouterr().out
    assert not (tmp_path / "run" / "result.json").exists()
    run(*options("diabetes_fnn", data_dir, tmp_path / "run"))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert "ridge/r2" in result and result["steps"] == 20
    assert (tmp_path / "run" / "plots" / "predictions.png").exists()


def test_data_directory_is_remembered(finished, data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    assert len(SavedRun(finished).source("test")) == 360
    experiment, config = options("mnist_fnn", None, finished, steps=None, epochs=10)
    run(experiment, config)
    assert not (tmp_path / "empty").exists()


def test_trial_run_gives_way_to_what_is_asked_for():
    experiment = EXPERIMENTS["mnist_fnn"]
    config = parse(experiment, ["--smoke", "--steps", "7", "--data", "fashion_mnist"])
    assert (config.steps, config.report_every, config.data) == (7, 5, "fashion_mnist")
    assert parse(experiment, ["--smoke"]).data == "digits"
    assert parse(experiment, ["--data", "digits"]).epochs == 40
    assert parse(experiment, ["--data", "digits", "--epochs", "3"]).epochs == 3
    assert parse(experiment, []).epochs == 10


def test_help_shows_the_defaults_of_the_data_set(capsys):
    with pytest.raises(SystemExit):
        parse(EXPERIMENTS["mnist_fnn"], ["--data", "digits", "--help"])
    assert re.search(r"--epochs INT.*?default: 40", capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("fraction", [0.1, 0.125, 0.5])
def test_validation_takes_its_part_from_the_end(fraction, data_dir, tmp_path):
    run(*options("mnist_fnn", data_dir, tmp_path / "run", steps=2, validation_fraction=fraction))
    saved = SavedRun(tmp_path / "run", data_dir)
    sizes = {split: len(saved.source(split)) for split in ("train", "validation", "test")}
    assert sizes["train"] + sizes["validation"] == 1437 and sizes["test"] == 360
    assert sizes["validation"] == pytest.approx(1437 * fraction, abs=1)


def test_preset_on_a_small_set_warms_up_for_a_part_of_it(data_dir, tmp_path):
    experiment = EXPERIMENTS["mnist_cnn"]
    config = parse(experiment, ["--preset", "fast", "--data", "digits"])
    assert optimizer_config(config, 45).schedule.warmup_steps == 15
    assert optimizer_config(config, 1875).schedule.warmup_steps == config.warmup_steps == 400


@pytest.mark.parametrize("changes", [{"smoke": True, "steps": 2}, {"data": "reversal", "steps": 50}])
def test_no_warm_up_that_nobody_asked_for_is_refused(changes):
    experiment = EXPERIMENTS["translate"]
    config = experiment.options(**changes)
    usual = experiment.usual(config).warmup_steps
    assert optimizer_config(config, config.steps, usual).schedule.warmup_steps == config.steps // 3
    config = experiment.options(**changes, warmup_steps=51)
    with pytest.raises(UsageError, match=f"--warmup-steps 51 must be below the run's {config.steps} steps"):
        optimizer_config(config, config.steps, usual)


def test_other_run_in_the_directory_is_refused(finished, data_dir):
    with pytest.raises(UsageError, match="holds a run of mnist_fnn, not of mnist_cnn"):
        run(*options("mnist_cnn", data_dir, finished))
    changes = {"steps": None, "epochs": 10, "optimizer": "sgd", "batch_size": 32}
    with pytest.raises(UsageError, match=r"optimizer\.name: 'adam' -> 'sgd'.*training\.batch_size: 64 -> 32"):
        run(*options("mnist_fnn", data_dir, finished, **changes))
    with pytest.raises(UsageError, match="can be made longer, not cut to 20"):
        run(*options("mnist_fnn", data_dir, finished))


def test_run_on_resized_images_goes_on(data_dir, tmp_path, capsys):
    for size in ((12,), (12, 12)):
        run(*options("mnist_fnn", data_dir, tmp_path / "run", image_size=size, steps=2))
    assert "finished already" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["image_size"] == [12, 12]


@pytest.mark.parametrize("workdir", ["runs", "cat/runs", "."])
def test_run_directory_among_the_pictures_is_refused(workdir, data_dir, tmp_path):
    photos = tmp_path / "photos"
    for name in ("cat", "dog"):
        (photos / name).mkdir(parents=True)
    with pytest.raises(UsageError, match="would lie among the pictures of") as raised:
        run(*options("mnist_cnn", data_dir, photos / workdir, data=f"{photos}/"))
    assert "\n" not in str(raised.value)
    assert sorted(path.name for path in photos.rglob("*")) == ["cat", "dog"]


def test_longer_run_goes_on_with_its_schedule(data_dir, tmp_path, capsys):
    cosine = {"schedule": "cosine", "warmup_steps": 2}
    run(*options("mnist_fnn", data_dir, tmp_path / "run", steps=10, **cosine))
    run(*options("mnist_fnn", data_dir, tmp_path / "run", steps=15, **cosine))
    assert "resumed at step 10" in capsys.readouterr().out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["optimizer"]["schedule"]["horizon"] == 10
    assert config["steps"] == 15
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 15


def test_until_converged_stops_and_takes_the_best_state(data_dir, tmp_path):
    changes = {"steps": None, "epochs": 60, "until_converged": True, "patience": 2, "learning_rate": 1e-2}
    run(*options("mnist_fnn", data_dir, tmp_path / "run", **changes))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation/loss"] for line in lines if "validation/loss" in line}
    best = min(losses, key=losses.get)
    assert result["steps"] < 60 * 21
    assert sum(step > best for step in losses) == 2
    assert result["evaluated_step"] == best
    assert result["validation/loss"] == pytest.approx(losses[best], abs=1e-6)
    assert not any("test/loss" in line for line in lines), "the test split decides nothing"
    assert SavedRun(tmp_path / "run", data_dir).evaluate()["test/loss"] == pytest.approx(
        result["test/loss"], abs=1e-6
    )


@pytest.mark.parametrize("experiment", ["mnist_fnn", "mnist_cnn"])
def test_options_reach_the_model_and_the_loss(experiment, data_dir, tmp_path):
    changes = {
        "loss": "mse",
        "dropout": 0.1,
        "batch_norm": True,
        "ema_decay": 0.9,
        "clip_norm": 1.0,
        "steps": 2,
    }
    run(*options(experiment, data_dir, tmp_path / "run", **changes, widths=(7,)))
    saved = SavedRun(tmp_path / "run", data_dir)
    assert saved.task.objective == "mse"
    assert saved.task.model.widths == (7,)
    assert "batch_stats" in saved.state.model_state
    assert saved.state.ema_params is not None


def test_regression_stands_beside_ridge(data_dir, tmp_path):
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score

    run(*options("diabetes_fnn", data_dir, tmp_path / "run", steps=None))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    train, test = (SavedRun(tmp_path / "run", data_dir).source(split).arrays() for split in ("train", "test"))
    scale = train["features"].std(axis=0)
    ridge = Ridge(10.0).fit(train["features"] / scale, train["target"])
    assert result["ridge/r2"] == pytest.approx(
        r2_score(test["target"], ridge.predict(test["features"] / scale)), abs=0.03
    )
    assert result["test/r2"] > result["ridge/r2"] - 0.05


def test_compare_sets_runs_side_by_side(finished, data_dir, tmp_path):
    run(*options("mnist_fnn", data_dir, tmp_path / "b", steps=3))
    comparison = compare_runs([finished, tmp_path / "b"])
    a, b = (str(path.relative_to(tmp_path.parent)) for path in (finished, tmp_path / "b"))
    assert comparison.options == {a: {"steps": "230"}, b: {"steps": "3"}}
    assert comparison.figures[a]["steps"] == "230" and comparison.figures[b]["steps"] == "3"
    assert [axes.get_title() for axes in comparison.figure().axes][:2] == ["loss", "accuracy"]
    (tmp_path / "c").mkdir()
    with pytest.raises(JaxgenError, match="is no run directory"):
        compare_runs([finished, tmp_path / "c"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"batch_size": -8}, "batch size must be at least 1"),
        ({"batch_size": 4096}, "larger than the training set of 1437"),
        ({"steps": 0}, "at least 1"),
        ({"optimizer": "adamm"}, "unknown optimizer 'adamm'; did you mean adam"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean cosine"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be positive"),
        (
            {"image_size": (8, 8, 3)},
            "--image-size takes a height and a width, or one number for squares, not 3",
        ),
        ({"data": "digit"}, "unknown data set or folder 'digit'; did you mean digits"),
        ({"data": "diabetes"}, "needs data with image and label; diabetes has features and target"),
        ({"activation": "rellu"}, "unknown activation 'rellu'; did you mean relu"),
        ({"validation_fraction": 1.5}, "at least 0 and below 1, not 1.5"),
        ({"validation_fraction": 1e-4}, "leaves nothing on one side"),
        ({"validation_fraction": 0.1, "train_split": "train[:90%]"}, "is a part or a sum"),
        ({"validation_fraction": 0.1, "train_split": "train+test"}, "is a part or a sum"),
        ({"optimizer": "SGD"}, "did you mean sgd"),
        ({"patience": 0}, "at least 1"),
        ({"ema_decay": 1.5}, "ema_decay is 1.5; it must be"),
        ({"warmup_steps": 20}, "must be below the run's 20 steps"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"accumulate": 3}, "batch"),
    ],
)
def test_bad_options_are_one_line(changes, message, data_dir, tmp_path):
    with pytest.raises(JaxgenError, match=message) as caught:
        run(*options("mnist_fnn", data_dir, tmp_path / "run", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "a run that never began leaves nothing"


def test_directory_that_cannot_be_written_is_one_line(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxgenError, match=r"can't write the run directory .*; choose another with --workdir"):
        run(*options("mnist_fnn", data_dir, tmp_path / "file" / "run"))


def test_diverging_run_keeps_the_last_good_checkpoint(data_dir, tmp_path):
    changes = {"steps": 60, "checkpoint_every": 5, "optimizer": "sgd", "learning_rate": 1.0}
    experiment, config = options("mnist_fnn", data_dir, tmp_path / "run", **changes)
    with pytest.raises(JaxgenError, match=r"turned NaN or infinite at step \d+: ") as caught:
        run(experiment, dataclasses.replace(config, loss="mse", learning_rate=1e12))
    assert re.search(
        r"smaller --learning-rate.*(no checkpoint had been made|last good checkpoint)", str(caught.value)
    )


def test_damaged_checkpoint_falls_back(data_dir, tmp_path, capsys):
    run(*options("mnist_fnn", data_dir, tmp_path / "run", steps=10, checkpoint_every=5))
    (tmp_path / "run" / "checkpoints" / "10" / "meta" / "meta.json").write_text("{")
    run(*options("mnist_fnn", data_dir, tmp_path / "run", steps=12, checkpoint_every=5))
    printed = capsys.readouterr().out
    assert "damaged checkpoint of step 10" in printed
    assert "resumed at step 5" in printed
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    reported = [line["step"] for line in lines if "train/loss" in line]
    assert len(reported) == len(set(reported))
    assert np.isfinite([line["train/loss"] for line in lines if "train/loss" in line]).all()


def test_run_goes_on_that_was_made_before_the_options_were_there(data_dir, tmp_path, capsys):
    run(*options("mnist_cnn", data_dir, tmp_path / "run", steps=2))
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    del config["task"]["augmentation"], config["task"]["model"]["convolutions"]
    path.write_text(json.dumps(config))
    run(*options("mnist_cnn", data_dir, tmp_path / "run", steps=3))
    assert "resumed at step 2" in capsys.readouterr().out


def test_augmentation_reaches_the_task_and_its_description(data_dir, tmp_path):
    changes = {"augmentation": Augmentation(shift=1.0, mixup=0.2), "steps": 3}
    run(*options("mnist_fnn", data_dir, tmp_path / "run", **changes))
    assert SavedRun(tmp_path / "run", data_dir).task.augmentation == changes["augmentation"]
