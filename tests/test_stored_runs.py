"""Run directories that earlier versions wrote: `run_vN` by format N, loaded for ever after.

Each was written by `python -m experiments.mnist_fnn --data digits --widths 16 --steps 120 --learning-rate 0.01
--schedule cosine --ema-decay 0.9 --batch-norm --keep 1 --validation-fraction 0.1 --workdir run_vN`, and its
`tensorboard` and `plots` left out.
"""

import json
import shutil
from pathlib import Path

import pytest

from experiments.mnist_fnn import EXPERIMENT
from jaxgen.run import run
from jaxgen.run_directory import FORMAT_VERSION
from jaxgen.saved_run import SavedRun

STORED = sorted(Path(__file__).parent.joinpath("golden").glob("run_v*"))


def test_every_format_has_a_stored_run():
    assert [path.name for path in STORED] == [f"run_v{version}" for version in range(1, FORMAT_VERSION + 1)]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_stored_run_gives_its_figures(path, data_dir):
    result = json.loads((path / "result.json").read_text())
    for name, value in SavedRun(path, data_dir).evaluate().items():
        # Another version of XLA may add up in another order.
        assert value == pytest.approx(result[name], abs=1e-4), name


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.name)
def test_stored_run_goes_on(path, data_dir, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(path, workdir)
    config = EXPERIMENT.config(
        data="digits",
        data_dir=data_dir,
        workdir=workdir,
        widths=(16,),
        steps=125,
        learning_rate=0.01,
        schedule="cosine",
        ema_decay=0.9,
        batch_norm=True,
        validation_fraction=0.1,
    )
    run(EXPERIMENT, config)
    assert "resumed at step 120" in capsys.readouterr().out
    assert json.loads((workdir / "result.json").read_text())["steps"] == 125
