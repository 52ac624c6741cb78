"""Runnable experiments: `python -m experiments.NAME`."""

import sys

if sys.argv[:1] == [
    "-m"
]:  # Python is starting `python -m experiments.NAME`, and has seconds of imports before it
    from jaxgen.signals import exit_at_once

    exit_at_once()
