"""Shared by all tests: one thread, so that equal inputs give equal bits, and quiet libraries."""

import os

import pytest
import torch

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_leftover_run():
    """Every test starts and ends without an open sampling run."""
    from gearshift.steps import run

    token = run._current.set(None)
    yield
    run._current.reset(token)
