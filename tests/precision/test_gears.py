"""Gears in real pipelines: what each step is computed in, and that everything comes back."""

import copy
import itertools
import warnings

import numpy as np
import pytest
import torch
from support.runs import Stop
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, CannotRestore, GearshiftWarning
from gearshift.planner.gear_rehearsal import assign
from gearshift.precision import Precision, PrecisionCapabilities, PrecisionProfile, PrecisionZone, quick_schedule
from gearshift.precision.gear_timing import time_gears
from gearshift.precision.gears import Geared, Mix, geared
from gearshift.steps.gate import gate_of


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        yield


def gears(pipe):
    return [d.precision for d in gs.status(pipe).last_run["adaptive_precision"]]


@pytest.mark.parametrize("name", ["sd", "dit", "flux", "wan", "cogvideox", "zimage"])
def test_each_step_runs_in_the_gear_of_the_schedule(tinies, name):
    tiny, plain = tinies(name, 10)
    gs.optimize(tiny.pipe, "adaptive_precision")
    output = tiny.run(steps=10)
    log = gs.status(tiny.pipe).last_run["adaptive_precision"]
    wanted = [min(p, Precision.FP32) for p in quick_schedule("balanced", 10).precisions]
    assert [d.precision for d in log if d.branch == 0] == [{"FP16": "FP32"}.get(p.name, p.name) for p in wanted]
    assert output.isfinite().all() and not torch.equal(output, plain)
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(steps=10), plain)
    assert torch.equal(tiny.run(steps=10), output)
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=10), plain)
    module = getattr(tiny.pipe, tiny.denoiser)
    assert not any(n.startswith("gear_") for m in module.modules() for n in m._buffers)


def test_an_own_profile_is_followed_saved_and_checked(tinies, tmp_path):
    zones = [PrecisionZone(0.0, 0.5, "fp16"), PrecisionZone(0.5, 1.0, "int8")]
    tiny, _ = tinies("dit", 10)
    gs.optimize(tiny.pipe, adaptive_precision={"profile": PrecisionProfile("mine", zones=zones)})
    output = tiny.run(steps=10)
    wanted = [Precision.FP32] * 5 + [Precision.INT8] * 5
    assert [d.precision for d in gs.status(tiny.pipe).last_run["adaptive_precision"] if d.branch == 0] == [
        p.name for p in wanted
    ]
    gs.save(tiny.pipe, tmp_path / "own")
    assert torch.equal(tiny.run(steps=10, pipe=gs.load(tmp_path / "own")), output)
    with pytest.raises(BadRecipe, match="has a gap"):
        gs.optimize(build("dit").pipe, adaptive_precision={"profile": PrecisionProfile("half", zones=zones[:1])})


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_the_state_dict_is_as_before(tinies, name):
    tiny, _ = tinies(name)
    module = getattr(tiny.pipe, tiny.denoiser)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    gs.optimize(tiny.pipe, "adaptive_precision")
    after = module.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[k], before[k]) for k in before)
    gs.restore(tiny.pipe)


def test_the_high_gear_is_the_original_bit_for_bit_and_close_with_the_store_alone(tinies):
    tiny, plain = tinies("dit", 10)
    one_step = {"steps": 10, "seed": 3}
    plain = tiny.run(**one_step)
    twin = build("dit")
    gs.optimize(twin.pipe, "adaptive_precision(profile='conservative', store='nested')")
    box = gate_of(twin.pipe.transformer).gears
    box.schedules["10"] = quick_schedule("conservative", 10).__class__("high", (Precision.FP32,) * 10)
    off = (twin.run(**one_step) - plain).norm() / plain.norm()
    assert 0 < off < 1e-3
    gs.optimize(tiny.pipe, "adaptive_precision")
    gate_of(tiny.pipe.transformer).gears.schedules["10"] = box.schedules["10"]
    assert torch.equal(tiny.run(**one_step), plain)
    gs.restore(tiny.pipe)


def test_the_store_alone_frees_the_original_and_saves_what_it_stands_for(tmp_path):
    tiny = build("dit")
    layer = tiny.pipe.transformer.transformer_blocks[0].attn1.to_q
    original, dtype = layer.weight.detach().clone(), layer.weight.dtype
    gs.optimize(tiny.pipe, "adaptive_precision(store='nested')")
    assert "weight" not in layer._parameters and layer.weight.dtype == dtype
    torch.testing.assert_close(layer.state_dict()["weight"], original, rtol=0, atol=1e-3)
    output = tiny.run(steps=8)
    assert torch.equal(tiny.run(steps=8, pipe=copy.deepcopy(tiny.pipe)), output)
    with pytest.raises(CannotRestore, match="store='nested'"):
        gs.restore(tiny.pipe)
    gs.save(tiny.pipe, tmp_path / "folder")
    assert torch.equal(tiny.run(steps=8, pipe=gs.load(tmp_path / "folder")), output)


