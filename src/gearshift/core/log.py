"""What gearshift tells through Python's logging, under the name 'gearshift'.

Info: what was applied and decided, and why. Debug: every run and step. What a user should change is a warning
(`GearshiftWarning`) and not a log line.
"""

from __future__ import annotations

import logging

from gearshift.core.errors import BadValue, quoted, suggestion

logger = logging.getLogger("gearshift")
logger.addHandler(logging.NullHandler())
LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}


def set_verbosity(level: str) -> None:
    """Show what gearshift logs, from this level on, on standard error.

    A handler is added only where none would show it yet; programs that set up logging themselves need not call this.

    Args:
        level: 'debug', 'info', 'warning' or 'error'.

    Raises:
        BadValue: for any other level.
    """
    if not isinstance(level, str) or level not in LEVELS:
        raise BadValue(f"A verbosity cannot be {quoted(level)}{suggestion(level, LEVELS)}")
    logger.setLevel(LEVELS[level])
    quiet = all(isinstance(handler, logging.NullHandler) for handler in logger.handlers)
    if quiet and not logging.getLogger().handlers:
        shown = logging.StreamHandler()
        shown.setFormatter(logging.Formatter("gearshift: %(message)s"))
        logger.addHandler(shown)
