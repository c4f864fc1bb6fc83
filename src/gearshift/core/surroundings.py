"""The process around a verb: random states, paths, loggers, warnings and torch's modes, left as they were found."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

MODES = {"is_grad_enabled": "set_grad_enabled", "get_default_dtype": "set_default_dtype"}
MODES |= {"get_num_threads": "set_num_threads"}
CUDNN = ("benchmark", "deterministic", "enabled")


@contextmanager
def surroundings(seed: int | None = None) -> Iterator[None]:
    """Leave the process as it was found, at the block's end and at an exception.

    Kept are the random states of Python, numpy and torch, sys.path, the environment, the levels of loggers, the
    filters of warnings, and torch's gradient mode, default dtype, threads and precisions.

    Args:
        seed: what all random states start from inside of the block; None: from what they are.
    """
    with ExitStack() as after, warnings.catch_warnings():
        for put_back in (*_random_states(), *_settings(), _loggers()):
            after.callback(put_back)
        if seed is not None:
            _sow(seed)
        yield


@contextmanager
def quiet(logger: str, level: int = logging.ERROR) -> Iterator[None]:
    """A logger at another level for the length of a block."""
    found = logging.getLogger(logger)
    before = found.level
    found.setLevel(level)
    try:
        yield
    finally:
        found.setLevel(before)


def _sow(seed: int) -> None:
    """Start all random states from a seed; CUDA's only where they are kept, so that they come back."""
    import torch

    random.seed(seed)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


def _random_states() -> Iterator[Callable[[], None]]:
    import torch

    yield _setting(random.getstate, random.setstate)
    yield _setting(torch.get_rng_state, torch.set_rng_state)
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        yield _setting(torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all)
    if "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        yield _setting(numpy.random.get_state, numpy.random.set_state)


def _settings() -> Iterator[Callable[[], None]]:
    """Each of the others is set only where it is another one."""
    import torch

    for get, set_ in MODES.items():
        yield _changed(getattr(torch, get), getattr(torch, set_))
    for name in CUDNN:
        yield _changed(partial(getattr, torch.backends.cudnn, name), partial(setattr, torch.backends.cudnn, name))
    yield _changed(_precision, _set_precision)
    yield _changed(lambda: list(sys.path), lambda held: sys.path.__setitem__(slice(None), held))
    yield _changed(lambda: dict(os.environ), _set_environment)


def _precision() -> Any:
    """What float32 products are computed in: one word, or one for each backend where the newer settings are used."""
    import torch

    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return [backend.fp32_precision for backend in _backends()]


def _set_precision(held: Any) -> None:
    import torch

    if isinstance(held, str):
        torch.set_float32_matmul_precision(held)
        return
    for backend, precision in zip(_backends(), held, strict=True):
        backend.fp32_precision = precision


def _backends() -> list[Any]:
    import torch

    found: Any = torch.backends
    return [found.cuda.matmul, found.cudnn.conv, found.cudnn.rnn, found.mkldnn.matmul, found.mkldnn.conv]


def _set_environment(held: dict[str, str]) -> None:
    for name in os.environ.keys() - held.keys():
        del os.environ[name]
    os.environ.update(held)


def _loggers() -> Callable[[], None]:
    """Loggers that were there before get their levels back; those of packages imported since keep their own."""
    found = logging.Logger.manager.loggerDict.values()
    known = {logger: logger.level for logger in found if isinstance(logger, logging.Logger)}
    known[logging.getLogger()] = logging.getLogger().level

    def put_back() -> None:
        for logger, level in known.items():
            if logger.level != level:
                logger.setLevel(level)

    return put_back


def _setting(get: Callable[[], Any], set_: Callable[[Any], Any]) -> Callable[[], None]:
    held = get()
    return lambda: set_(held)


def _changed(get: Callable[[], Any], set_: Callable[[Any], Any]) -> Callable[[], None]:
    held = get()

    def put_back() -> None:
        if get() != held:
            set_(held)

    return put_back
