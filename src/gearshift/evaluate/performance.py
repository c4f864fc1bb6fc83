"""How fast a model was over an evaluation, and what its calls took."""

from __future__ import annotations

from dataclasses import dataclass, field

from gearshift.evaluate.energy import Meter
from gearshift.evaluate.examples import Example
from gearshift.evaluate.subjects import Answer, Subject


@dataclass
class Performance:
    """One model's calls.

    Attributes:
        example: the first one, for what is measured by a call of its own.
        first: seconds of the very first call, with compiling and whatever else comes once.
        answers: of the later calls: seconds and counts only.
        items: images, texts or recordings in each.
        joules: of each later call; empty where the machine does not tell.
    """

    subject: Subject
    example: Example
    first: float = 0.0
    answers: list[Answer] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        return [a.seconds for a in self.answers]

    def call(self, example: Example, meter: Meter) -> Answer:
        """Call the model once more, and take down what that took."""
        meter.start()
        answer = self.subject.answer(example)
        joules = meter.stop()
        self.answers.append(
            Answer(answer.seconds, new_tokens=answer.new_tokens, first_token=answer.first_token, sound=answer.sound)
        )
        self.items.append(len(example.names))
        self.joules += [] if joules is None else [joules]
        return answer
