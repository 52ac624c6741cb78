"""What is saved comes back bit for bit, on any number of devices, and the right ones are kept."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxgen.errors import JaxgenError
from jaxgen.train import checkpoint
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.monitor import Monitor


@struct.dataclass
class State:
    step: jax.Array
    params: Any
    opt_state: Any
    carry: Any
    ema_params: Any
    rng: jax.Array


def make_state(seed: int = 0) -> State:
    rng = jax.random.key(seed)
    weights = jax.random.normal(rng, (8, 16))
    params = {
        "Dense_0": {"kernel": weights, "bias": jnp.array([jnp.nan, jnp.inf, -0.0, 1e-42])},
        "half": weights.astype(jnp.bfloat16),
        "list": [jnp.arange(3, dtype=jnp.uint8), jnp.array(True)],
        "empty": jnp.zeros((0, 4)),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3))
    return State(
        step=jnp.int32(7),
        params=params,
        opt_state=optimizer.init(params),
        carry=(),
        ema_params=None,
        rng=rng,
    )


def bits(tree: Any) -> list[bytes]:
    """Every leaf's dtype, shape and bytes."""

    def of(leaf: jax.Array) -> bytes:
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        return f"{leaf.dtype}{leaf.shape}".encode() + np.asarray(data).tobytes()

    return [of(leaf) for leaf in jax.tree.leaves(tree)]


def abstract(tree: Any, sharding: Sharding | None = None) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def mesh(devices: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("data",))


def never(line: str) -> None:
    pytest.fail(f"fell back: {line}")


def test_round_trip_is_exact_and_keeps_containers(tmp_path: Path) -> None:
    state = make_state()
    with Checkpoints(tmp_path / "new" / "checkpoints") as checkpoints:
        assert checkpoints.save(7, state, {"data": {"epoch": 1, "place": [3, None]}, "config": {}})
        checkpoints.wait()
        restored, extra, step = checkpoints.restore(abstract(state), on_fallback=never)
    assert step == 7
    assert extra == {"data": {"epoch": 1, "place": [3, None]}, "config": {}}
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert type(restored.opt_state[1][0]) is type(state.opt_state[1][0])
    assert bits(restored) == bits(state)
    # The restored key draws the same numbers, and the state can be donated.
    assert jax.random.uniform(restored.rng) == jax.random.uniform(state.rng)
    jax.block_until_ready(jax.jit(lambda s: s.replace(step=s.step + 1), donate_argnums=0)(restored))


@pytest.mark.parametrize("saved_on", [1, 8])
@pytest.mark.parametrize("restored_on", [1, 4])
def test_onto_another_number_of_devices(tmp_path: Path, saved_on: int, restored_on: int) -> None:
    rows, replicated = PartitionSpec("data"), PartitionSpec()
    keys = jax.random.split(jax.random.key(1), 8)
    state = {"carry": jnp.arange(64.0).reshape(8, 8), "keys": keys, "params": jnp.arange(3)}
    specs = {"carry": rows, "keys": rows, "params": replicated}
    placed = {
        name: jax.device_put(x, NamedSharding(mesh(saved_on), specs[name])) for name, x in state.items()
    }
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, placed, {})
    target = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh(restored_on), specs[name]))
        for name, x in state.items()
    }
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        restored, _, _ = checkpoints.restore(target, on_fallback=never)
    assert bits(restored) == bits(state)
    assert {name: x.sharding for name, x in restored.items()} == {n: t.sharding for n, t in target.items()}


@pytest.mark.parametrize(
    "spec", [None, PartitionSpec(), PartitionSpec("data")], ids=["one", "copies", "rows"]
)
def test_donating_the_state_right_after_save_does_no_harm(tmp_path: Path, spec: PartitionSpec | None) -> None:
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {str(i): jnp.zeros((512, 1024), jnp.float32) for i in range(8)}
    if spec is not None:
        state = jax.device_put(state, NamedSharding(mesh(8), spec))
    target, first = abstract(state), state
    state = step(state)
    assert first["0"].is_deleted()  # the step does donate
    with Checkpoints(tmp_path) as checkpoints:
        for number in range(1, 13, 4):
            checkpoints.save(number, state, {})
            for _ in range(4):
                state = step(state)
            jax.block_until_ready(state)
            checkpoints.wait()
            restored, _, _ = checkpoints.restore(target, number)
            assert all(np.all(np.asarray(leaf) == number) for leaf in restored.values())


def test_what_the_caller_changes_after_save_is_not_saved(tmp_path: Path) -> None:
    state, extra = {"table": np.zeros(1 << 20, np.float32)}, {"place": [1]}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, extra)
        state["table"][:] = 1
        extra["place"].append(2)
        checkpoints.wait()
        restored, read, _ = checkpoints.restore(abstract(state))
    assert not np.any(restored["table"])
    assert read == {"place": [1]}


