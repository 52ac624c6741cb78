"""Every test runs on the CPU, split into eight devices, with jaxgen's array annotations checked."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("jaxgen", "beartype.beartype")

_MANY_MAPS = 20_000
_SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def compiled_quickly():
    """For tests of many programs that run once: LLVM leaves them much as they are, in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module", autouse=True)
def programs_are_forgotten() -> Iterator[None]:
    """Compiled programs are let go of where they are many: each is mapped into memory, at most 65,530 times."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The prepared real data sets kept beside the checkout."""
    directory = Path(os.environ.get("JAXGEN_SHARED_DATA", _SHARED_DATA))
    if not directory.is_dir():
        pytest.skip(f"no prepared data at {directory}; set JAXGEN_SHARED_DATA")
    return directory


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, in which the embedded sets are prepared on first use."""
    return tmp_path_factory.mktemp("data")
