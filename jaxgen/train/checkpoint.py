"""Checkpoints: the train state and everything beside it, saved while training goes on, in one atomic piece.

    RUN/checkpoints/1200/               there only once it is complete: Orbax renames it into place
        state/                          the arrays, by Orbax: a nested dict by path
        meta/meta.json                  format version, `extra`, metrics, shapes and dtypes
        files.json                      size and SHA-256 of each file above

`Checkpoints` stands on Orbax's AsyncCheckpointer rather than its CheckpointManager, which fails on creation
when one old checkpoint's metrics are damaged, silently skips a save when a newer (damaged) step is there, and
whose `check_for_errors` misses the failure of a save that ended in the background.
"""

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxgen.errors import JaxgenError
from jaxgen.files import read_json
from jaxgen.train import integrity, storage
from jaxgen.train.monitor import Monitor

FORMAT_VERSION = 1

_TEMPORARY = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints in a directory: saved in the background, the last ones and the best one kept.

    Every process of a `jax.distributed` job makes one and calls the same methods in the same order. As a
    context manager it waits for a save in flight on exit, and raises if that failed.

    Args:
        directory: where they lie, `RUN/checkpoints`; made if it isn't there.
        keep: how many of the last ones are kept.
        monitor: what tells the best one, see `Monitor.cost`, which is kept too; the earliest of equals wins, NaN never
            does. None keeps no best.
        read_only: for evaluation; nothing is made or written, and the directory may be another run's that is
            still training.

    Raises:
        JaxgenError: the directory can't be written (or, with `read_only`, isn't there).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        monitor: Monitor | None = None,
        read_only: bool = False,
    ) -> None:
        if keep < 1:
            raise JaxgenError(f"keep is {keep}; at least 1 checkpoint must be kept")
        self.directory = Path(directory).absolute()
        self._keep, self._monitor = keep, monitor
        self._read_only = read_only
        self._checkpointer: ocp.AsyncCheckpointer | None = None
        self._saving: threading.Thread | None = None
        self._writing = 0
        self._failure: JaxgenError | None = None
        self._damaged: set[int] = set()
        if read_only:
            if not self.directory.is_dir():
                raise JaxgenError(f"there is no directory of checkpoints {directory}")
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.directory).close()
        except OSError as error:
            reason = f"can't write checkpoints to {directory}: {error.strerror}"
            raise JaxgenError(f"{reason}; name another --workdir") from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except JaxgenError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what is under way already matters more, but nothing is swallowed

    def save(
        self, step: int, state: Any, extra: Mapping[str, Any], metrics: Mapping[str, Any] | None = None
    ) -> bool:
        """Saves a checkpoint in the background.

        Returns as soon as the state has been copied to the host; its buffers may be donated then. Waits for
        an earlier save that is still being written.

        Args:
            step: the number of steps taken; greater than that of any checkpoint that is there.
            state: any pytree of arrays. What isn't a `jax.Array` is saved as `jnp.array` makes it.
            extra: JSON saved with the state in the same piece (the data iterator's state, the config).
            metrics: name to value; what is monitored is looked up here.

        Returns:
            False if a checkpoint of this step is there already, which is left as it is.

        Raises:
            JaxgenError: this save can't be started, or an earlier one has failed.
        """
        self.wait()
        if self._read_only:
            raise JaxgenError(f"the checkpoints in {self.directory} were opened for reading only")
        newest = max(set(self.steps()) - self._damaged, default=-1)
        if newest == step:
            return False
        if newest > step:
            raise JaxgenError(
                f"can't save step {step}: {self.directory} has step {newest} already; name another --workdir"
            )
        leaves = storage.named_leaves(state)
        meta = {
            "format_version": FORMAT_VERSION,
            "step": step,
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "extra": dict(extra),
            "state": storage.shapes(leaves),
        }
        try:
            meta = json.loads(json.dumps(meta))  # a copy: it is written later, when `extra` may have changed
        except (TypeError, ValueError) as error:
            raise JaxgenError(f"what is saved beside the state of step {step} is no JSON: {error}") from error
        self._start(step, leaves, meta)
        return True

    def check(self) -> None:
        """Raises JaxgenError if the save in the background has failed; costs next to nothing."""
        if self._saving is not None and not self._saving.is_alive():
            self.wait()

    def wait(self) -> None:
        """Waits until the save in the background is complete; raises JaxgenError if it failed."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Waits for the save in the background and lets go of Orbax; raises JaxgenError if the save failed."""
        try:
            self.wait()
        finally:
            if self._checkpointer is not None:
                self._checkpointer.close()
                self._checkpointer = None

    def steps(self) -> list[int]:
        """Gives the steps of all complete checkpoints, in order. They may have been damaged since."""
        try:
            return sorted(int(path.name) for path in self.directory.iterdir() if path.name.isdecimal())
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise JaxgenError(f"could not read {self.directory}: {error.strerror}") from error

    def latest_step(self) -> int | None:
        """Gives the step of the newest checkpoint, or None."""
        return max(self.steps(), default=None)

    def best_step(self) -> int | None:
        """Gives the best step of those kept by what is monitored, or None."""
        if self._monitor is None:
            return None
        costs = []
        for step in self.steps():
            meta = self._readable_meta(step)
            cost = self._monitor.cost({self._monitor.name: math.nan, **(meta or {}).get("metrics", {})})
            if not math.isnan(cost[0]):
                costs.append((cost, step))
        return min(costs)[1] if costs else None

    def metadata(self, step: int | None = None) -> dict[str, Any]:
        """Reads what is saved beside the arrays; needs neither devices nor a mesh.

        Args:
            step: which checkpoint; by default the newest whose metadata is intact.

        Returns:
            "format_version", "step", "extra", "metrics", and "state": path to {"shape", "dtype"}.

        Raises:
            JaxgenError: there is no such checkpoint, it is damaged, or a newer jaxgen wrote it.
        """
        steps = reversed(self.steps()) if step is None else [step]
        for candidate in steps:
            meta = self._readable_meta(candidate)
            if meta is not None:
                return _checked_version(meta, self.directory / str(candidate))
        raise self._nothing_to_read(step, "its metadata can't be read")

    def restore(
        self,
        abstract_state: Any,
        step: int | None = None,
        *,
        on_fallback: Callable[[str], None] | None = None,
        partial: bool = False,
    ) -> tuple[Any, dict[str, Any], int]:
        """Restores a checkpoint onto the devices that the target names, however many it was saved from.

        Args:
            abstract_state: a tree of `jax.ShapeDtypeStruct` (or arrays) like the one saved; its containers
                are those of the result. A leaf without a sharding goes to the default device.
            step: which checkpoint; by default the newest that is intact.
            on_fallback: called with one line when damaged checkpoints are passed over; without it, they are
                an error.
            partial: whether the target may be a part of what was saved (the parameters alone, say).

        Returns:
            The state bit for bit as it was saved, `extra`, and the step.

        Raises:
            JaxgenError: none is intact, a newer jaxgen wrote it, or the state is of another model.
        """
        self.wait()
        chosen, damage = self._newest_intact() if step is None else self._intact(step)
        if damage:
            line = f"damaged checkpoint {damage} in {self.directory}"
            if on_fallback is None:
                raise JaxgenError(f"{line}; the newest that is intact is that of step {chosen}")
            on_fallback(f"{line}: using that of step {chosen}")
        directory = self.directory / str(chosen)
        meta = _checked_version(read_json(directory / storage.META), directory)
        try:
            state = storage.read_state(directory, abstract_state, meta["state"], partial=partial)
        except JaxgenError:
            raise
        except Exception as error:
            # The files are as they were written, so this is no damage that an older checkpoint would mend.
            raise JaxgenError(f"could not restore {directory}: {_reason(error)}") from error
        return state, meta["extra"], chosen

    def _intact(self, step: int) -> tuple[int, str]:
        """Gives back a step that can be read, or raises JaxgenError."""
        damage = integrity.damage(self.directory / str(step))
        if damage is not None:
            raise self._nothing_to_read(step, damage)
        return step, ""

    def _newest_intact(self) -> tuple[int, str]:
        """Finds the newest step that can be read, and describes those passed over."""
        damages: dict[int, str] = {}
        for step in reversed(integrity.agreed(self.steps())):
            damage = integrity.damage(self.directory / str(step))
            if damage is None:
                self._damaged |= damages.keys()
                return step, ", ".join(f"of step {step} ({why})" for step, why in damages.items())
            damages[step] = damage
        raise self._nothing_to_read(None, "; ".join(f"step {step}: {why}" for step, why in damages.items()))

    def _start(self, step: int, leaves: dict[str, Any], meta: dict[str, Any]) -> None:
        """Hands a checkpoint to Orbax and starts the thread that waits for it."""
        try:
            if self._checkpointer is None:
                self._checkpointer = storage.make_checkpointer(self._write_manifest)
            self._remove(self.directory.glob(f"*{_TEMPORARY}*"))  # left by a process that was killed
            self._remove(self.directory / str(bad) for bad in self._damaged)
            self._damaged.clear()
            self._writing = step
            self._checkpointer.save(self.directory / str(step), args=storage.save_args(leaves, meta))
        except Exception as error:
            raise self._failed(step, error) from error
        self._saving = threading.Thread(target=self._finish, args=(step,), name=f"checkpoint-{step}")
        self._saving.start()

    def _write_manifest(self) -> None:
        """Called by Orbax in its thread, on one process, when all is written and not yet renamed into place."""
        temporary = next(self.directory.glob(f"{self._writing}{_TEMPORARY}*"), None)
        integrity.write_manifest(temporary or self.directory / str(self._writing))

    def _finish(self, step: int) -> None:
        """Waits for Orbax, in a thread, then removes the checkpoints that are no longer kept."""
        try:
            assert self._checkpointer is not None
            self._checkpointer.wait_until_finished()
            kept = {*self.steps()[-self._keep :], self.best_step()}
            self._remove(self.directory / str(old) for old in self.steps() if old not in kept)
        except BaseException as error:  # whatever it was, the caller's thread must hear of it
            self._failure = self._failed(step, error)

    def _failed(self, step: int, error: BaseException) -> JaxgenError:
        """Makes the error for a failed save, and gives the room that it took on the disk back."""
        way_out = "starts again"
        with contextlib.suppress(OSError, JaxgenError):
            self._remove(self.directory.glob(f"{step}{_TEMPORARY}*"))
            way_out = f"resumes from step {self.steps()[-1]}" if self.steps() else way_out
        failure = JaxgenError(
            f"could not save checkpoint of step {step} in {self.directory}: {_reason(error)}; "
            f"once that is put right, the same command {way_out}"
        )
        failure.__cause__ = error
        return failure

    def _remove(self, directories: Iterable[Path]) -> None:
        """Removes directories, on one process for all."""
        if jax.process_index() == 0:
            for directory in directories:
                shutil.rmtree(directory)

    def _readable_meta(self, step: int) -> dict[str, Any] | None:
        """Reads a checkpoint's JSON, or gives None where it is damaged or gone."""
        directory = self.directory / str(step)
        if integrity.damage_here(directory, only=storage.META) is not None:
            return None
        try:
            return read_json(directory / storage.META)
        except JaxgenError:  # removed in between by the run that is training
            return None

    def _nothing_to_read(self, step: int | None, damage: str) -> JaxgenError:
        """Makes the error for a checkpoint that isn't there, or is damaged."""
        steps = ", ".join(map(str, self.steps())) or "none"
        if step is None:
            return JaxgenError(f"no checkpoint in {self.directory} can be read: {damage or 'there is none'}")
        if step not in self.steps():
            return JaxgenError(f"no checkpoint of step {step} in {self.directory}; there are: {steps}")
        return JaxgenError(
            f"the checkpoint of step {step} in {self.directory} is damaged: {damage}; there are: {steps}"
        )


def _checked_version(meta: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Passes on a checkpoint's metadata, unless its format is newer than this code."""
    version = meta["format_version"]
    if version > FORMAT_VERSION:
        raise JaxgenError(
            f"{directory} was written by a newer jaxgen (format {version}, this one reads up to "
            f"{FORMAT_VERSION}); upgrade jaxgen"
        )
    return meta


def _reason(error: BaseException) -> str:
    """Puts an error in a few words: Orbax's and TensorStore's can be pages long."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error)
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
        if os.strerror(code) in text:
            return os.strerror(code)
    first_line = text.strip().partition("\n")[0][:200]
    return first_line or type(error).__name__