def test_a_state_without_arrays(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(0, (None, ()), {"a": 1})
        checkpoints.wait()
        assert checkpoints.restore((None, ())) == ((None, ()), {"a": 1}, 0)


@pytest.mark.parametrize(("mode", "best"), [("min", 2), ("max", 1)])
def test_keeps_the_last_and_the_best(tmp_path: Path, mode: Any, best: int) -> None:
    losses = {0: float("nan"), 1: 3.0, 2: 1.0, 3: 1.0, 4: None, 5: 2.0, 6: 2.0}
    with Checkpoints(tmp_path, keep=2, monitor=Monitor("loss", mode == "max")) as checkpoints:
        for step, loss in losses.items():
            metrics = {"other": jnp.float32(step)} | ({} if loss is None else {"loss": np.float32(loss)})
            checkpoints.save(step, {"w": jnp.full(2, step)}, {"step": step}, metrics)
        checkpoints.wait()
        assert checkpoints.steps() == [best, 5, 6]
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (6, best)
        state, extra, step = checkpoints.restore({"w": jax.ShapeDtypeStruct((2,), jnp.int32)}, best)
        assert (extra, step, int(state["w"][0])) == ({"step": best}, best, best)
    with Checkpoints(tmp_path, keep=1, monitor=Monitor("loss", mode == "max")) as checkpoints:
        assert checkpoints.best_step() == best
        checkpoints.save(7, {"w": jnp.zeros(2)}, {}, {"loss": 2.5})
        checkpoints.wait()
        assert checkpoints.steps() == [best, 7]


def test_without_a_metric_there_is_no_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert (checkpoints.steps(), checkpoints.latest_step(), checkpoints.best_step()) == ([], None, None)
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.zeros(2)}, {}, {"loss": float(step)})
        checkpoints.wait()
        assert (checkpoints.steps(), checkpoints.best_step()) == ([2], None)


def test_metadata_needs_no_devices_and_importing_no_orbax(tmp_path: Path) -> None:
    state = jax.device_put(make_state(), NamedSharding(mesh(8), PartitionSpec()))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state, {"config": {"widths": [128]}}, {"loss": 0.5})
    program = f"""
import json, sys, jaxgen
assert not any(name.startswith("orbax") for name in sys.modules)
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.monitor import Monitor
print(json.dumps(Checkpoints({str(tmp_path)!r}, read_only=True).metadata()))
"""
    environment = os.environ | {"JAX_PLATFORMS": "no_such_platform", "XLA_FLAGS": ""}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.stderr == ""
    read = json.loads(ran.stdout)
    assert read["format_version"] == checkpoint.FORMAT_VERSION == 1
    assert (read["step"], read["extra"], read["metrics"]) == (3, {"config": {"widths": [128]}}, {"loss": 0.5})
    assert read["state"]["params/Dense_0/kernel"] == {"shape": [8, 16], "dtype": "float32"}
    assert read["state"]["opt_state/1/0/mu/half"] == {"shape": [8, 16], "dtype": "bfloat16"}
    assert read["state"]["rng"] == {"shape": [], "dtype": "key<fry>"}
    assert len(read["state"]) == len(jax.tree.leaves(state))


def test_another_models_state_is_refused_with_its_paths(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):  # an older one is there, but this is no damage
            checkpoints.save(step, {"a": jnp.zeros((2, 3)), "b": jnp.zeros(2), "c": jnp.zeros(2)}, {})
        target = {
            "a": jax.ShapeDtypeStruct((2, 4), jnp.float32),
            "b": jax.ShapeDtypeStruct((2,), jnp.bfloat16),
            "d": jax.ShapeDtypeStruct((5,), jnp.float32),
        }
        with pytest.raises(JaxgenError) as caught:
            checkpoints.restore(target, on_fallback=never)
    message = str(caught.value)
    assert "a: saved float32[2, 3], wanted float32[2, 4]" in message
    assert "b: saved float32[2], wanted bfloat16[2]" in message
    assert "c: saved float32[2], wanted nothing" in message
    assert "d: saved nothing, wanted float32[5]" in message
    assert "\n" not in message


def test_many_differences_are_cut_short(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {f"w{i}": jnp.zeros(2) for i in range(8)}, {})
        target = {f"w{i}": jax.ShapeDtypeStruct((3,), jnp.float32) for i in range(8)}
        with pytest.raises(JaxgenError, match=r"w0.*w4.*; and 3 more\)"):
            checkpoints.restore(target)


def test_a_part_of_a_state(tmp_path: Path) -> None:
    state = make_state()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        checkpoints.wait()
        part = {"params": state.params, "rng": state.rng}
        restored, _, _ = checkpoints.restore(abstract(part), partial=True)
        assert bits(restored) == bits(part)
        with pytest.raises(JaxgenError, match="saved nothing"):
            checkpoints.restore(abstract({"weights": state.params}), partial=True)
        with pytest.raises(JaxgenError, match="wanted nothing"):
            checkpoints.restore(abstract(part))


def test_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"w": jnp.zeros(2)}, {})
        checkpoints.wait()
        monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
        checkpoints.save(2, {"w": jnp.zeros(2)}, {})
        checkpoints.wait()
        monkeypatch.undo()
        message = r"2 was written by a newer jaxgen \(format 2, this one reads up to 1\); upgrade"
        with pytest.raises(JaxgenError, match=message):
            checkpoints.restore({"w": jax.ShapeDtypeStruct((2,), jnp.float32)}, on_fallback=never)
        with pytest.raises(JaxgenError, match=message):
            checkpoints.metadata()
        assert checkpoints.metadata(1)["step"] == 1


