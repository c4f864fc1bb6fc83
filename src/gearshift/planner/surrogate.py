"""What a schedule does to the final latent, told from one recording without running the model again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gearshift.planner.recording import Recording
from gearshift.steps.predict import Predictor


@dataclass
class Surrogate:
    """The sampler as it was seen: next sample = a sample + b output + c output before.

    An error of the sample comes back through the denoiser as `feedback` times itself in the output. All four are one
    number a step; errors themselves are vectors, so that those of neighboring steps can add up or cancel.

    Attributes:
        outputs: [steps, n], in as few dimensions as keep all lengths and angles among outputs and samples.
        samples: [steps + 1, n].
        x: coordinates [steps].
        a, b, c, feedback: [steps].
        scale: length of the final sample.
    """

    outputs: np.ndarray
    samples: np.ndarray
    x: list[float]
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    feedback: np.ndarray
    scale: float

    @staticmethod
    def of(recording: Recording, feedback: Sequence[float]) -> Surrogate:
        """Read the sampler's numbers off a recording by least squares."""
        outputs, samples = np.stack(recording.outputs), np.stack(recording.samples)
        fits = []
        for p in range(len(outputs)):
            columns = [samples[p], outputs[p]] + ([outputs[p - 1]] if p else [])
            fit = np.linalg.lstsq(np.stack(columns, 1), samples[p + 1], rcond=None)[0]
            fits.append([*fit, *[0.0] * (3 - len(fit))])
        a, b, c = np.array(fits).T
        scale = float(np.linalg.norm(samples[-1]))
        _, triangle = np.linalg.qr(np.concatenate([outputs, samples]).T)
        flat = triangle.T
        outputs, samples = flat[: len(outputs)], flat[len(outputs) :]
        return Surrogate(outputs, samples, list(recording.x), a, b, c, np.asarray(feedback), scale)

    @property
    def steps(self) -> int:
        return len(self.outputs)

    def error(self, computed: Sequence[int], predictor: Predictor) -> float:
        """Relative length of the final sample's error when only these steps are computed."""
        chosen = set(computed)
        sample = np.zeros_like(self.outputs[0])
        before = np.zeros_like(sample)
        kept: list[tuple[int, np.ndarray]] = []
        for p in range(self.steps):
            if p in chosen or not kept:
                output = self.feedback[p] * sample
                kept = [(p, output), *kept][: predictor.depth]
            else:
                weights = predictor.weights([self.x[k] for k, _ in kept], self.x[p])
                output = -self.outputs[p]
                for weight, (k, moved) in zip(weights, kept, strict=False):
                    output = output + weight * (self.outputs[k] + moved)
            sample = self.a[p] * sample + self.b[p] * output + self.c[p] * before
            before = output
        return float(np.linalg.norm(sample)) / max(self.scale, 1e-12)

    def sensitivity(self) -> np.ndarray:
        """How much longer or shorter an error made in each step's output is in the final sample, [steps]."""
        return np.array([self._carried(p + 1, self.b[p], 1.0) for p in range(self.steps)])

    def amplification(self) -> np.ndarray:
        """The same for an error of the sample before each step, and after the last, [steps + 1]."""
        return np.array([self._carried(p, 1.0, 0.0) for p in range(self.steps + 1)])

    def _carried(self, start: int, sample: float, before: float) -> float:
        for p in range(start, self.steps):
            output = self.feedback[p] * sample
            sample, before = self.a[p] * sample + self.b[p] * output + self.c[p] * before, output
        return abs(sample)
