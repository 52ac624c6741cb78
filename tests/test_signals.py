"""Ctrl-C and SIGTERM, at the start, lost on the way, and between steps."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optax
import pytest

import jaxgen
from jaxgen import signals
from jaxgen.models import FeedForward
from jaxgen.tasks import Regression
from jaxgen.train.hooks import Hook

ROOT = Path(__file__).parents[1]
DATA = {"features": np.ones((16, 2), np.float32), "target": np.ones(16, np.float32)}


@pytest.fixture
def watch():
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    watch = signals.Watch()
    watch.install()
    yield watch
    for number, handler in handlers.items():
        signal.signal(number, handler)


def lose(number):
    """Sends a signal whose exception is swallowed, as in a callback of the garbage collector."""
    try:
        os.kill(os.getpid(), number)
        time.sleep(1)
    except KeyboardInterrupt:
        return
    raise AssertionError("the signal was not raised")


def fit(*hooks, **options):
    task = Regression(FeedForward(widths=(), num_classes=1))
    options = {"steps": 50, "batch_size": 16, "progress": False, "report_every": 1, **options}
    return jaxgen.fit(task, DATA, optax.sgd(0.1), hooks=hooks, **options)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_start_of_an_experiment_ends_with_one_line(number):
    code = (
        "import os, sys, time; sys.argv = ['-m']; import experiments\n"
        f"os.kill(os.getpid(), {int(number)}); time.sleep(5)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (128 + number, "jaxgen: interrupted\n")


def test_importing_experiments_leaves_signals_alone():
    handler = signal.getsignal(signal.SIGINT)
    sys.modules.pop("experiments", None)
    import experiments

    assert experiments and signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_lost_signal_is_raised_again(watch, number):
    signals.raise_if_caught()
    lose(number)
    with pytest.raises(KeyboardInterrupt):
        signals.raise_if_caught()


def test_lost_signal_stops_a_run_before_its_first_step(watch, tmp_path):
    lose(signal.SIGTERM)
    with pytest.raises(signals.Interrupted, match="stopped by SIGTERM after step 0"):
        fit(workdir=tmp_path / "run")
    watch.caught = None
    assert fit(workdir=tmp_path / "run").figures["steps"] == 50


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_between_steps_and_the_run_goes_on_later(watch, tmp_path, number):
    class Send(Hook):
        def on_progress(self, step):
            if step == 7:
                os.kill(os.getpid(), number)

    whole = fit()
    with pytest.raises(signals.Interrupted) as stopped:
        fit(Send(), workdir=tmp_path / "run")
    assert (stopped.value.step, stopped.value.signal_number) == (7, number)
    assert signal.getsignal(signal.SIGINT) is watch, "the handlers are as they were"
    rest = fit(workdir=tmp_path / "run")
    for name, value in whole.state.params["output"].items():
        assert np.asarray(value).tobytes() == np.asarray(rest.state.params["output"][name]).tobytes()


def test_second_signal_acts_at_once(watch):
    class SendTwice(Hook):
        def on_progress(self, step):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(SendTwice())
