"""Full disks, killed processes and damaged files: the last good checkpoint stays, and the failure is told."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.errors import JaxgenError
from jaxgen.train import integrity
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.monitor import Monitor

STATE = {"w": np.arange(3000, dtype=np.float32), "half": np.ones(999, jnp.bfloat16), "step": np.int32(1)}
TARGET = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in STATE.items()}


def save(directory: Path, *steps: int) -> None:
    with Checkpoints(directory, keep=10) as checkpoints:
        for step in steps:
            checkpoints.save(step, STATE, {"step": step}, {"loss": float(step)})


def no_space(_: Path) -> None:
    raise OSError(28, "No space left on device")


def until_told(checkpoints: Checkpoints) -> None:
    """What a training loop does."""
    for _ in range(1000):
        checkpoints.check()
        time.sleep(0.01)


@pytest.mark.parametrize("tell", ["check", "wait", "close", "save", "exit"])
def test_failed_save_is_raised_once_wherever_it_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tell: str
) -> None:
    save(tmp_path, 1)
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(integrity, "write_manifest", no_space)
        checkpoints.save(2, STATE, {})
        calls: dict[str, Any] = {
            "check": lambda: until_told(checkpoints),
            "wait": checkpoints.wait,
            "close": checkpoints.close,
            "save": lambda: checkpoints.save(3, STATE, {}),
            "exit": lambda: checkpoints.__exit__(None, None, None),
        }
        with pytest.raises(JaxgenError) as caught:
            calls[tell]()
    message = str(caught.value)
    assert message.startswith(f"could not save checkpoint of step 2 in {tmp_path}: No space left on device; ")
    assert message.endswith("resumes from step 1")
    assert "\n" not in message
    # It took its room on the disk back, the older one is whole, and saving goes on once there is room.
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    checkpoints.check()
    assert checkpoints.restore(TARGET)[1] == {"step": 1}
    assert checkpoints.save(4, STATE, {})
    checkpoints.close()
    assert checkpoints.steps() == [1, 4]
    assert capfd.readouterr() == ("", "")


def test_failed_save_does_not_hide_the_error_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(integrity, "write_manifest", no_space)
    with pytest.raises(ZeroDivisionError) as caught, Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, {})
        raise ZeroDivisionError
    assert "could not save checkpoint of step 1" in caught.value.__notes__[0]


def test_arrays_that_the_disk_refuses(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As on a full disk, the system refuses to write: files may have no more than 64 KiB."""
    noise = {"w": jax.random.normal(jax.random.key(0), (1 << 18,))}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, STATE, {})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
        try:
            checkpoints.save(2, noise, {})
            with pytest.raises(
                JaxgenError, match=r"could not save checkpoint of step 2 in .*: File too large;"
            ):
                until_told(checkpoints)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        checkpoints.save(2, noise, {})
    assert Checkpoints(tmp_path).steps() == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_directory_lost_during_the_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(1, STATE, {})
        checkpoints.wait()
        shutil.rmtree(directory)
        directory.write_text("a file now")
        before = set(threading.enumerate())
        with pytest.raises(JaxgenError, match=r"could not save checkpoint of step 2 in .*: Not a directory;"):
            checkpoints.save(2, STATE, {})
    # No thread of Orbax goes on waiting for the directory: that would keep the process from ending.
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before
    assert capfd.readouterr() == ("", "")


