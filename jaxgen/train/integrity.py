"""Knowing a damaged checkpoint when it is read: a list of its files with their sizes and SHA-256.

Orbax alone does not notice: its arrays carry no checksum. Of 150 bits flipped at random in its data files, 143
gave back other numbers without a word. Where it does notice, it prints pages before it fails.
So the finished files are read back and hashed in the thread that writes them (1 to 2 GB/s, mostly from the page
cache), just before Orbax renames the checkpoint into place, and again before one is restored. Hashing files
rather than arrays covers every byte, needs no second format for shardings, and asks nothing of Orbax but
where it writes.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from jaxgen.errors import JaxgenError
from jaxgen.files import read_json, write_json

# This list's own format never changes: a checkpoint's version stands in what it protects.
_MANIFEST = "files.json"
# Orbax writes these two after the list; it reads nothing from them that a restore needs.
_LATER = ("_CHECKPOINT_METADATA", "commit_success.txt")


def write_manifest(directory: Path) -> None:
    """Lists every file under a directory that is complete. One process calls it, for all."""
    names = [path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()]
    names = sorted(name for name in names if name not in (*_LATER, _MANIFEST))
    with ThreadPoolExecutor(4) as pool:
        digests = list(pool.map(lambda name: _digest(directory / name, sync=True), names))
    files = {
        name: [(directory / name).stat().st_size, digest] for name, digest in zip(names, digests, strict=True)
    }
    write_json(directory / _MANIFEST, {"files": files, "sha256": _digest_of(files)})


def damage(directory: Path) -> str | None:
    """Tells what is wrong with a checkpoint's files, in some words, or None where all are as written.

    Every process reads its share of the files, and all come to the same answer.
    """
    found = damage_here(directory, jax.process_index(), jax.process_count())
    if jax.process_count() == 1:
        return found
    from jax.experimental import multihost_utils

    if np.any(multihost_utils.process_allgather(np.asarray(found is not None))):
        return found or "found by another process"
    return None


def agreed(steps: list[int]) -> list[int]:
    """Gives every process what the first one sees, which may be removing old checkpoints meanwhile."""
    if jax.process_count() == 1:
        return steps
    from jax.experimental import multihost_utils

    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(steps))))
    padded = np.resize(np.asarray([*steps, 0], np.int32), count)
    return multihost_utils.broadcast_one_to_all(padded).tolist()


def damage_here(
    directory: Path, process: int = 0, processes: int = 1, *, only: str | None = None
) -> str | None:
    """Tells what is wrong with this process's share of the files, or with `only` one of them."""
    try:
        manifest = read_json(directory / _MANIFEST)
        files = manifest["files"]
        if manifest["sha256"] != _digest_of(files):
            return f"{_MANIFEST} was altered"
        names = [only] if only is not None else sorted(files)[process::processes]
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda name: _damage_of(directory / name, *files[name]), names)
            return next((f"{name} {what}" for name, what in zip(names, found, strict=True) if what), None)
    except (JaxgenError, KeyError, TypeError):
        return f"{_MANIFEST} is missing or damaged" if directory.is_dir() else "it is gone"


def _damage_of(path: Path, size: int, digest: str) -> str | None:
    """Tells what is wrong with a file, or None."""
    try:
        if path.stat().st_size != size:
            return f"has {path.stat().st_size} bytes of {size}"
        return None if _digest(path) == digest else "was altered"
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"can't be read: {error.strerror}"


def _digest(path: Path, *, sync: bool = False) -> str:
    """Hashes a file's content; with `sync`, makes sure first that it has reached the disk."""
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())  # Orbax does so for arrays, not for JSON
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest_of(files: object) -> str:
    """Hashes the list itself."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