def test_a_step_is_saved_once_and_never_below_a_newer_one(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.save(5, {"w": jnp.zeros(2)}, {"first": True})
        assert not checkpoints.save(5, {"w": jnp.ones(2)}, {"first": False})
        assert checkpoints.metadata(5)["extra"] == {"first": True}
        with pytest.raises(JaxgenError, match=r"can't save step 4: .* has step 5 already"):
            checkpoints.save(4, {"w": jnp.zeros(2)}, {})


def test_what_cannot_be_saved_is_refused_at_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(JaxgenError, match="beside the state of step 1 is no JSON"):
            checkpoints.save(1, {"w": jnp.zeros(2)}, {"data": b"bytes"})
        with pytest.raises(JaxgenError, match="two leaves of the state are both called a/b"):
            checkpoints.save(1, {"a": {"b": jnp.zeros(2)}, "a/b": jnp.ones(2)}, {})
        gone = jnp.zeros(2)
        gone.delete()
        with pytest.raises(JaxgenError, match=r"could not save checkpoint of step 1 in .*deleted"):
            checkpoints.save(1, {"w": gone}, {})
        assert checkpoints.steps() == []


def test_directories_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JaxgenError, match=r"can't write checkpoints to .*: Not a directory; name another"):
        Checkpoints(tmp_path / "file" / "checkpoints")
    with pytest.raises(JaxgenError, match="there is no directory of checkpoints"):
        Checkpoints(tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()
    (tmp_path / "empty").mkdir()
    with Checkpoints(tmp_path / "empty", read_only=True) as checkpoints:
        with pytest.raises(JaxgenError, match=r"no checkpoint in .* can be read: there is none"):
            checkpoints.restore({}, on_fallback=never)
        with pytest.raises(JaxgenError, match=r"no checkpoint of step 3 in .*; there are: none"):
            checkpoints.restore({}, 3, on_fallback=never)
        with pytest.raises(JaxgenError, match="opened for reading only"):
            checkpoints.save(1, {"w": jnp.zeros(2)}, {})


def test_impossible_settings() -> None:
    with pytest.raises(JaxgenError, match="keep is 0"):
        Checkpoints("unused", keep=0)


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    state = jax.device_put(make_state(), NamedSharding(mesh(8), PartitionSpec()))
    with Checkpoints(tmp_path, keep=1, monitor=Monitor("loss")) as checkpoints:
        for step in range(3):
            checkpoints.save(step, state, {})
        checkpoints.wait()
        checkpoints.restore(abstract(state), on_fallback=never)
    assert capfd.readouterr() == ("", "")


PROCESS = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.experimental.multihost_utils import sync_global_devices
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.monitor import Monitor

directory, address, process = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=process)
assert jax.device_count() == 4
mesh = Mesh(np.array(jax.devices()), ("data",))
shardings = {name: NamedSharding(mesh, PartitionSpec(*axes)) for name, axes in [("w", ()), ("carry", ("data",))]}

def make(step):
    values = {"w": np.full(5, step, np.float32), "carry": np.arange(8, dtype=np.int32) + step}
    arrays = {n: jax.make_array_from_callback(x.shape, shardings[n], lambda i, x=x: x[i]) for n, x in values.items()}
    key = jax.jit(jax.random.key, out_shardings=shardings["w"])
    return arrays | {"rng": key(step), "none": jnp.zeros(0)}

with Checkpoints(directory, keep=2, monitor=Monitor("loss")) as checkpoints:
    for step in (1, 2, 3, 4):
        assert checkpoints.save(step, make(step), {"step": step}, {"loss": 1.0 + (step - 1) ** 2})
    checkpoints.wait()
    sync_global_devices("saved")
    assert checkpoints.steps() == [1, 3, 4], checkpoints.steps()
    assert checkpoints.best_step() == 1
    sync_global_devices("seen")
    if process == 1:  # damaged where only the other process may look
        for path in (directory / "4" / "state").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
                break
    sync_global_devices("damaged")
    told = []
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make(0))
    state, extra, step = checkpoints.restore(target, on_fallback=told.append)
    assert (step, extra, len(told)) == (3, {"step": 3}, 1), (step, extra, told)
    assert int(jax.jit(jnp.sum)(state["carry"])) == 28 + 8 * 3
    assert checkpoints.save(4, make(5), {"step": 4})
print("done")
"""


def test_two_processes_save_and_restore_together(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), address, str(process)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    for process in started:
        out, err = process.communicate(timeout=120)
        assert out.endswith("done\n"), err
    target = {
        "w": jax.ShapeDtypeStruct((5,), jnp.float32),
        "carry": jax.ShapeDtypeStruct((8,), jnp.int32),
    }
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        state, extra, _ = checkpoints.restore(target, on_fallback=never, partial=True)
    assert (extra, float(state["w"][0]), int(state["carry"][0])) == ({"step": 4}, 5.0, 5)
