"""Reading GGUF files, llama.cpp's format: blocks of 32 inputs with a scale, and an offset in some.

The file is read, and whatever is to be float is widened, by the `gguf` package and transformers. Blocks that gearshift
has a format for keep their codes: nothing is rounded again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gearshift.core.boundary import reading
from gearshift.core.errors import BrokenFolder
from gearshift.core.extras import need
from gearshift.core.target import put
from gearshift.layers.grouped import GroupedLinear
from gearshift.models.gguf_blocks import BLOCK, FORMATS
from gearshift.quant.formats.grouped import Grouped, assemble, dequantize

NEAR = 1e-5  # relative distance of a layer that was taken over from what the file says: an offset is stored as a zero


def read_gguf(file: Path) -> tuple[Any, dict[str, GroupedLinear], Any]:
    """A causal language model from a GGUF file, its layers that keep the file's codes by path, and its tokenizer.

    Tied weights, and layers in formats that are not Q4_0, Q4_1, Q5_0 or Q8_0, are float32.

    Raises:
        BrokenFolder: for a file that is no such model, naming it.
    """
    model, tokenizer = float_model(file, torch.float32)
    gguf = need("gguf", "gguf", "Reading a GGUF file")
    with reading(file, "a language model in GGUF"):
        tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(str(file)).tensors}
    return model, _taken_over(model, tensors, _names(gguf, model)), tokenizer


def float_model(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The model of a GGUF file in a floating type, in evaluation mode, and its tokenizer.

    Raises:
        BrokenFolder: for a file that is no such model, naming it.
    """
    need("gguf", "gguf", "Reading a GGUF file")
    transformers = need("transformers", "transformers", "Reading a language model")
    place = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with reading(file, "a language model in GGUF"), _silent(transformers.utils.logging):
        model = transformers.AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=dtype, **place).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(file.parent), **place)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config  # its weights are floats now
        model.config._name_or_path = ""
        missing = [name for name, p in model.named_parameters() if p.is_meta or not bool(p.isfinite().all())]
        if missing:
            raise BrokenFolder(f"{file} has no finite values for {missing[0]}.")
    return model, tokenizer


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Without transformers' bars; the one of its GGUF reader is tqdm's own and heeds no setting."""
    from transformers import modeling_gguf_pytorch_utils as reader

    shown, bar = logging.is_progress_bar_enabled(), reader.tqdm
    logging.disable_progress_bar()
    reader.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        reader.tqdm = bar
        if shown:
            logging.enable_progress_bar()


def _names(gguf: Any, model: Any) -> Callable[[str], str | None]:
    """The name in the file of a layer's weight."""
    kind = model.config.model_type
    arch = next((number for number, name in gguf.MODEL_ARCH_NAMES.items() if name == kind), None)
    if arch is None:
        return lambda path: None
    table = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    return lambda path: table.get_name(f"{path}.weight", try_suffixes=(".weight",))


def _taken_over(model: Any, tensors: dict[str, Any], name_of: Callable[[str], str | None]) -> dict[str, GroupedLinear]:
    """Put layers that have the file's own codes in the places of float ones, where both say the same."""
    tied = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    found: dict[str, GroupedLinear] = {}
    for path, layer in list(model.named_modules()):
        tensor = tensors.get(name_of(path) or "") if type(layer) is nn.Linear else None
        if tensor is None or id(layer.weight) in tied or tensor.tensor_type.name not in FORMATS:
            continue
        bits, split = FORMATS[tensor.tensor_type.name]
        codes, scale, zero = (torch.from_numpy(np.ascontiguousarray(part)) for part in split(tensor.data))
        grouped = _in_order(layer, assemble(codes, scale, zero, bits, BLOCK), model.config)
        if grouped is not None:
            found[path] = GroupedLinear.of(layer, grouped).eval()
            put(model, path, found[path])
    return found


def _in_order(layer: nn.Linear, grouped: Grouped, config: Any) -> Grouped | None:
    """The rows as transformers has them: llama.cpp interleaves the two halves of every rotated head."""
    exact, out = layer.weight.detach(), layer.out_features
    orders = [torch.arange(out)]
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if out % head == 0:
        orders.append(torch.arange(out).view(-1, head // 2, 2).transpose(1, 2).reshape(-1))
    for order in orders:
        turned = grouped._replace(codes=grouped.codes[order], scale=grouped.scale[order], zero=grouped.zero[order])
        if float((dequantize(turned) - exact).norm()) <= NEAR * float(exact.norm()):
            return turned
    return None
