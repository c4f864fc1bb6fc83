"""gearshift doctor: this machine, and what runs on it."""

from __future__ import annotations

import argparse

from gearshift.core.algorithm import Algorithm
from gearshift.core.devices import available
from gearshift.core.extras import installed
from gearshift.core.facts import Kind
from gearshift.core.registry import registry

LIBRARIES = {"diffusers": "diffusers", "transformers": "transformers", "accelerate": "diffusers"}
OF_KIND = {Kind.DIFFUSION: "diffusers", Kind.LANGUAGE: "transformers", Kind.SPEECH: "transformers"}


def run(arguments: argparse.Namespace) -> None:
    """Print devices and precisions, then each algorithm with what it lacks here."""
    from gearshift.evaluate.timing import machine_description

    print(machine_description())
    devices = available()
    for device in devices:
        print(f"{device}: computes in {', '.join(precisions(device))}")
    for package, extra in LIBRARIES.items():
        if not installed(package):
            print(f"{package} is not installed: pip install 'gearshift[{extra}]'")
    for cls in registry():
        lacks = lacking(cls, devices)
        print(f"{'runs   ' if not lacks else 'lacking'} {cls.name}{': ' + lacks if lacks else ''}")


def precisions(device: str) -> list[str]:
    """Arithmetic types that this device computes in without going through a wider one."""
    import torch

    if device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found = ["float32", "float16", "int8"]
        found += ["bfloat16"] if major >= 8 else []
        return found + (["float8"] if (major, minor) >= (8, 9) else [])
    if device == "mps":
        return ["float32", "float16"]
    flags = torch.backends.cpu.get_cpu_capability()
    bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() if torch.backends.mkldnn.is_available() else False
    return ["float32", f"int8 ({flags})", *(["bfloat16"] if bf16 else [])]


def lacking(cls: type[Algorithm], devices: list[str]) -> str:
    """What keeps an algorithm from running here, with the line that mends it; empty if nothing does."""
    absent = [p for p in cls.facts.packages if not installed(p)]
    if absent:
        return f"the package {', '.join(absent)}: pip install 'gearshift[{cls.facts.extra}]'"
    libraries = sorted({OF_KIND[kind] for kind in cls.facts.kinds if kind in OF_KIND})
    if cls.facts.kinds <= OF_KIND.keys() and not any(installed(library) for library in libraries):
        return " or ".join(f"the package {name}: pip install 'gearshift[{LIBRARIES[name]}]'" for name in libraries)
    if not set(cls.facts.devices) & set(devices):
        return f"a device of type {' or '.join(cls.facts.devices)}"
    return ""
