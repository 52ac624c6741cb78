"""The run directory: everything that a run leaves behind, and all that `jaxgen evaluate` and `plot` need."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxgen.config import completed, differences
from jaxgen.data import tokenizers
from jaxgen.data.tokenizers import Tokenizer
from jaxgen.errors import JaxgenError, UsageError
from jaxgen.files import read_json, write_json

FORMAT_VERSION = 1
# What must be equal for a run to go on. Of the rest only the length may change, and only upwards.
_FIXED = ("experiment", "task", "data", "optimizer", "training", "fine_tuning", "averaged")
# What another text makes other, too.
_CONSEQUENCES = ("data.text.tokenizer", "task.tokenizer", "task.model.vocabulary_size")
_PACKAGES = ("jaxgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "grain")


class RunDirectory:
    """Paths of a run directory, its `config.json`, and its `result.json`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_path = self.path / "config.json"
        self.result_path = self.path / "result.json"
        self.metrics_path = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self.plots = self.path / "plots"
        self.samples = self.path / "samples"
        self.tokenizer_path = self.path / "tokenizer.json"
        self.target_tokenizer_path = self.path / "target_tokenizer.json"
        self.vocabulary_path = self.path / "vocabulary.tsv"
        self._made: list[Path] = []

    def config(self) -> dict[str, Any]:
        """Reads `config.json`.

        Raises:
            JaxgenError: where there is none, it can't be read, or a newer jaxgen wrote it.
        """
        if self.path.is_file():
            raise UsageError(
                f"{self.path} is no run directory but a file; one of word vectors is evaluated by --pairs or "
                "--analogies, and drawn by --words"
            )
        if not self.config_path.is_file():
            raise UsageError(f"{self.path} is no run directory: it has no config.json")
        config = read_json(self.config_path)
        version = config.get("format_version") if isinstance(config, dict) else None
        if not isinstance(version, int):
            raise JaxgenError(f"{self.config_path} is not a run's configuration: it has no format_version")
        if version > FORMAT_VERSION:
            raise JaxgenError(
                f"{self.path} was written by a newer jaxgen (format {version}, this one reads up to "
                f"{FORMAT_VERSION}): update jaxgen"
            )
        return config

    def data_dir(self) -> Path | None:
        """Gives where the run's data was, if it was told."""
        recorded = self.config().get("data_dir") if self.config_path.is_file() else None
        return None if recorded is None else Path(recorded)

    def result(self) -> dict[str, Any] | None:
        """Reads `result.json`, or gives None for a run that hasn't finished."""
        return read_json(self.result_path) if self.result_path.is_file() else None

    def make(self) -> None:
        """Makes the directory, if it isn't there.

        Raises:
            UsageError: where it holds something else than a run.
            JaxgenError: where it can't be made or written.
        """
        try:
            if self.path.is_dir() and any(self.path.iterdir()) and not self.config_path.exists():
                raise UsageError(f"{self.path} is not empty and holds no run; name another --workdir")
            self._made += [path for path in (self.path, *self.path.parents) if not path.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            raise JaxgenError(
                f"can't write the run directory {self.path}: {error.strerror}; choose another with --workdir"
            ) from error

    def remove_if_empty(self) -> None:
        """Takes back what `make` made, where the run didn't come to use it."""
        with contextlib.suppress(OSError):  # not empty
            for path in self._made:
                path.rmdir()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the directory and keeps other runs out of it; taken back if it comes to nothing.

        Raises:
            JaxgenError: where another process is training there.
        """
        self.make()
        handle = os.open(self.path, os.O_RDONLY)
        try:
            if jax.process_index() == 0:
                self._lock(handle)
            yield
        except BaseException:
            self.remove_if_empty()
            raise
        finally:
            os.close(handle)

    def _lock(self, handle: int) -> None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._made.clear()  # it is the other's now
            raise JaxgenError(
                f"another process is training in {self.path}: wait for it, or name another --workdir"
            ) from error
        except OSError:  # a file system without locks
            return

    def keep_tokenizers(self, tokenizer: Tokenizer, target_tokenizer: Tokenizer | None = None) -> None:
        """Writes `tokenizer.json`, and `target_tokenizer.json` if there is one, where they aren't there yet."""
        kept = {self.tokenizer_path: tokenizer, self.target_tokenizer_path: target_tokenizer}
        for path, one in kept.items():
            if one is not None and jax.process_index() == 0 and not path.exists():
                tokenizers.save(one, path)

    def finish(self, figures: Mapping[str, Any]) -> None:
        """Writes `result.json`, the mark of a finished run."""
        write_json(self.result_path, figures)

    def begin(self, record: Mapping[str, Any], steps: int) -> list[str]:
        """Writes `config.json`, or checks that the run in the directory is this one.

        Args:
            record: what describes the run.
            steps: its length; may only grow.

        Returns:
            What is worth saying about it, in lines.

        Raises:
            UsageError: where the directory holds another run, naming the fields that differ.
            JaxgenError: where it can't be written.
        """
        primary = jax.process_index() == 0
        if not self.config_path.exists():
            if primary:
                write_json(self.config_path, {**record, **_surroundings(), "steps": steps})
            return []
        self._check_same(record, steps)
        before = self.config()
        # A finished run is left as it is.
        changes = {} if steps == before["steps"] else {"steps": steps, "arguments": sys.argv[1:]}
        notes = []
        if record["device_count"] != before["device_count"] and (changes or self.result() is None):
            changes["device_count"] = record["device_count"]
            notes.append(
                f"begun on {before['device_count']} devices, goes on with {record['device_count']}: "
                "equal to a run on as many only up to rounding"
            )
        if changes and primary:
            self.result_path.unlink(missing_ok=True)
            write_json(self.config_path, {**before, **changes})
        return notes

    def _check_same(self, record: Mapping[str, Any], steps: int) -> None:
        before = self.config()
        record = json.loads(json.dumps(record))  # as it would be read: tuples become lists
        if before.get("experiment") != record.get("experiment"):
            raise UsageError(
                f"{self.path} holds a run of {before.get('experiment')}, not of {record.get('experiment')}; "
                "choose another --workdir"
            )
        found = [
            line
            for name in _FIXED
            for line in differences(completed(before.get(name)), record.get(name), name)
        ]
        if found and any(line.startswith("data.version") for line in found):
            found = [line for line in found if not line.startswith(_CONSEQUENCES)] or found
        if found and all(
            line.startswith(("data.num_examples", "data.version", *_CONSEQUENCES)) for line in found
        ):
            raise UsageError(
                f"the data of the run in {self.path} has changed since it began ({'; '.join(found)}): "
                "put it back to go on, or choose another --workdir"
            )
        if found:
            raise UsageError(
                f"{self.path} holds a run with another configuration ({'; '.join(found)}); "
                "give the same options to go on, or another --workdir"
            )
        if steps < before["steps"]:
            raise UsageError(
                f"{self.path} holds a run of {before['steps']} steps: it can be made longer, not cut to {steps}"
            )


def _surroundings() -> dict[str, Any]:
    """Tells where a run was made: what bit-for-bit equality rests on."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "format_version": FORMAT_VERSION,
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "process_count": jax.process_count(),
        "python": platform.python_version(),
        "versions": versions,
        "git_commit": _git_commit(),
        "arguments": sys.argv[1:],
    }


def _git_commit() -> str | None:
    """Gives the commit of the checkout that jaxgen is run from, or None when it is installed."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
