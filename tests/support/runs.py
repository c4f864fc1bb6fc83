"""What tests ask of a run, and how they break one off."""

import gearshift as gs
from gearshift.steps.decision import Action


def filled(pipe):
    """Steps that the newest run filled in, over all its logs."""
    return [step for log in gs.status(pipe).last_run.values() for step in log.steps(Action.REUSE)]


class Stop(Exception):
    """Raised by a callback to interrupt a run."""