def test_a_weight_that_is_loaded_afterwards_counts(tinies):
    tiny, _ = tinies("dit", 8)
    module = tiny.pipe.transformer
    before = {k: v.clone() for k, v in module.state_dict().items()}
    gs.optimize(tiny.pipe, "adaptive_precision")
    output = tiny.run(steps=8)
    module.load_state_dict({k: v * 1.5 if k.endswith("to_v.weight") else v for k, v in before.items()})
    changed = tiny.run(steps=8)
    gs.restore(tiny.pipe)
    gs.optimize(tiny.pipe, "adaptive_precision")
    assert torch.equal(tiny.run(steps=8), changed) and not torch.equal(changed, output)
    module.load_state_dict(before)
    gs.restore(tiny.pipe)


def test_a_broken_off_run_leaves_the_next_one_exact(tinies):
    tiny, _ = tinies("sd", 10)

    def stop(pipe, step, timestep, kwargs):
        if step == 2:
            raise Stop
        return kwargs

    gs.optimize(tiny.pipe, "adaptive_precision")
    undisturbed = tiny.run(steps=10)
    with pytest.raises(Stop):
        tiny.run(steps=10, callback_on_step_end=stop)
    assert torch.equal(tiny.run(steps=10), undisturbed)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("other", ["taylor(order=1)", "fora", "flux_caching", "qkv_diffusers", "deepcache", "pab"])
def test_together_with(tinies, other):
    tiny, plain = tinies("dit" if other == "fora" else "sd", 12)  # a U-Net has no blocks for fora
    gs.optimize(tiny.pipe, f"adaptive_precision, {other}")
    assert tiny.run(steps=12).isfinite().all() and set(gears(tiny.pipe)) == {"INT4", "INT8", "FP32"}
    gs.restore(tiny.pipe)
    assert torch.equal(tiny.run(steps=12), plain)


def test_a_copy_has_planes_and_gates_of_its_own(tinies):
    tiny, _ = tinies("dit", 8)
    gs.optimize(tiny.pipe, "adaptive_precision")
    output = tiny.run(steps=8)
    twin = copy.deepcopy(tiny.pipe)
    inside = [m for m in twin.transformer.modules() if isinstance(gate_of(m), Geared)]
    assert inside and all(gate_of(m).module is m for m in inside)
    assert torch.equal(tiny.run(steps=8, pipe=twin), output)
    gs.restore(tiny.pipe)


def test_a_blended_step_puts_a_share_of_the_layers_into_the_next_gear():
    layers = [torch.nn.Linear(32, 32) for _ in range(40)]
    turns = [gate.turn for gate in geared(layers)]
    for share in (0.25, 0.5, 0.75):
        assert sum(t < share for t in turns) == pytest.approx(share * 40, abs=1)
    assert Mix(Precision.INT4, Precision.FP32, 0.5).share == 0.5


def test_gradual_changes_lie_between_a_sudden_one_and_a_later_one(tinies):
    """A gradual change takes a share of the layers up later, and no more than a change of all of them later would."""
    tiny, plain = tinies("dit", 12)

    def error(border, strategy):
        zones = [PrecisionZone(0.0, border, "int4"), PrecisionZone(border, 1.0, "fp16")]
        profile = {"profile": PrecisionProfile("two", zones=zones), "transition_strategy": strategy}
        gs.optimize(tiny.pipe, adaptive_precision=profile)
        output = tiny.run(steps=12)
        gs.restore(tiny.pipe)
        return (output - plain).norm()

    sudden, later = error(0.5, "immediate"), error(0.75, "immediate")
    for strategy in ("gradual", "step_aware"):
        assert sudden < error(0.5, strategy) < later


