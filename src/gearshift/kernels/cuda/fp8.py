"""Products of 8-bit floats on CUDA, from compute capability 8.9 on, through torch._scaled_mm."""

from __future__ import annotations

import torch

from gearshift.quant.formats.float8 import rounded

MULTIPLE = 16  # of both sizes of a weight that torch._scaled_mm takes on CUDA
ADA = (8, 9)  # the first compute capability that multiplies 8-bit floats


def unsupported(values: torch.Tensor) -> str | None:
    """Why the device of a weight [out, in] does not multiply it in 8-bit floating point, in words; None if it does."""
    if values.shape[0] % MULTIPLE or values.shape[1] % MULTIPLE:
        return f"it takes multiples of {MULTIPLE} inputs and outputs"
    return None if multiplies(values.device) else "it needs CUDA compute capability 8.9 or higher"


@torch.compiler.assume_constant_result
def multiplies(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit floats."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= ADA


def scaled_product(rows: torch.Tensor, values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """rows @ weight.T, each row rounded to e4m3fn with a scale of its own; accumulated in float32.

    CUDA answers products with a scale for each row in bfloat16 and in nothing else. A CPU does the same arithmetic, not
    faster than in float32; tests run it there.
    """
    codes, steps = rounded(rows, torch.float8_e4m3fn)
    answer = torch.bfloat16 if rows.is_cuda else torch.float32
    y = torch._scaled_mm(codes, values.t(), steps, scale[None], out_dtype=answer, use_fast_accum=rows.is_cuda)
    return y.to(rows.dtype)
