"""Which floating types this machine's CPU multiplies by itself."""

from __future__ import annotations

import torch

INSTRUCTIONS = {  # torch's questions about them
    torch.bfloat16: ("_is_avx512_bf16_supported", "_is_amx_tile_supported"),
    torch.float16: ("_is_amx_fp16_supported",),
}
NATIVE = {dtype for dtype, names in INSTRUCTIONS.items() if any(getattr(torch.cpu, name, bool)() for name in names)}


def has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU multiplies a floating type by itself, and not by way of float32."""
    return dtype.itemsize >= 4 or dtype in NATIVE
