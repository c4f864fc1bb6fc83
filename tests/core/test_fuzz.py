"""A few seconds of mutated files and arguments: each is read, or refused in a sentence that names it."""

import pytest
from support.fuzz import KINDS, run

CASES = 4000  # of each kind, as many as fit into its time; the same ones everywhere
SECONDS = {"manifest": 6, "plan": 2, "recipe": 2, "checkpoint": 4, "arguments": 4}


@pytest.mark.parametrize("kind", KINDS)
def test_no_raw_error_comes_through(kind, capfd):
    outcome = run(kind, seed=1, seconds=SECONDS[kind], numbers=iter(range(CASES)))
    assert not outcome.raw, "\n".join(f"{number}: {error}" for number, error in outcome.raw.values())
    assert outcome.counts["refused"] and outcome.counts["read"]
