"""The package as its users meet it: imports, the README's lines, the command line as a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import translate, words_lstm
from jaxgen.run import run

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT), "COLUMNS": "120"}

# As where TensorFlow and PyTorch aren't installed: they aren't found, however they are looked for.
BLOCK = """
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name in ("tensorflow", "torch") else find(name, path, target)
PathFinder.find_spec = find_spec
"""


def python(code, *arguments, cwd=ROOT):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd)


def module(name, *arguments, cwd=ROOT):
    command = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, cwd=cwd)


def on_digits(data_dir, workdir, *more):
    """The command that trains the feed-forward net on digits."""
    arguments = ["--data", "digits", "--data-dir", data_dir, "--workdir", workdir, *more]
    return [sys.executable, "-m", "experiments.mnist_fnn", *map(str, arguments)]


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
    """A smoke run that another process has made, with TensorFlow and PyTorch out of reach."""
    workdir = tmp_path_factory.mktemp("package") / "run"
    code = BLOCK + "import runpy; runpy.run_module('experiments.mnist_fnn', run_name='__main__')"
    done = python(code, "--smoke", "--data-dir", data_dir, "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return workdir


def test_smoke_run_needs_neither_tensorflow_nor_torch(workdir):
    assert json.loads((workdir / "result.json").read_text())["steps"] == 20


def test_saved_run_needs_no_experiments(workdir, data_dir, tmp_path):
    """`jaxgen evaluate` and `plot` work where there is no `experiments` package."""
    code = "import sys; sys.modules['experiments'] = None; from jaxgen.cli import main; main(sys.argv[1:])"
    done = python(code, "evaluate", workdir, "--data-dir", data_dir, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    accuracy = json.loads((workdir / "result.json").read_text())["test/accuracy"]
    assert f"test/accuracy {100 * accuracy:.2f} %" in done.stdout
    (workdir / "plots" / "curves.png").unlink()
    done = python(code, "plot", workdir, "--data-dir", data_dir, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (workdir / "plots" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_list_names_every_experiment():
    done = module("jaxgen", "list")
    assert done.returncode == 0, done.stderr
    for path in (ROOT / "experiments").glob("[a-z]*.py"):
        assert path.stem in done.stdout
    for preset in ("fast", "best"):
        assert f"--preset {preset}" in done.stdout


def test_compare_prints_a_table_and_draws(workdir, tmp_path):
    other = shutil.copytree(workdir, tmp_path / "other")
    done = module("jaxgen", "compare", workdir, other, "--output", tmp_path / "both.png")
    assert done.returncode == 0, done.stderr
    assert "test/accuracy" in done.stdout
    assert (tmp_path / "both.png").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["jaxgen", "evaluate", "no/such/run"], 2, "no/such/run is no run directory"),
        (["jaxgen", "compare", "a"], 2, "give two runs or more"),
        (["jaxgen", "evalaute", "a"], 2, "unknown command 'evalaute'; did you mean evaluate or translate?"),
        (["experiments.mnist_fnn", "--optimiser", "sgd"], 2, "--optimizer"),
        (["experiments.mnist_fnn", "--batch-size", "many"], 2, "--batch-size"),
        (["experiments.mnist_fnn", "--loss", "l1"], 2, "cross_entropy"),
        (["experiments.mnist_fnn", "--preset", "bets"], 2, "did you mean best?"),
        (["experiments.mnist_fnn", "--augmentation.rotation", "200"], 2, "between 0 and 180 degrees"),
        (["experiments.mnist_fnn", "--augmentation.rotate", "2"], 2, "--augmentation.rotation"),
        (
            ["experiments.mnist_fnn", "--data", "digits", "--batch-size", "0", "--workdir", "{tmp}"],
            2,
            "at least 1",
        ),
    ],
)
def test_errors_have_exit_codes_and_no_traceback(arguments, code, message, tmp_path, data_dir):
    name, *rest = [argument.format(tmp=tmp_path / "run") for argument in arguments]
    if name != "jaxgen":
        rest += ["--data-dir", str(data_dir)]
    done = module(name, *rest)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback():
    done = module("jaxgen", "evaluate", "no/such/run", "--debug")
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(number, data_dir, tmp_path):
    command = on_digits(data_dir, tmp_path / "run", "--epochs", "100000")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    for line in process.stdout:
        if line.startswith("epoch"):
            process.send_signal(number)
            break
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    saved, resume = re.search(r"saved at step (\d+); go on with: (.*)", output).groups()
    assert (tmp_path / "run" / "checkpoints" / saved).is_dir()
    assert not (tmp_path / "run" / "result.json").exists()
    assert resume == " ".join(["python", *command[1:]])


def test_full_disk_is_one_line(workdir, data_dir, tmp_path):
    """The writes of a failed save fail one by one, in other threads: none of them speaks, whoever is first."""

    for attempt in range(2):
        command = on_digits(data_dir, tmp_path / str(attempt), "--steps", "30")
        limited = ["bash", "-c", 'ulimit -f 300; exec "$@"', "bash", *command]
        done = subprocess.run(limited, capture_output=True, text=True, env=ENVIRONMENT)
        assert done.returncode == 1
        assert re.fullmatch(
            r"jaxgen: could not save checkpoint of step \d+ in .*: File too large; .*starts again\n",
            done.stderr,
        )


def test_closed_pipe_does_not_stop_a_run(data_dir, tmp_path):
    command = on_digits(data_dir, tmp_path / "run", "--epochs", "3")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=120) == 0, process.stderr.read()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 69


def test_import_is_quick():
    """`import jaxgen` takes under 1 s beyond `import jax`; the least of three, since machines are noisy."""
    code = "import time, jax; start = time.perf_counter(); import jaxgen; print(time.perf_counter() - start)"
    assert min(float(python(code).stdout) for _ in range(3)) < 1.0


def test_import_touches_no_device_and_loads_nothing_heavy():
    code = (
        "import sys, jaxgen, jaxgen.train, jaxgen.data, jaxgen.parallel, jaxgen.cli\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge._backends, 'a backend was started'\n"
        "heavy = {'tensorflow_datasets', 'grain', 'orbax', 'sklearn', 'matplotlib', 'tensorboardX'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_public_names_exist():
    import jaxgen
    import jaxgen.data
    import jaxgen.generate
    import jaxgen.parallel
    import jaxgen.train

    for package in (jaxgen, jaxgen.train, jaxgen.data, jaxgen.generate, jaxgen.parallel):
        for name in package.__all__:
            assert getattr(package, name) is not None


@pytest.fixture
def run_blocks(data_dir, tmp_path, monkeypatch):
    """Runs the Python of a page as it stands, block by block in one namespace, where it may leave runs."""

    def run(page):
        names = {"__name__": "__main__"}
        for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
            exec(block, names)
        return names

    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    monkeypatch.chdir(tmp_path)
    return run


def test_readme_lines_run(run_blocks):
    """Its step learns, and its saved run predicts what it was evaluated to."""
    names = run_blocks("README.md")
    assert int(names["state"].step) == 230
    assert float(names["metrics"]["accuracy"].compute()) > 0.9
    accuracy = names["result"].figures["test/accuracy"]
    assert accuracy > 0.9
    labels = names["jaxgen"].load("digits", "test").arrays()["label"]
    predicted = names["saved"].predict({"image": names["images"]})["prediction"]
    assert np.mean(predicted == labels) == pytest.approx(accuracy)


@pytest.mark.usefixtures("compiled_quickly")
def test_library_page_runs(run_blocks, capsys):
    names = run_blocks("docs/library.md")
    told = capsys.readouterr().out
    assert names["result"].figures["steps"] == 138 and "resumed at step 115" in told
    assert "larger than the training set" in told
    assert list(names["keep"].kept) == [23, 46, 69, 92, 115]
    assert names["result"].figures["test/accuracy"] > 0.75
    assert names["codes"].shape == (3, 8)
    assert names["predicted"]["probabilities"].shape == (3, 10)
    assert Path("runs/perceptron/plots/confusion_matrix.png").exists()


@pytest.mark.usefixtures("compiled_quickly")
def test_page_on_texts_runs(run_blocks, data_dir, capsys):
    Path("book.txt").write_text("It was the best of times, it was the worst of times.\n" * 200)
    experiment = words_lstm.EXPERIMENT
    small = {"data": "book.txt", "sequence_length": 8, "hidden_size": 8, "steps": 3, "data_dir": data_dir}
    run(experiment, experiment.options(**small, workdir=Path("runs/book")))
    Path("pairs.tsv").write_text("".join(f"{n} men\t{n} MEN\n" for n in range(40)))
    small = {"data": "pairs.tsv", "hidden_size": 8, "embedding_size": 8, "steps": 2, "data_dir": data_dir}
    run(translate.EXPERIMENT, translate.EXPERIMENT.options(**small, workdir=Path("runs/t")))
    names = run_blocks("docs/own-text.md")
    assert len(names["texts"]) == 3 and len(names["tokens"]) == len(names["log_probs"]) == 6


@pytest.mark.usefixtures("compiled_quickly")
def test_page_on_fine_tuning_runs(run_blocks):
    """What is frozen stays, and so does what LoRA adapts."""
    names = run_blocks("docs/fine-tuning.md")
    merged, params = names["merged"], names["params"]
    for path in ("token_embedding", "embedding_norm"):
        for before, after in zip(params[path].values(), merged[path].values(), strict=True):
            np.testing.assert_array_equal(before, after)
    assert names["result"].figures["steps"] == 8


def test_readme_commands_are_those_that_are_tested():
    """The two first commands are what CI and the install tests run."""
    readme = (ROOT / "README.md").read_text()
    assert "pip install -e . && python -m experiments.mnist_fnn --data digits" in readme
    assert 'pip install -e ".[dev]" && pytest' in readme
    assert '-e ".[dev]"' in (ROOT / ".ci" / "run").read_text()


def test_no_machine_or_index_is_named():
    """What is committed speaks of the project alone."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(work|root|home/[a-z]+)/|--(extra-)?index-url")
    for name in listed.stdout.split():
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", ".json")
            and path != Path(__file__)
            and path.exists()
        ):
            assert not pattern.search(path.read_text()), name


def test_time_is_kept_short():
    """`--help` answers quickly: it starts no backend and reads no data."""
    start = time.perf_counter()
    done = module("experiments.mnist_fnn", "--help")
    assert done.returncode == 0
    assert "--until-converged" in done.stdout
    assert time.perf_counter() - start < 15
