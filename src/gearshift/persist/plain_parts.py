"""A part of a model as its own library has it: the tensors that its configuration makes, with the model's values."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gearshift.core.boundary import Misfit
from gearshift.core.errors import told
from gearshift.persist.component import from_config
from gearshift.persist.libraries import library_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

CONFIG = "config.json"


def plain_part(part: Any) -> Module:
    """The module that a part's configuration makes, with the part's values, quantized weights as floats.

    Values that are floats already are shared with the part.

    Raises:
        Misfit: if the part has other tensors than its configuration says.
    """
    made = as_configured(part)
    made.load_state_dict(plain_state(part, made), assign=True)
    if hasattr(made, "tie_weights"):
        made.tie_weights()
    return made


def as_configured(part: Any) -> Any:
    """What a part's configuration makes, parameters without storage.

    Raises:
        Misfit: if there is no such configuration.
    """
    if not hasattr(part, "save_pretrained"):
        raise Misfit(f"{type(part).__name__} has no save_pretrained")
    with TemporaryDirectory() as place:
        try:
            library_of(type(part)).write_config(part, Path(place))
            return from_config(type(part), Path(place))
        except Exception as error:
            raise Misfit(f"its configuration does not make {type(part).__name__} again ({told(error)})") from error


def plain_state(part: Module, made: Module, without: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors of a part by the names that its library knows, quantized weights as floats.

    Args:
        made: what its configuration makes.
        without: names that are left out.

    Raises:
        Misfit: if one is missing or has another shape.
    """
    from gearshift.layers.lazy_weight import real

    state, found = part.state_dict(), {}
    for name, wanted in made.state_dict().items():
        if name in without:
            continue
        if name not in state or state[name].shape != wanted.shape:
            raise Misfit(f"{name} is not what its configuration makes")
        found[name] = real(state[name]).detach()
    return found


def write_quantized(part: Any, state: dict[str, Tensor], told: dict[str, Any], folder: Path) -> None:
    """Write a part of transformers with tensors of another format, and say which in its configuration.

    Args:
        state: all tensors; of names that share one, the first is written.
        told: the `quantization_config`.
    """
    from huggingface_hub import save_torch_state_dict

    library_of(type(part)).write_config(part, folder)
    config = json.loads((folder / CONFIG).read_text())
    dtype = str(part.dtype).removeprefix("torch.")
    (folder / CONFIG).write_text(json.dumps({**config, "dtype": dtype, "quantization_config": told}, indent=2))
    seen: dict[Any, str] = {}
    for name, tensor in state.items():
        seen.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, name)
    own = {name: state[name].contiguous() for name in seen.values()}
    save_torch_state_dict(own, folder, metadata={"format": "pt"})
