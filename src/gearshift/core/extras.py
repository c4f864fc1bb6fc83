"""Optional packages: imported where they are used; a missing one becomes one line naming the pip extra."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from gearshift.core.errors import MissingExtra, told


def need(package: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Raises:
        MissingExtra: with the line that installs it, or with why an installed one does not import.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] == package.partition(".")[0]:
            raise MissingExtra(missing(package, extra, what)) from None
        raise MissingExtra(f"{what} needs {package}, which is installed but lacks {error.name}.") from error
    except Exception as error:
        raise MissingExtra(f"{what} needs {package}, which is installed but does not import: {told(error)}") from error


def installed(package: str) -> bool:
    """Whether a package can be found, without importing it."""
    return find_spec(package.partition(".")[0]) is not None


def missing(package: str, extra: str, what: str) -> str:
    """The sentence about a package that is not there."""
    return (
        f"{what} needs the package {package}, which is not installed. Install it with: pip install 'gearshift[{extra}]'"
    )
