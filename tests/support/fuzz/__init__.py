"""Files and arguments, mutated at random: each is read, or refused in a sentence that names it."""

from support.fuzz.runs import KINDS, Outcome, run

__all__ = ["KINDS", "Outcome", "run"]
