"""Directories of weights as Hugging Face has them: `config.json`, and tensors by name in safetensors files."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxgen.errors import JaxgenError, UsageError, shown
from jaxgen.files import read_json, write_json

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = "pytorch_model"  # and what comes behind it, .bin or -00001-of-00002.bin
_SHARD_BYTES = 5 * 10**9


class Tensors(Mapping[str, Shaped[np.ndarray, "..."]]):
    """The tensors of a directory, by name; in files that are mapped to memory, each is read when it is asked for."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        """Takes the opened file of each name."""
        self._files = files

    def __getitem__(self, name: str) -> Shaped[np.ndarray, "..."]:
        return self._files[name].get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@dataclass(frozen=True)
class Stored:
    """What a directory holds.

    Attributes:
        config: of `config.json`.
        tensors: NumPy arrays by name.
    """

    config: dict[str, Any]
    tensors: Mapping[str, Shaped[np.ndarray, "..."]]


def read_stored(directory: Path) -> Stored:
    """Opens a directory with `config.json`, and `model.safetensors` or parts with their index.

    Raises:
        JaxgenError: if files are missing or damaged, names them; and for PyTorch's pickles, which aren't read.
    """
    if not directory.is_dir():
        raise JaxgenError(f"{shown(directory)} is no directory; give one with {CONFIG} and {WEIGHTS}")
    there = {path.name for path in directory.iterdir()}
    if WEIGHTS not in there and INDEX not in there and any(name.startswith(_PICKLES) for name in there):
        raise JaxgenError(
            f"{shown(directory)} has its weights as a pickle only, which can run any code when it is opened: where you "
            "trust it, convert it with transformers, AutoModel.from_pretrained(DIR).save_pretrained(NEW)"
        )
    if CONFIG not in there or not {WEIGHTS, INDEX} & there:
        found = ", ".join(shown(name) for name in sorted(there)[:8]) or "nothing"
        raise JaxgenError(
            f"{shown(directory)} holds no weights that can be read: looked for {CONFIG}, and {WEIGHTS} or {INDEX}; "
            f"it has {found}"
        )
    config = read_json(directory / CONFIG)
    if not isinstance(config, dict):
        raise JaxgenError(f"{shown(directory / CONFIG)} is damaged, it is no JSON object")
    if WEIGHTS in there:
        weights = _open(directory / WEIGHTS)
        return Stored(config, Tensors(dict.fromkeys(weights.keys(), weights)))
    return Stored(config, Tensors(_open_parts(directory)))


def write_stored(
    directory: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Shaped[np.ndarray, "..."]],
    *,
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Writes `config.json` and the tensors into a directory, in parts with an index where they are more than a shard.

    Args:
        directory: to write into; see `new_directory`.
        config: of the model.
        tensors: by name.
        shard_bytes: of a file, at most, unless a single tensor is larger.

    Raises:
        JaxgenError: if a file can't be written.
    """
    write_json(directory / CONFIG, config)
    parts: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if parts[-1] and size + tensor.nbytes > shard_bytes:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += tensor.nbytes
    if len(parts) == 1:
        _write(directory / WEIGHTS, tensors)
        return
    files = [f"model-{number:05}-of-{len(parts):05}.safetensors" for number in range(1, len(parts) + 1)]
    for file, names in zip(files, parts, strict=True):
        _write(directory / file, {name: tensors[name] for name in names})
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())},
        "weight_map": {name: file for file, names in zip(files, parts, strict=True) for name in names},
    }
    write_json(directory / INDEX, index)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Gives a directory to write into, which becomes `path` when all is written; when something fails, nothing does.

    Raises:
        UsageError: if there is something at `path` already.
        JaxgenError: if it can't be written.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"{shown(path)} is there already; name a new directory")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise JaxgenError(f"could not write {shown(path)}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError) as error:
        raise JaxgenError(f"{shown(path)} is damaged ({error}): fetch or copy it again") from error


def _open_parts(directory: Path) -> dict[str, Any]:
    """Opens the parts that an index names; gives the file of each tensor."""
    index = directory / INDEX
    try:
        places: dict[str, str] = dict(read_json(index)["weight_map"])
        names: dict[str, list[str]] = {}
        for name, file in places.items():
            names.setdefault(Path(file).name, []).append(name)
    except (KeyError, TypeError, ValueError) as error:
        raise JaxgenError(
            f"{shown(index)} is damaged, it has no map of names to files: fetch or copy it again"
        ) from error
    if missing := sorted(file for file in names if not (directory / file).is_file()):
        raise JaxgenError(
            f"{shown(directory)} lacks parts that {INDEX} names: {', '.join(map(shown, missing))}"
        )
    files = {}
    for file, wanted in names.items():
        part = _open(directory / file)
        if lost := set(wanted) - set(part.keys()):
            raise JaxgenError(
                f"{shown(directory / file)} lacks tensors that {INDEX} names: {', '.join(sorted(lost))}"
            )
        files.update(dict.fromkeys(wanted, part))
    return {name: files[name] for name in places}


def _write(path: Path, tensors: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    # The library takes the memory as it lies: what is transposed there would be written the other way round.
    whole = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})
        # It makes files that nobody else may read.
        path.chmod((path.parent / CONFIG).stat().st_mode)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        raise JaxgenError(f"could not write {shown(path)}: {error}") from error
