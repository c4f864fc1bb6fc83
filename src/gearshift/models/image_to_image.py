"""The image-to-image pipeline of a pipeline's kind, around the same components."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from gearshift.core.errors import WrongModel


def image_to_image_class(pipe: Any) -> Any:
    """The image-to-image class of a pipeline's kind; None where diffusers has none."""
    from diffusers.pipelines import auto_pipeline

    mapping = auto_pipeline.AUTO_IMAGE2IMAGE_PIPELINES_MAPPING
    return auto_pipeline._get_task_class(mapping, type(pipe).__name__, throw_error_if_not_exist=False)


def image_to_image(pipe: Any) -> Any:
    """A pipeline that starts from images and shares all components with `pipe`, and its progress bar's settings.

    Raises:
        WrongModel: if diffusers has no such class.
    """
    cls = image_to_image_class(pipe)
    if cls is None:
        name = type(pipe).__name__
        raise WrongModel(f"{name} cannot start from images: diffusers has no image-to-image pipeline of its kind.")
    wanted = inspect.signature(cls.__init__).parameters
    given = {**{k: v for k, v in pipe.config.items() if not isinstance(v, (list, tuple))}, **pipe.components}
    sibling = cls(**{k: v for k, v in given.items() if k in wanted})
    sibling.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    return sibling


def taking(pipe: Any, call: Mapping[str, Any]) -> Any:
    """What to call with these arguments: the pipeline, or its image-to-image sibling for an `image` it does not read.

    Raises:
        WrongModel: if diffusers has no such sibling.
    """
    read = inspect.signature(type(pipe).__call__).parameters
    return image_to_image(pipe) if "image" in call and "image" not in read else pipe
