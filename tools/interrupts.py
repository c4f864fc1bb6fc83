"""Storms of Ctrl-C while algorithms are applied: afterwards a model has all of it, or is as it was, bit for bit.

    PYTHONPATH=tests python tools/interrupts.py [rounds] [algorithm ...]

It takes minutes; the suite breaks algorithms off at chosen lines instead.
"""

import os
import random
import signal
import sys
import threading
import time
import warnings

from support.interrupting import apart, look
from support.registered import optimized, tiny_for
from support.tiny import build

import gearshift as gs

KEYS = 6  # how often Ctrl-C is pressed in a row


def storm(chance, within, stop):
    """Press Ctrl-C some times in a row, beginning at a random moment."""
    if stop.wait(chance.random() * within):
        return
    for _ in range(KEYS):
        if stop.wait(chance.random() * 0.004):
            return
        os.kill(os.getpid(), signal.SIGINT)


def waited(thread, stop):
    """End a storm, whatever still comes of it."""
    while True:
        try:
            stop.set()
            thread.join()
            time.sleep(0.01)
            return
        except KeyboardInterrupt:
            pass


def broken_off(tiny, cls, thread, stop):
    """Whether a storm kept an algorithm from being applied."""
    try:
        thread.start()
        try:
            optimized(tiny, cls)
        finally:
            stop.set()
    except KeyboardInterrupt:
        return True
    return False


def tried(cls, rounds, chance):
    """How often an algorithm was broken off, and how often the model was not as it was then."""
    name = tiny_for(cls)
    if name is None:
        return None
    optimized(build(name), cls)
    start = time.perf_counter()
    optimized(build(name), cls)
    within, tiny = time.perf_counter() - start, build(name)
    before, broken, wrong = look(tiny.pipe), 0, 0
    for _ in range(rounds):
        stop = threading.Event()
        thread = threading.Thread(target=storm, args=(chance, 1.1 * within, stop))
        try:
            broken += broken_off(tiny, cls, thread, stop)
        except KeyboardInterrupt:  # the last press of a storm, after its end
            broken += 1
        waited(thread, stop)
        applied = bool(gs.status(tiny.pipe).applied)
        wrong += not applied and bool(apart(before, look(tiny.pipe)))
        if applied or wrong:
            tiny = build(name)
            before = look(tiny.pipe)
    return broken, wrong


def main(rounds="20", *names):
    warnings.simplefilter("ignore")
    chance, bad = random.Random(0), 0
    for cls in gs.algorithms().values():
        found = tried(cls, int(rounds), chance) if not names or cls.name in names else None
        if found is not None:
            bad += found[1]
            print(f"{cls.name}: broken off {found[0]} times of {rounds}, not as before {found[1]} times", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
