"""Presets: other defaults of the options, by name."""

import dataclasses
import json

import pytest

from jaxgen.augment import Augmentation
from jaxgen.cli import experiments
from jaxgen.errors import UsageError
from jaxgen.experiment import DenseImageConfig, Experiment, command_line
from jaxgen.run import parse, run
from jaxgen.text_config import TextConfig

EXPERIMENTS = {experiment.name: experiment for experiment in experiments()}
PRESETS = [(experiment.name, preset) for experiment in EXPERIMENTS.values() for preset in experiment.presets]


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_every_preset_makes_a_run(name, preset, data_dir, tmp_path):
    """A short one, of little data: the nets and the batches are the preset's."""
    if issubclass(EXPERIMENTS[name].config, TextConfig):
        (tmp_path / "text.txt").write_text("It was the best of times, it was the worst of times.\n" * 400)
        data = {"data": str(tmp_path / "text.txt")}
    else:
        data = {"train_split": "train[:200]", "test_split": "test[:40]"}
    changes = {"preset": preset, "smoke": True, "steps": 3, "data_dir": data_dir, "workdir": tmp_path / "run"}
    run(EXPERIMENTS[name], EXPERIMENTS[name].options(**changes, **data))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 3


@pytest.mark.parametrize(("name", "preset"), PRESETS)
def test_a_preset_is_what_its_help_says(name, preset):
    """Spelt out on the command line it is the same configuration, on every data set."""
    experiment = EXPERIMENTS[name]
    spelt = parse(experiment, command_line(experiment.presets[preset]).split())
    for data in ("mnist", "fashion_mnist"):
        short = parse(experiment, ["--preset", preset, "--data", data])
        assert short == dataclasses.replace(spelt, preset=preset, data=data)


SMALL = Experiment(
    name="small",
    config=DenseImageConfig,
    task=lambda config, train: None,
    summary="a net",
    data="digits",
    time="",
    reference="",
    needs=(),
    recipes={"digits": {"epochs": 40, "dropout": 0.5}},
    presets={
        "quick": {"epochs": 1, "batch_norm": True},
        "best": {"widths": (9, 8), "augmentation": Augmentation(shift=2.0, cutout=3)},
    },
)


def test_options_on_the_command_line_override_a_preset():
    config = parse(SMALL, ["--preset", "best", "--augmentation.cutout", "0", "--epochs", "3"])
    assert config.augmentation == Augmentation(shift=2.0)
    assert (config.widths, config.epochs) == ((9, 8), 3)
    assert parse(SMALL, ["--epochs", "2", "--preset", "quick", "--no-batch-norm"]).batch_norm is False
    with pytest.raises(UsageError, match="augmentation: shift is -1"):
        parse(SMALL, ["--augmentation.shift", "-1"])


def test_a_preset_takes_the_place_of_the_data_sets_recipe():
    assert parse(SMALL, ["--data", "digits"]).dropout == 0.5
    config = parse(SMALL, ["--data", "digits", "--preset", "quick"])
    assert (config.epochs, config.dropout, config.data) == (1, 0.0, "digits")


def test_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="unknown preset 'qick'; did you mean quick"):
        parse(SMALL, ["--preset", "qick"])
    with pytest.raises(UsageError, match="small has no presets"):
        parse(dataclasses.replace(SMALL, presets={}), ["--preset", "best"])


def test_help_shows_what_a_preset_stands_for_and_its_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        parse(SMALL, ["--preset", "best", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert "--preset quick stands for --epochs 1 --batch-norm" in printed
    assert "--preset best stands for --widths 9 8 --augmentation.shift 2.0 --augmentation.cutout 3" in printed
    assert "(default: 9 8)" in printed


def test_resume_compares_the_options_and_not_the_presets_name(data_dir, tmp_path, capsys):
    experiment = EXPERIMENTS["mnist_cnn"]
    changes = {"data": "digits", "data_dir": data_dir, "workdir": tmp_path / "run", "warmup_steps": 1}
    run(experiment, experiment.options(preset="fast", steps=4, **changes))
    spelt = dataclasses.replace(experiment.options(preset="fast", steps=5, **changes), preset=None)
    run(experiment, spelt)
    assert "resumed at step 4" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"augmentation\.shift: 0\.0 -> 1\.0"):
        run(experiment, dataclasses.replace(spelt, augmentation=Augmentation(shift=1.0)))
