"""What the benchmarks have in common: contenders in processes of their own, and the machine that they run on."""

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table


@dataclass
class Worker:
    """A contender in its process."""

    name: str
    process: Any
    peak: float

    @classmethod
    def start(cls, module: str, name: str, *arguments: str) -> "Worker":
        """Starts a contender of a module, and waits until it has compiled and told its peak."""
        command = [sys.executable, "-m", module, name, *arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{name} did not start; see for yourself: {' '.join(command)}")
        return cls(name, process, float(line))

    def work(self, steps: int) -> float:
        """Has it take some steps, and gives the seconds that it took."""
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"{self.name} has died")
        return float(line)

    def stop(self) -> None:
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def take_turns(workers: list[Worker], steps: int, rounds: int) -> np.ndarray:
    """Has all work in turn, round after round, and then stops them; gives seconds [rounds, workers]."""
    seconds = np.array([[worker.work(steps) for worker in workers] for _ in range(rounds)])
    for worker in workers:
        worker.stop()
    return seconds


def standings(workers: list[Worker], rates: np.ndarray) -> Iterator[tuple[str, float, float]]:
    """Gives each one's name, its median rate, and the median of the first one's rate divided by its own."""
    for column, worker in enumerate(workers):
        yield (
            worker.name,
            float(np.median(rates[:, column])),
            float(np.median(rates[:, 0] / rates[:, column])),
        )


def table_of_rates(title: str, unit: str, workers: list[Worker], rates: np.ndarray) -> Table:
    """Lays out what `standings` gives."""
    table = Table("", unit, "jaxgen / this", title=title)
    for name, rate, ratio in standings(workers, rates):
        table.add_row(name, f"{rate:,.0f}", f"{ratio:.2f}")
    return table


def machine(*others: str) -> str:
    """Names the machine and the versions of jaxgen's parts and of the others."""
    names = ("jax", "flax", *others)
    try:
        versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    except importlib.metadata.PackageNotFoundError as error:
        raise SystemExit(f"{error.name} is missing: pip install -c constraints.txt -e '.[bench]'") from None
    model = (
        re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if os.name == "posix" else None
    )
    processor = model[1] if model else platform.processor()
    return f"{os.cpu_count()} cores, {processor}; Python {platform.python_version()}, {versions}"
