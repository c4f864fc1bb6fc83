"""Which devices this machine has."""

from __future__ import annotations

from gearshift.core.errors import BadValue, quoted, told


def available() -> list[str]:
    """Device types that torch can use here."""
    import torch

    found = ["cpu"]
    if torch.cuda.is_available():
        found.append("cuda")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def absent(device: object) -> str | None:
    """Why a device cannot be used here, as a sentence; None if it can."""
    import torch

    ask = f"device must be one of this machine's: {', '.join(available())}."
    try:
        torch.empty(0, device=device if isinstance(device, torch.device) else str(device))
    except Exception as error:  # torch raises whatever its backend does
        why = told(error).partition(":")[0].partition(".")[0]
        return f"{ask} Got {quoted(device)} instead ({why})."
    return f"{ask} Got 'meta' instead, which holds no values." if str(device) == "meta" else None


def refuse_absent(device: object) -> None:
    """Check a device before anything is put on it; None is where things are.

    Raises:
        BadValue: if this machine does not have it.
    """
    why = None if device is None else absent(device)
    if why:
        raise BadValue(why)
