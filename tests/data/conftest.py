"""Data sets prepared once for all tests of this directory."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory that embedded sets are prepared in."""
    return tmp_path_factory.mktemp("data")