def damages(content: bytes) -> dict[str, bytes | None]:
    """Ways to damage a file."""

    def flip(place: int) -> bytes:
        changed = bytearray(content)
        changed[place] ^= 1
        return bytes(changed)

    flips = {f"flip at {place}": flip(place) for place in (0, len(content) // 3, len(content) // 2, -1)}
    return flips | {"cut": content[: len(content) // 2], "longer": content + b"\0", "deleted": None}


def test_every_damage_to_every_file_is_noticed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 1, 2)
    files = [path for path in (tmp_path / "2").rglob("*") if path.is_file()]
    assert {"meta.json", "files.json", "manifest.ocdbt"} <= {path.name for path in files}
    silent = set()
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for path in files:
            name, content = path.relative_to(tmp_path / "2").as_posix(), path.read_bytes()
            for what, changed in damages(content).items():
                path.unlink() if changed is None else path.write_bytes(changed)
                told: list[str] = []
                restored, extra, step = checkpoints.restore(TARGET, on_fallback=told.append)
                assert all(np.array_equal(restored[name], STATE[name]) for name in STATE), (name, what)
                assert extra == {"step": step}
                if step == 2:
                    assert not told
                    silent.add(name)
                else:
                    assert told == [line for line in told if name in line and "step 2" in line], (what, told)
                    assert told[0].endswith("using that of step 1")
                path.write_bytes(content)
    # Orbax finishes these two after the list of files is made; nothing that is restored is in them.
    assert silent <= {"_CHECKPOINT_METADATA", "commit_success.txt"}
    assert capfd.readouterr() == ("", "")


def test_every_byte_of_the_arrays_is_covered(tmp_path: Path) -> None:
    """Orbax and TensorStore give back other numbers for some of these without a word."""
    save(tmp_path, 1)
    path = max((tmp_path / "1" / "state").rglob("*"), key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    assert integrity.damage(tmp_path / "1") is None
    for place in range(0, len(content), 29):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        assert integrity.damage(tmp_path / "1") is not None


def test_resuming_over_damaged_checkpoints(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3)
    shutil.rmtree(tmp_path / "3" / "state")
    (tmp_path / "2" / "meta" / "meta.json").write_text("{}")
    told: list[str] = []
    with Checkpoints(tmp_path, keep=2, monitor=Monitor("loss")) as checkpoints:
        assert checkpoints.best_step() == 1
        assert checkpoints.metadata()["step"] == 3  # its own file is intact
        with pytest.raises(JaxgenError, match="the newest that is intact is that of step 1"):
            checkpoints.restore(TARGET)
        with pytest.raises(
            JaxgenError, match=r"step 2 in .* is damaged: meta/meta.json.*; there are: 1, 2, 3"
        ):
            checkpoints.restore(TARGET, 2)
        with pytest.raises(JaxgenError, match=r"step 2 .* is damaged"):
            checkpoints.metadata(2)
        _, extra, step = checkpoints.restore(TARGET, on_fallback=told.append)
        assert (extra, step, len(told)) == ({"step": 1}, 1, 1)
        assert "step 3 (state/" in told[0]
        assert "step 2 (meta/meta.json has 2 bytes of" in told[0]
        # The run takes the same steps again, and overwrites what was damaged.
        assert checkpoints.save(2, STATE, {"again": 2})
        assert checkpoints.save(3, STATE, {"again": 3})
        checkpoints.wait()
        assert checkpoints.restore(TARGET)[1] == {"again": 3}
        assert checkpoints.steps() == [1, 2, 3]


def test_all_damaged(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for step in "12":
        (tmp_path / step / "files.json").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(
            JaxgenError, match=r"no checkpoint in .* can be read: step 2: .*; step 1: "
        ) as caught:
            checkpoints.restore(TARGET, on_fallback=lambda line: pytest.fail(line))
        assert "\n" not in str(caught.value)
        with pytest.raises(JaxgenError, match="no checkpoint in"):
            checkpoints.metadata()


KILLED = """
import sys, time
from pathlib import Path
import numpy as np
from jaxgen.train import integrity
from jaxgen.train.checkpoint import Checkpoints
from jaxgen.train.monitor import Monitor

checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"w": np.ones(5, np.float32)}, {"step": 1})
checkpoints.wait()
integrity.write_manifest = lambda directory: time.sleep(600)  # all is written, nothing renamed yet
checkpoints.save(2, {"w": np.full(5, 2, np.float32)}, {"step": 2})
while not list(Path(sys.argv[1]).glob("2.*/state/manifest.ocdbt")):
    time.sleep(0.01)
print("writing", flush=True)
time.sleep(600)
"""


def test_killed_in_the_middle_of_a_save(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "writing\n"
        child.send_signal(signal.SIGKILL)
    left = {path.name for path in tmp_path.iterdir()}
    assert "1" in left
    assert len(left) == 2
    target = {"w": jax.ShapeDtypeStruct((5,), jnp.float32)}
    with Checkpoints(tmp_path, read_only=True) as checkpoints:  # evaluation looks on, and leaves all as it is
        assert checkpoints.steps() == [1]
        assert checkpoints.restore(target)[1] == {"step": 1}
    assert {path.name for path in tmp_path.iterdir()} == left
    with Checkpoints(tmp_path) as checkpoints:
        state, _, step = checkpoints.restore(target)
        assert (step, float(state["w"][0])) == (1, 1.0)
        checkpoints.save(2, {"w": jnp.full(5, 3.0)}, {})
        checkpoints.wait()
        assert float(checkpoints.restore(target)[0]["w"][0]) == 3.0
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}
