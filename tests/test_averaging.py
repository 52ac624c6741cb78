"""The mean of a run's last checkpoints: what is in it, and where there can be none."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.averaging import average_checkpoints
from jaxgen.config import describe
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.files import write_json
from jaxgen.lora import LowRank
from jaxgen.run_directory import RunDirectory
from jaxgen.train.checkpoint import Checkpoints

STEPS = (10, 20, 30, 40)
RECORD = {"experiment": "made", "steps": 40, "device_count": 1, "data_dir": None}


def state(step):
    random = np.random.default_rng(step)
    return {
        "params": {
            "dense": {"kernel": random.normal(size=(3, 2)).astype(np.float32)},
            "half": jnp.array(random.normal(size=4), jnp.bfloat16),
        },
        "ema_params": {"dense": {"kernel": random.normal(size=(3, 2)).astype(np.float32)}},
        "model_state": {
            "batch_stats": {"mean": random.normal(size=2).astype(np.float32), "count": np.int32(step)}
        },
        "opt_state": {"moment": np.ones(3, np.float32)},
        "rng": jax.random.key(step),
    }


def make_run(path, states, **config):
    with Checkpoints(path / "checkpoints", keep=len(states)) as checkpoints:
        for step, values in states.items():
            checkpoints.save(step, values, {})
    write_json(path / "config.json", {"format_version": 1, **RECORD, **config})
    (path / "tokenizer.json").write_text("as it was")
    return path


def read(path, target):
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.asarray(leaf).dtype), target)
    with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
        (step,) = checkpoints.steps()
        return checkpoints.restore({"step": jax.ShapeDtypeStruct((), jnp.int32), **shapes})[0], step


def content(path):
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("averaging") / "run", {step: state(step) for step in STEPS})


def test_it_is_the_mean_of_the_last_ones_in_a_directory_of_its_own(made):
    before = content(made)
    written = average_checkpoints(made, last=3)
    assert written.path == made.with_name("run-average") and content(made) == before
    last = [state(step) for step in STEPS[1:]]
    wanted = {name: last[-1][name] for name in ("params", "ema_params", "model_state")}
    found, step = read(written.path, wanted)
    assert step == int(found.pop("step")) == 40

    def check(found, *values):
        if jnp.issubdtype(found.dtype, jnp.integer):
            assert found == values[-1]
            return
        mean = np.mean([np.asarray(value).astype(np.float64) for value in values], axis=0)
        np.testing.assert_array_equal(found, mean.astype(found.dtype))

    jax.tree.map(check, found, *({name: one[name] for name in wanted} for one in last))
    config = json.loads(written.config_path.read_text())
    assert config["averaged"] == {"run": str(made), "steps": [20, 30, 40]}
    assert config["experiment"] == "made" and config["steps"] == 40
    assert written.tokenizer_path.read_text() == "as it was"


def test_sums_are_exact_where_those_of_the_parameters_own_type_are_not(tmp_path):
    values = (2.0**24, 1.0, 1.0)
    run = make_run(
        tmp_path / "run", {n: {"params": {"w": np.float32(value)}} for n, value in enumerate(values)}
    )
    found, _ = read(average_checkpoints(run, 3, tmp_path / "mean").path, {"params": {"w": np.float32(0)}})
    assert found["params"]["w"] == (2**24 + 2) / 3


def test_low_rank_changes_are_added_before_the_mean_is_taken(tmp_path):
    low_rank, random = LowRank(rank=1, alpha=2.0, kernels=("query",)), np.random.default_rng(0)
    states, kernels = {}, []
    for step in (1, 2):
        kernel, a, b = (random.normal(size=size).astype(np.float32) for size in ((3, 3), (3, 1), (1, 3)))
        changes = {"query": {"a": a, "b": b}}
        states[step] = {"params": {"base": {"query": {"kernel": kernel}}, "low_rank": changes}}
        kernels.append(kernel + 2.0 * a @ b)
    run = make_run(tmp_path / "run", states, fine_tuning={"run": "r", "low_rank": describe(low_rank)})
    written = average_checkpoints(run, 2)
    found, _ = read(written.path, {"params": {"query": {"kernel": kernels[0]}}})
    np.testing.assert_allclose(found["params"]["query"]["kernel"], np.mean(kernels, axis=0), rtol=1e-6)
    assert written.config()["fine_tuning"] == {"run": "r", "low_rank": None}


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (1, "a mean is of 2 checkpoints or more"),
        (0, "a mean is of 2 checkpoints or more"),
        (5, "run has 4, of steps 10, 20, 30, 40: give --last 4, or train with --keep 5"),
    ],
)
def test_numbers_of_checkpoints_that_cannot_be(made, last, message):
    with pytest.raises(UsageError, match=message):
        average_checkpoints(made, last, made.with_name("never"))
    assert not made.with_name("never").exists()


def test_a_run_with_one_checkpoint_is_told_to_keep_more(tmp_path):
    run = make_run(tmp_path / "run", {7: {"params": {"w": np.float32(1)}}})
    with pytest.raises(UsageError, match="run has 1, of steps 7: train with --keep 5"):
        average_checkpoints(run)


def test_what_is_there_is_not_written_over(made, tmp_path):
    (tmp_path / "there").write_text("")
    with pytest.raises(UsageError, match="there is there already"):
        average_checkpoints(made, 2, tmp_path / "there")
    run = make_run(tmp_path / "run", {7: {"params": {"w": np.float32(1)}}})
    (tmp_path / "run-average").mkdir()
    with pytest.raises(UsageError, match="run-average is there already; name a new directory by --output"):
        average_checkpoints(run)
    with pytest.raises(UsageError, match="is no run directory"):
        average_checkpoints(tmp_path / "none")


def test_a_damaged_checkpoint_is_named_and_nothing_is_left(tmp_path):
    run = make_run(tmp_path / "run", {step: {"params": {"w": np.ones(9, np.float32)}} for step in (1, 2, 3)})
    damaged = next(file for file in (run / "checkpoints" / "2" / "state").rglob("*") if file.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(JaxgenError, match=r"checkpoint of step 2 .* is damaged"):
        average_checkpoints(run, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_mean_is_not_trained_on(made, tmp_path):
    written = average_checkpoints(made, 2, tmp_path / "mean")
    with pytest.raises(UsageError, match=r"another configuration .*averaged"):
        RunDirectory(written.path).begin(RECORD, 40)
