"""The metrics that there are; importing this registers them."""

from gearshift.evaluate.measures import cost, images, language, speech

__all__ = ["cost", "images", "language", "speech"]
