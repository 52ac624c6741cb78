"""Clean environments: every Python that is there, and the lower bounds. `pytest -m install`; needs a package index."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
pytestmark = pytest.mark.install


def find_python(version):
    """Finds an interpreter of a version, on the path or among pyenv's."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    return next((str(path) for path in sorted(root.glob(f"versions/{version}.*/bin/python{version}"))), None)


def lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    bounds = [re.match(r"([\w-]+)>=([\w.]+)", line).groups() for line in project["dependencies"]]
    return [f"{name}=={version}" for name, version in bounds]


def install_and_smoke(python, directory, *requirements):
    """Installs a copy of the checkout, runs an experiment through, and gives the installed versions."""
    source = directory / "jaxgen"
    ignored = shutil.ignore_patterns(".git", "runs", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignored)
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    subprocess.run([python, "-m", "venv", directory / "venv"], check=True, env=environment)
    bin_ = directory / "venv" / "bin"

    def run(*command):
        done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    run(bin_ / "pip", "install", "-e", ".", *requirements)
    data = ["--data-dir", directory / "data"]
    output = run(
        bin_ / "python", "-m", "experiments.mnist_fnn", "--smoke", "--workdir", directory / "run", *data
    )
    assert "test/accuracy" in output.splitlines()[-1]
    run(bin_ / "jaxgen", "evaluate", directory / "run", *data)
    return run(bin_ / "pip", "list")


@pytest.mark.parametrize("version", PYTHONS)
def test_installs_and_runs_on_each_python(version, tmp_path):
    python = find_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    install_and_smoke(python, tmp_path)


def test_lower_bounds_install_and_run(tmp_path):
    python = find_python("3.11")
    if python is None:
        pytest.skip("the lower bounds are those of Python 3.11, which isn't on this machine")
    listed = install_and_smoke(python, tmp_path, *lower_bounds())
    assert re.search(r"^jax +0\.9\.0", listed, re.MULTILINE)
