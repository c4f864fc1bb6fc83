"""The tiny pipelines run, and what the table says of their denoisers is what a run shows."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pytest
import torch
from support import tiny
from support.each import each

from gearshift.models.diffusers import (
    ROWS,
    attention_modules,
    deep_feature_paths,
    denoisers,
    describe_denoiser,
    probe,
    row_for,
)

STEPS = 3
Call = tuple[str, dict[Any, Any], Any]
every = pytest.mark.parametrize("name", tiny.names())


@contextmanager
def record(modules: dict[str, torch.nn.Module]) -> Iterator[list[Call]]:
    """Every call of these modules: name, arguments by name, output."""
    calls: list[Call] = []

    def hook(name: str, module: torch.nn.Module) -> Any:
        signature = inspect.signature(type(module).forward)

        def note(_: torch.nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append((name, signature.bind(module, *args, **kwargs).arguments, output))

        return note

    handles = [m.register_forward_hook(hook(name, m), with_kwargs=True) for name, m in modules.items()]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def calls_of_denoisers(built: tiny.Tiny, **run: Any) -> list[Call]:
    with record(denoisers(built.pipe)) as calls:
        built.run(steps=STEPS, **run)
    return calls


def denoiser(built: tiny.Tiny) -> Any:
    return getattr(built.pipe, built.denoiser)


@every
def test_run_is_finite_and_repeats(name: str) -> None:
    built = tiny.build(name)
    first = built.run()
    assert first.isfinite().all() and first.std() > 0.05
    assert torch.equal(first, built.run())
    short = built.run(steps=STEPS, batch=2)
    assert torch.equal(short, tiny.build(name).run(steps=STEPS, batch=2))
    assert not torch.equal(short, built.run(steps=STEPS, batch=2, seed=1))
    assert not torch.equal(short, tiny.build(name, seed=1).run(steps=STEPS, batch=2))


@every
def test_guidance_changes_the_result(name: str) -> None:
    built = tiny.build(name)
    assert not torch.allclose(built.run(steps=STEPS), built.run(steps=STEPS, guidance=1.0), atol=1e-3)


@every
def test_output_depends_on_sample_text_and_time(name: str) -> None:
    built = tiny.build(name)
    net = denoiser(built)
    row = describe_denoiser(net)
    _, given, _ = calls_of_denoisers(built)[1 if row.guidance != "separate" else 2]
    given = {k: v for k, v in given.items() if k != "self"}

    def output(changed: dict[Any, Any]) -> torch.Tensor:
        out = net(**(given | changed))
        out = out[0] if isinstance(out, tuple) else out.sample
        return torch.stack(out) if isinstance(out, list) else out

    base = output({})
    for argument in (row.sample, row.timestep, row.text):
        value = given[argument]
        other = [v.flip(-1) for v in value] if isinstance(value, list) else _other(value)
        assert (output({argument: other}) - base).norm() > 0.01 * base.norm(), argument


def _other(value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value // 2
    if value.ndim > 1:
        return value.flip(-1)
    return value / 2 if value.max() > 1 else 1 - value


@every
def test_paths_resolve(name: str) -> None:
    net = denoiser(tiny.build(name))
    row = describe_denoiser(net)
    assert row.blocks
    for path in row.blocks + row.refiners:
        assert len({type(block) for block in net.get_submodule(path)}) == 1
    attention = attention_modules(net, row)
    refiners = tuple(f"{path}." for path in row.refiners)
    assert set(attention) == {
        n for n, m in net.named_modules() if hasattr(m, "to_q") and not n.startswith(refiners or "-")
    }
    assert len(attention) == sum(len(attention_modules(net, row, kind)) for kind, _ in row.attention)


@cache
def inventory() -> dict[str, tuple[set[str], list[str]]]:
    """Of each denoiser class: names of modules in any tiny pipeline, and the arguments of its forward."""
    found: dict[str, tuple[set[str], list[str]]] = {}
    for name in (*tiny.names(), *tiny.newer.BUILDERS, *tiny.newer_videos.BUILDERS):
        net = denoiser(tiny.build(name))
        names, _ = found.setdefault(type(net).__name__, (set(), list(inspect.signature(net.forward).parameters)))
        names.update(n for n, _ in net.named_modules())
    return found


@each("cls", ROWS)
def test_every_pattern_of_a_row_matches_something(cls: str) -> None:
    names, arguments = inventory()[cls]
    row = ROWS[cls]
    for pattern in (*row.blocks, *row.refiners, *row.keep, *(p for _, globs in row.attention for p in globs)):
        assert any(fnmatchcase(n, pattern) for n in names), pattern
    for argument in (row.sample, row.timestep, row.text):
        assert argument in arguments or argument is None


@every
def test_blocks_run_once_per_call_in_order(name: str) -> None:
    built = tiny.build(name)
    net = denoiser(built)
    row = describe_denoiser(net)
    stacks = [[f"{path}.{n}" for n in range(len(net.get_submodule(path)))] for path in row.blocks]
    order = [b for stack in (zip(*stacks, strict=True) if row.interleaved else stacks) for b in stack]
    assert len(order) >= 2
    with record({"": net} | {b: net.get_submodule(b) for b in order}) as calls:
        built.run(steps=STEPS)
    times = sum(called == "" for called, _, _ in calls)
    assert times >= 1
    assert [called for called, _, _ in calls] == [*order, ""] * times


@every
def test_guidance_is_as_the_row_says(name: str) -> None:
    built = tiny.build(name)
    row = describe_denoiser(denoiser(built))
    calls = calls_of_denoisers(built, batch=2)
    batch = len(calls[0][1][row.sample])
    per_step = len(calls) / STEPS
    assert (per_step, batch) == {"batched": (1, 4), "separate": (2, 2), "embedded": (1, 2)}[row.guidance]
    if row.guidance == "embedded":
        assert calls[0][1]["guidance"] is not None


@each("name", [n for n in tiny.names() if n not in ("dit", "flux", "hunyuanvideo")])
def test_conditional_comes_where_the_row_says(name: str) -> None:
    built = tiny.build(name)
    row = describe_denoiser(denoiser(built))
    negative = tiny.BUILDERS[name]().call(1)["negative_prompt_embeds"]
    other = [2 * n for n in negative] if isinstance(negative, list) else 2 * negative

    def texts(**run: Any) -> list[torch.Tensor]:
        calls = calls_of_denoisers(built, **run)[: 2 if row.guidance == "separate" else 1]
        return [text for _, given, _ in calls for text in given[row.text]]

    same = [torch.equal(a, b) for a, b in zip(texts(), texts(negative_prompt_embeds=other), strict=True)]
    assert len(same) >= 2
    half = len(same) // 2
    assert same == [row.cond_first] * half + [not row.cond_first] * half


@every
def test_timestep_is_as_the_row_says(name: str) -> None:
    built = tiny.build(name)
    row = describe_denoiser(denoiser(built))
    calls = calls_of_denoisers(built)
    per_step = len(calls) // STEPS
    for n, (_, given, _) in enumerate(calls):
        expected = built.pipe.scheduler.timesteps[n // per_step] * row.timestep_scale + row.timestep_offset
        passed = given[row.timestep].double().flatten()
        torch.testing.assert_close(passed, expected.double().expand_as(passed), rtol=1e-5, atol=1e-5)


@every
def test_probe_agrees_with_the_row(name: str) -> None:
    net = denoiser(tiny.build(name))
    row, guess = describe_denoiser(net), probe(net)
    for field in ("blocks", "sample", "timestep", "unet"):
        assert getattr(guess, field) == getattr(row, field)
    assert set(attention_modules(net, row)) <= set(attention_modules(net, guess))
    assert all(any(fnmatchcase(n, k) for k in guess.keep) for n, _ in net.named_modules() if n.startswith("proj_out"))


@pytest.mark.parametrize("name", ["sd", "sdxl"])
def test_deep_features_are_all_but_the_outermost_blocks(name: str) -> None:
    built = tiny.build(name)
    net = denoiser(built)
    deep = deep_feature_paths(net)
    outer = ("conv_in", "down_blocks.0", f"up_blocks.{len(net.up_blocks) - 1}")
    with record({n: net.get_submodule(n) for n in (*outer, *deep)}) as calls:
        built.run(steps=1)
    halving, *rest = deep  # the first block's downsampler runs, and is heard, inside of it
    assert [called for called, _, _ in calls] == [outer[0], halving, outer[1], *rest, outer[2]]
    found = {called: (given, output) for called, given, output in calls}
    last = found[outer[2]][0]
    assert last["hidden_states"] is found[deep[-1]][1]
    skips = (found["conv_in"][1], *found["down_blocks.0"][1][1])
    assert all(any(r is s for s in skips) for r in last["res_hidden_states_tuple"])


def test_denoisers_of_pipelines_and_modules() -> None:
    built = tiny.build("wan22")
    assert list(denoisers(built.pipe)) == ["transformer", "transformer_2"]
    assert denoisers(built.pipe.transformer) == {"": built.pipe.transformer}
    assert list(denoisers(tiny.build("sd").pipe)) == ["unet"]
    assert denoisers(torch.nn.Linear(2, 2)) == {} and denoisers(object()) == {}


def test_a_subclass_has_its_parents_row() -> None:
    net = denoiser(tiny.build("flux"))
    net.__class__ = type("MyFlux", (type(net),), {})
    assert row_for(net) is ROWS["FluxTransformer2DModel"]
    assert row_for(torch.nn.Linear(2, 2)) is None


def test_sanas_config_scales_the_timestep() -> None:
    built = tiny.build("sana")
    denoiser(built).register_to_config(timestep_scale=0.001)
    assert describe_denoiser(denoiser(built)).timestep_scale == 0.001
    _, given, _ = calls_of_denoisers(built)[0]
    assert float(given["timestep"][0]) == pytest.approx(float(built.pipe.scheduler.timesteps[0]) * 0.001)


def test_the_table_imports_neither_torch_nor_diffusers() -> None:
    code = "import sys, gearshift.models.diffusers; sys.exit(bool({'torch', 'diffusers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
