"""Rows of the newer families say what a run shows; diffusers' own list says which denoisers have none."""

from __future__ import annotations

import inspect
import typing
from fnmatch import fnmatchcase
from typing import Any

import diffusers
import pytest
import torch
from support import tiny
from support.each import each
from test_tiny import inventory, record

from gearshift.models.diffusers import ROWS, attention_modules, describe_denoiser, timestep_name
from gearshift.models.newer_rows import NEWER

STEPS = 2
# hidream's pipeline makes 1024 x 1024 of any size; the others' denoisers are shown by a pipeline before them
SHOWN = [
    name
    for name in (*tiny.newer.BUILDERS, *tiny.newer_videos.BUILDERS)
    if name not in ("hidream", "flux2_klein", "cascade_decoder", "kandinsky22", "cosmos2")
]
# diffusers 0.42.1: what `probe` reads off their structure is all that is known of these
WITHOUT = set(
    [
        "AceStepTransformer1DModel",
        "AnyFlowFARTransformer3DModel",
        "AnyFlowTransformer3DModel",
        "BriaFibo2Transformer2DModel",
        "BriaFiboTransformer2DModel",
        "ChronoEditTransformer3DModel",
        "DreamLiteUNetModel",
        "EasyAnimateTransformer3DModel",
        "ErnieImageTransformer2DModel",
        "GlmImageTransformer2DModel",
        "HeliosTransformer3DModel",
        "HunyuanVideoFramepackTransformer3DModel",
        "Ideogram4Transformer2DModel",
        "JoyImageEditPlusTransformer3DModel",
        "JoyImageEditTransformer3DModel",
        "Kandinsky6SRTransformer3DModel",
        "Kandinsky6Transformer3DModel",
        "LongCatAudioDiTTransformer",
        "LongCatImageTransformer2DModel",
        "NucleusMoEImageTransformer2DModel",
        "OmniGenTransformer2DModel",
        "PriorTransformer",
        "QwenImage21Transformer2DModel",
        "SanaWMTransformer3DModel",
        "StableAudio3DiTModel",
        "WanAnimateTransformer3DModel",
        "WanVACETransformer3DModel",
    ]
)


def denoiser_classes() -> set[str]:
    """Names of the denoisers that diffusers' pipelines are made of, old ones left out."""
    names = [name for name in dir(diffusers) if name.endswith("Pipeline") and not name.startswith(("Onnx", "Flax"))]
    pipelines = [cls for name in names if isinstance(cls := getattr(diffusers, name), type)]
    found = [t for cls in pipelines if ".deprecated." not in cls.__module__ for t in component_types(cls)]
    denoising = [t for t in found if timestep_name(t.__new__(t)) and "ControlNet" not in t.__name__]
    return {t.__name__ for t in denoising}


def component_types(pipeline: Any) -> list[type]:
    hints = typing.get_type_hints(pipeline.__init__).values()
    types = [t for hint in hints for t in (hint, *typing.get_args(hint)) if isinstance(t, type)]
    return [t for t in types if issubclass(t, torch.nn.Module) and t.__module__.startswith("diffusers.")]


def test_denoisers_of_diffusers_have_a_row_or_are_known_to_have_none() -> None:
    found = denoiser_classes()
    assert len(found) > 50
    assert found - ROWS.keys() == WITHOUT


def test_every_newer_row_is_shown() -> None:
    assert set(NEWER) <= set(inventory())


@pytest.mark.filterwarnings("ignore")
@each("name", SHOWN)
def test_a_row_is_what_a_run_shows(name: str) -> None:
    built = tiny.build(name)
    net = getattr(built.pipe, built.denoiser)
    row = describe_denoiser(net)
    stacks = [[f"{path}.{n}" for n in range(len(net.get_submodule(path)))] for path in row.blocks]
    order = [block for stack in stacks for block in stack]
    with record({"": net} | {b: net.get_submodule(b) for b in order}) as calls:
        built.run(steps=STEPS)
    passes = [given for called, given, _ in calls if called == ""]
    assert [called for called, _, _ in calls] == [*order, ""] * len(passes)

    per_step, batch = {"batched": (1, 2), "separate": (2, 1)}.get(row.guidance, (1, 1))
    assert (len(passes), len(passes[0][row.sample])) == (per_step * STEPS, batch)
    assert (passes[0].get("guidance") is not None) == (row.guidance == "embedded")
    for n, given in enumerate(passes):
        expected = built.pipe.scheduler.timesteps[n // per_step] * row.timestep_scale + row.timestep_offset
        passed = torch.as_tensor(given[row.timestep]).double().flatten()
        torch.testing.assert_close(passed, expected.double().expand_as(passed), rtol=1e-5, atol=1e-5)

    beside = (*row.keep, *(f"{path}.*" for path in row.refiners))
    there = [n for n, m in net.named_modules() if hasattr(m, "to_q")]
    found = attention_modules(net, row)
    assert {n for n in there if not any(fnmatchcase(n, glob) for glob in beside)} <= set(found)
    assert len(found) == sum(len(attention_modules(net, row, kind)) for kind, _ in row.attention)


def test_arguments_that_the_rows_name_are_there() -> None:
    for cls, row in NEWER.items():
        known = getattr(diffusers, cls, None) or getattr(diffusers.models.unets, cls)
        arguments = inspect.signature(known.forward).parameters
        assert {row.sample, row.timestep, row.text} - {None} <= set(arguments), cls
