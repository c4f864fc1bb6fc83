"""One change of a model that can be taken off and put on again."""

from __future__ import annotations

from typing import ClassVar


class Change:
    """Base of every change; one that does nothing by itself stands for what was done to a model otherwise.

    Attributes:
        gives_back: `revert` leaves weights from which it can be applied again, also where they are not bit for bit the
            original's.
    """

    gives_back: ClassVar[bool] = False

    def apply(self) -> None:
        """Put it on."""

    def revert(self) -> None:
        """Take it off, leaving the original bit for bit unless there is a reason why that cannot be."""

    def irreversible_reason(self) -> str | None:
        """Why the original cannot be brought back bit for bit; None if it can."""
        return None
