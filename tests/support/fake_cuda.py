"""A CUDA device that is not there: tensors without values on 'cuda:0', on which mixing devices is an error.

FakeTensors of torch carry shape, type and device alone. What makes the host wait for the device (reading a value,
copying to or from it) is counted with the place in the library that asked.
"""

import ctypes
import subprocess
import tempfile
import traceback
from collections import Counter
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

import gearshift

ROOT = str(Path(gearshift.__file__).parent)
DEVICE = torch.device("cuda:0")
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
static c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> guard;
extern "C" void set_guard() { c10::impl::device_guard_impl_registry[(int)c10::DeviceType::CUDA].store(&guard); }
"""
READS = {
    "item": lambda t: 1.0,
    "__float__": lambda t: 1.0,
    "__int__": lambda t: 1,
    "__index__": lambda t: 1,
    "__bool__": lambda t: True,
    "equal": lambda t: True,
    "tolist": lambda t: torch.ones(t.shape).tolist(),
    "cpu": lambda t: torch.ones(t.shape, dtype=t.dtype),
    "numpy": lambda t: torch.ones(t.shape).numpy(),
    "nonzero": lambda t: torch.empty(0, t.ndim, dtype=torch.long, device=t.device),
}


@cache
def guarded(compiler: str) -> None:
    """Tell torch that switching to a CUDA device does nothing; a build without CUDA has no way to do it."""
    from torch.utils.cpp_extension import include_paths, library_paths

    folder = Path(tempfile.mkdtemp())
    (folder / "guard.cpp").write_text(GUARD)
    places = [f"-I{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
    flags = ["-shared", "-fPIC", "-std=c++20", "-o", str(folder / "guard.so")]
    subprocess.run([compiler, *flags, str(folder / "guard.cpp"), *places, "-lc10"], check=True, capture_output=True)
    ctypes.CDLL(str(folder / "guard.so")).set_guard()


def faked(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like this one on the device; inside of a FakeTensorMode."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


def moved(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Move a module's parameters and buffers to the device; what is shared stays shared."""
    seen: dict[int, torch.Tensor] = {}
    with mode:
        for inner in module.modules():
            for held, make in ((inner._parameters, _parameter), (inner._buffers, faked)):
                for name, tensor in list(held.items()):
                    if tensor is not None:
                        held[name] = seen.setdefault(id(tensor), make(tensor))
    return module


def inputs(values, mode: FakeTensorMode, dtype: torch.dtype):
    """Arguments with their tensors on the device, those in 16 bits in the model's own type."""

    def there(value):
        if not isinstance(value, torch.Tensor):
            return value
        return faked(value).to(dtype) if value.is_floating_point() and value.element_size() == 2 else faked(value)

    with mode:
        return tree_map(there, values)


class Waits(TorchFunctionMode):
    """Counts what makes the host wait, by what was asked for and where; answers with ones."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name, kwargs = getattr(function, "__name__", ""), kwargs or {}
        tensor = next((a for a in args if isinstance(a, torch.Tensor)), None)
        if tensor is not None and tensor.device.type == "cuda" and name in READS:
            self.found[f"{name} at {_asker()}"] += 1
            return READS[name](tensor)
        made = function(*args, **kwargs)
        if name in ("to", "copy_") and tensor is not None and isinstance(made, torch.Tensor):
            ends = {tensor.device.type, made.device.type, *(a.device.type for a in args if isinstance(a, torch.Tensor))}
            if len(ends) > 1:
                self.found[f"{name} at {_asker()}"] += 1
        return made


def _parameter(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(faked(tensor), requires_grad=False)


def _asker() -> str:
    inside = [f for f in traceback.extract_stack() if f.filename.startswith(ROOT)]
    frame = inside[-1] if inside else traceback.extract_stack()[-3]
    return f"{frame.filename.removeprefix(ROOT)}:{frame.lineno}"
