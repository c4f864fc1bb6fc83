"""Loading a small local folder needs neither progress bars nor the libraries' remarks about what is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Errors only, and no bars, from diffusers and transformers; both are as they were when the block is left."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    with ExitStack() as restored:
        for logging in (of_diffusers, of_transformers):
            _silence(logging, restored)
        yield


def _silence(logging: ModuleType, restored: ExitStack) -> None:
    restored.callback(logging.set_verbosity, logging.get_verbosity())
    logging.set_verbosity_error()
    if getattr(logging, "is_progress_bar_enabled", lambda: True)():
        restored.callback(logging.enable_progress_bar)
        logging.disable_progress_bar()
