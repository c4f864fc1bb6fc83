"""Gates that were taken away: looked for when a pipeline's run begins and when somebody asks for the status.

A gate goes where a module is given another forward, which is mended, or where the module itself is replaced, which is
said.
"""

from __future__ import annotations

import warnings
from itertools import islice
from types import FrameType
from typing import Any

from gearshift.core.errors import GearshiftWarning, WrongModel
from gearshift.core.model import parts
from gearshift.core.record import ATTRIBUTE, Applied, record_of
from gearshift.steps.gate import Gate
from gearshift.steps.loop import callers

NEAR = 8  # callers among which the pipeline that sets its scheduler's timesteps is looked for


def look_after(model: Any) -> None:
    """Put gates of a model back into their places; warn, and note in the status, where the places are gone.

    In both cases the log of the newest run is dropped, as there may have been runs without the gates since.
    """
    record = record_of(model)
    if record is None:
        return
    there = {module for part in parts(model).values() for module in part.modules()}
    whole = vars(model).get(ATTRIBUTE) is record  # else it only shares parts with the one that was optimized
    for applied in record.applied[: record.on]:
        gates = [gate for change in applied.changes if isinstance(gate := getattr(change, "gate", None), Gate)]
        gone = [gate for gate in gates if gate.on and gate.module not in there and whole]
        loose = [gate for gate in gates if gate.on and gate.module in there and not gate.is_reached]
        for gate in loose:
            gate.link()
        if gone or loose:
            record.last_run = None
        if gone:
            _tell(applied, gone)


def pipeline_of(frame: FrameType, scheduler: Any) -> Any:
    """The pipeline among the callers that has this scheduler; None if there is none."""
    for caller in islice(callers(frame), NEAR):
        for name in ("self", "pipe", "pipeline"):
            value = caller.f_locals.get(name)
            if value is not scheduler and getattr(value, "scheduler", None) is scheduler and _has_parts(value):
                return value
    return None


def _has_parts(value: Any) -> bool:
    try:
        return bool(parts(value))
    except WrongModel:
        return False


def _tell(applied: Applied, gone: list[Gate]) -> None:
    kinds = ", ".join(dict.fromkeys(type(gate.module).__name__ for gate in gone))
    sentence = (
        f"{applied.algorithm.name} does nothing at {len(gone)} modules ({kinds}) that were replaced since it was "
        "applied; restore the model and optimize it again."
    )
    if sentence not in applied.notes:
        applied.notes.append(sentence)
        warnings.warn(sentence, GearshiftWarning, stacklevel=2)
