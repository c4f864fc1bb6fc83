"""Algorithms for tests of tuning: one is fine, one crashes its process, one never ends, one fails."""

import os
import time

from gearshift.core.algorithm import Algorithm
from gearshift.core.facts import Facts, Family, Stage

FACTS = Facts(family=Family.PRUNER, stage=Stage.PRUNE)


class TestFine(Algorithm):
    """Changes nothing."""

    __test__ = False
    facts = FACTS

    def apply(self, model, context):
        pass


class TestCrashes(Algorithm):
    """Ends the process."""

    __test__ = False
    facts = FACTS

    def apply(self, model, context):
        os.abort()


class TestHangs(Algorithm):
    """Never comes back."""

    __test__ = False
    facts = FACTS

    def apply(self, model, context):
        time.sleep(1000)


class TestFails(Algorithm):
    """Raises."""

    __test__ = False
    facts = FACTS

    def apply(self, model, context):
        raise ValueError("no such luck")


ALL = (TestFine, TestCrashes, TestHangs, TestFails)
