import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import two_processes

from jaxgen.errors import JaxgenError
from jaxgen.parallel import initialize

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def environment(monkeypatch):
    """Sets the variables that are given, and no others of their kind."""
    for name in os.environ:
        if name.startswith(("SLURM_", "JAX_COORDINATOR", "JAX_NUM_PROC", "JAX_PROCESS_ID", "TPU_WORKER")):
            monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"JAX_NUM_PROCESSES": "1", "JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_PROCESS_ID": "0"},
        {**SLURM, "SLURM_NTASKS": "1"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"},  # an allocation, without a step of several tasks
        {"TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_a_process_alone_needs_nothing(environment, variables):
    environment(**variables)
    assert initialize() == "one process"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"JAX_NUM_PROCESSES": "2"},
            "found JAX_NUM_PROCESSES=2, but not JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID; set",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
            "JAX_COORDINATOR_ADDRESS is 'node1'; it must be HOST:PORT of process 0",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1:99", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "JAX_NUM_PROCESSES is 'two'; it must be a whole number",
        ),
        (
            {"JAX_COORDINATOR_ADDRESS": "node1:99", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID is 2; with JAX_NUM_PROCESSES=2 it must be 0 to 1",
        ),
        (SLURM, "a device was touched before the processes had joined; call initialize() first of all"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(environment, variables, message):
    environment(**variables)
    jax.devices()
    with pytest.raises(JaxgenError) as error:
        initialize()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def _start(code, *arguments, cwd=None, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "TPU_"))}
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, *code, *map(str, arguments)],
        env={**kept, **flags, "PYTHONPATH": root, **variables},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _join(number):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [
        {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(number), "JAX_PROCESS_ID": str(index)}
        for index in range(number)
    ]


def test_two_processes_train_as_one(tmp_path):
    script = [two_processes.__file__]
    started = [_start(script, tmp_path / f"{i}.npy", **variables) for i, variables in enumerate(_join(2))]
    ended = [process.communicate(timeout=120) for process in started]
    for index, (process, (out, err)) in enumerate(zip(started, ended, strict=True)):
        assert process.returncode == 0, err
        found, again, place, devices = out.splitlines()[-1].split(" | ")  # Gloo talks too
        assert f"JAX_PROCESS_ID={index}" in found and again == f"{found}, joined before"
        assert (place, devices) == (f"{index}/2", "4")
        # Sums of eight float32 terms in another order.
        np.testing.assert_allclose(np.load(tmp_path / f"{index}.npy"), two_processes.train(), rtol=1e-6)


def test_processes_that_do_not_come_are_missed_in_time():
    """JAX itself would kill the process in its C++ part; here it ends with a line of Python's."""
    code = "from jaxgen.parallel import initialize; initialize(timeout_seconds=1)"
    start = time.monotonic()
    processes = [_start(["-c", code], **variables) for variables in (_join(2)[0], _join(2)[1])]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        (line,) = [line for line in err.splitlines() if line.startswith("jaxgen.errors.JaxgenError")]
        assert (
            "not all of them were there within 1 s" in line and "JAX_COORDINATOR_ADDRESS=localhost:" in line
        )
    assert time.monotonic() - start < 60


def _experiment(cwd, *arguments):
    command = ["-m", "experiments.mnist_fnn", "--data", "digits", *map(str, arguments)]
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles in half the time
    return [_start(command, cwd=cwd, **quick, **variables) for variables in _join(2)]


def test_experiment_in_two_processes_leaves_one_run(data_dir, tmp_path):
    """With no --workdir: the first process names the directory, and alone writes and draws in it."""
    started = _experiment(tmp_path, "--steps", 30, "--data-dir", data_dir)
    ended = [process.communicate(timeout=180) for process in started]
    for process, (_, err) in zip(started, ended, strict=True):
        assert process.returncode == 0, err
    (run,) = (tmp_path / "runs" / "mnist_fnn").iterdir()
    result = json.loads((run / "result.json").read_text())
    assert (result["steps"], result["device"]) == (30, "4 x cpu")
    assert len(list((run / "plots").glob("*.png"))) == 4
    assert f"run directory: {run.relative_to(tmp_path)}" in ended[0][0]
    assert "run directory" not in ended[1][0], "one process speaks"
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines == sorted(lines) and lines[-1] == 30


def test_sigterm_to_one_of_two_processes_stops_both_after_the_same_step(data_dir, tmp_path):
    arguments = ("--epochs", 100000, "--workdir", tmp_path / "run", "--data-dir", data_dir)
    started = _experiment(tmp_path, *arguments)
    for line in started[0].stdout:
        if line.startswith("epoch"):
            started[1].send_signal(signal.SIGTERM)
            break
    ended = [process.communicate(timeout=120) for process in started]
    stopped = [re.search(r"jaxgen: stopped by SIGTERM after step (\d+)", err) for _, err in ended]
    assert [process.returncode for process in started] == [143, 143], ended
    assert stopped[0][1] == stopped[1][1]
    assert (tmp_path / "run" / "checkpoints" / stopped[0][1] / "files.json").exists()
    assert f"saved at step {stopped[0][1]}; go on with: " in ended[0][0]
