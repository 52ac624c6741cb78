"""N steps equal k steps, a kill, a resume in a new process, then N - k steps: bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("resume_runs.py")
RUNS = [
    f"{problem}-{feed}" for problem in ("plain", "memory", "game", "text") for feed in ("resident", "host")
]


def start(directory, *arguments):
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(SCRIPT.parents[2])}
    return subprocess.run(
        [sys.executable, SCRIPT, directory, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    whole, parts = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("parts")
    done = start(whole, 17)
    assert done.returncode == 0, done.stderr
    # The first problem is killed after its tenth step, in the middle of an interval between checkpoints.
    assert start(parts, 10, 9).returncode == -signal.SIGKILL
    done = start(parts, 10)
    assert done.returncode == 0, done.stderr
    done = start(parts, 17)
    assert done.returncode == 0, done.stderr
    return whole, parts


@pytest.mark.parametrize("run", RUNS)
def test_resumed_state_is_equal_bit_for_bit(directories, run):
    whole, parts = (dict(np.load(directory / run / "state.npz")) for directory in directories)
    assert whole.keys() == parts.keys()
    assert int(whole[".step"]) == 17
    for name, value in whole.items():
        assert value.tobytes() == parts[name].tobytes(), name


@pytest.mark.parametrize("run", RUNS)
def test_resumed_run_wrote_each_report_once(directories, run):
    def reports(directory):
        lines = [json.loads(line) for line in (directory / run / "metrics.jsonl").read_text().splitlines()]
        return {
            line["step"]: {k: v for k, v in line.items() if "per_second" not in k} for line in lines
        }, len(lines)

    whole, parts = (reports(directory) for directory in directories)
    assert whole[1] == len(whole[0])
    assert {step: parts[0][step] for step in (5, 15, 17)} == {step: whole[0][step] for step in (5, 15, 17)}
    assert parts[1] == len(parts[0])


def test_both_feeds_end_in_the_same_state(directories):
    states = [(directories[0] / run / "state.npz").read_bytes() for run in RUNS]
    assert states[::2] == states[1::2]
    assert len(set(states)) == 4
