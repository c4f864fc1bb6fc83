"""Many small cases in one test: all are tried, and those that fail are named."""

import functools
import inspect
import os

import pytest
import torch


def each(names, cases):
    """As `pytest.mark.parametrize`, but a loop inside of one test; for quick cases that leave nothing behind.

    Every case starts from the same random numbers. Stacked, every combination is tried.
    """
    names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    cases = [case if len(names) > 1 else (case,) for case in cases]
    assert cases

    def looped(test):
        @functools.wraps(test)
        def loop(**fixtures):
            failed, skipped = [], []
            for case in cases:
                torch.manual_seed(0)
                try:
                    test(**dict(zip(names, case, strict=True)), **fixtures)
                except pytest.skip.Exception as reason:
                    skipped.append(str(reason))
                except (Exception, pytest.fail.Exception) as error:
                    failed.append((case, error))
            if failed:
                told = [f"{named(case)}: {type(error).__name__}: {error}" for case, error in failed]
                raise AssertionError(os.linesep.join([f"{len(failed)} of {len(cases)} cases", *told])) from failed[0][1]
            if len(skipped) == len(cases):
                pytest.skip(skipped[0])

        parameters = inspect.signature(test).parameters.values()
        loop.__signature__ = inspect.Signature([p for p in parameters if p.name not in names])
        del loop.__wrapped__
        return loop

    return looped


def named(case):
    """A case in a line, objects by their names."""
    return ", ".join(str(getattr(value, "__name__", None) or getattr(value, "name", None) or value) for value in case)
