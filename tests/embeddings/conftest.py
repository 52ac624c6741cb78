"""Queries are compiled for many shapes, each of which is used a few times."""

import pytest


@pytest.fixture(autouse=True)
def quickly(compiled_quickly):
    yield
