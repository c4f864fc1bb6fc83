"""Made-up timings, for what follows from a measurement whatever machine the tests run on."""

from gearshift.measure.in_place import Seconds, Timed
from gearshift.precision.levels import Precision


def gears(int4, int8):
    """Seconds of a float32 model's steps in each gear, where one in the high gear takes one."""
    times = {Precision.INT4: int4, Precision.INT8: int8, Precision.FP32: 1.0}
    return {precision: Seconds(1.0, now, 0.0) for precision, now in times.items()}


def as_if(layers, whole=None):
    """An `in_turns` that finds the new layers so many times as fast, and calls as a whole as `whole` says.

    Args:
        layers: a number, or a function that gives one for the layer that stands there.
    """

    def in_turns(call, pairs, budget=0.0):
        speeds = {pair.kind: layers(pair.before) if callable(layers) else layers for pair in pairs}
        kinds = {kind: Seconds(1.0, 1 / speed, 0.0) for kind, speed in speeds.items()}
        now = sum(seconds.now for seconds in kinds.values())
        return Timed(kinds, Seconds(float(len(kinds)), now, 0.0), Seconds(1.0, 1 / (whole or len(kinds) / now), 0.0))

    return in_turns