def test_measured_plans_keep_the_quality_and_are_saved(tmp_path):
    tiny = build("dit")
    call = {**tiny.parts.call(1), "num_inference_steps": 8, "output_type": "np"}
    recipe = {"adaptive_precision": {"profile": "measured", "target": "memory", "min_quality": 0.99}}
    gs.optimize(tiny.pipe, recipe, data=[call])
    (applied,) = gs.status(tiny.pipe).applied
    figures = applied["figures"]
    assert figures["relative_error_of_the_latent"] <= 0.01 and figures["cost_over_high"] < 1
    output = tiny.run(steps=8)
    letters = {"INT4": "4", "INT8": "8", "FP32": "#"}
    assert "".join(letters[g] for g in gears(tiny.pipe)) == figures["plan"]
    gs.save(tiny.pipe, tmp_path / "folder")
    assert torch.equal(tiny.run(steps=8, pipe=gs.load(tmp_path / "folder")), output)


def test_what_cannot_be_is_said(tinies):
    tiny, _ = tinies("dit")
    with pytest.raises(BadRecipe, match="needs `data`"):
        gs.optimize(tiny.pipe, "adaptive_precision(profile='measured')")
    with pytest.raises(BadRecipe, match="torch_dtype"):
        gs.optimize(tiny.pipe, "adaptive_precision(high_precision='bf16')")
    with pytest.raises(BadRecipe, match="both set the number format"):
        gs.optimize(tiny.pipe, "adaptive_precision, torch_dynamic")


def test_gears_are_timed_on_the_layers_themselves():
    layer, seen = torch.nn.Linear(64, 64), []
    x, exact = torch.randn(8, 64), layer(torch.ones(8, 64))
    times = time_gears(lambda: seen.append(layer(x)), [layer])
    assert set(times) == {Precision.INT4, Precision.INT8, Precision.FP32}
    assert all(took.now > 0 and took.before == times[Precision.FP32].now for took in times.values())
    assert len({tuple(out.flatten().tolist()) for out in seen}) == 3 and len(seen) >= 12  # each gear computes its own
    assert gate_of(layer) is None and not layer._buffers and torch.equal(layer(torch.ones(8, 64)), exact)


def test_gears_are_timed_at_the_batch_of_the_recipe(monkeypatch):
    from gearshift.precision import gear_timing

    tiny, sizes = build("dit"), []
    tiny.pipe.transformer.register_forward_pre_hook(
        lambda m, args, kwargs: sizes.append(len(args[0])), with_kwargs=True
    )
    monkeypatch.setattr(gear_timing, "BUDGET", 0.0)
    gs.optimize(tiny.pipe, "adaptive_precision", batch_size=3, data=[{"class_labels": [1], "guidance_scale": 1.0}])
    assert set(sizes) == {3} and len(sizes) >= 12


def test_capabilities_measure_a_model_at_the_shapes_of_a_call(tinies):
    tiny, plain = tinies("dit")
    data = [{**tiny.parts.call(1), "num_inference_steps": 1, "output_type": "np"}]
    times = PrecisionCapabilities.measure(tiny.pipe, "cpu", ["int8", "fp32"], data)
    assert set(times) == {Precision.INT8, Precision.FP32} and all(t > 0 for t in times.values())
    assert torch.equal(tiny.run(steps=8), plain)
    with pytest.raises(BadValue, match="could be called with"):
        PrecisionCapabilities.measure(torch.nn.Linear(2, 2))
    with pytest.raises(BadValue, match="move it to cuda"):
        PrecisionCapabilities.measure(tiny.pipe, "cuda", data=data)


def test_costs_are_said(tinies):
    tiny, _ = tinies("dit")
    gs.optimize(tiny.pipe, "adaptive_precision")
    (applied,) = gs.status(tiny.pipe).applied
    assert any("memory grows" in note for note in applied["notes"])
    assert any("not measured" in note for note in applied["notes"])
    gs.restore(tiny.pipe)


def test_assign_finds_the_least_error_on_small_cases():
    generator = np.random.default_rng(0)
    costs = np.array([0.25, 0.5, 1.0])
    for _ in range(5):
        errors = generator.normal(size=(3, 6, 4)) * np.array([4.0, 1.0, 0.0])[:, None, None]
        choice = assign(errors, costs, 0.6)
        assert costs[choice].mean() <= 0.6 + 1e-9

        def length(z, errors=errors):
            return float(np.linalg.norm(errors[list(z), np.arange(6)].sum(0)))

        all_of_it = [z for z in itertools.product(range(3), repeat=6) if costs[list(z)].mean() <= 0.6 + 1e-9]
        assert length(choice) <= 2.0 * min(map(length, all_of_it)) + 1e-9
