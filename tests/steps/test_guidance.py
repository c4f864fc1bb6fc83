"""Attention and guidance as sites: what is skipped, and that it is right."""

import pytest
import torch
from support.runs import filled

import gearshift as gs
from gearshift.algorithms.cachers.fastercache import GUIDANCE_INTERVAL
from gearshift.steps.decision import Action
from gearshift.steps.guidance import BatchHalf
from gearshift.steps.run import Run
from gearshift.steps.trigger import Every, Within

TWO_CALLS = ["wan", "chroma", "lumina2", "qwenimage"]
ONE_CALL = ["sd", "sdxl", "dit", "pixart", "sd3", "sana", "auraflow", "zimage", "cogvideox", "ltx", "latte"]
UNGUIDED = ["flux", "hunyuanvideo"]


def logs(pipe):
    return {log.site: log for log in gs.status(pipe).last_run.values()}


@pytest.mark.parametrize("name", ONE_CALL + TWO_CALLS)
def test_the_unconditional_pass_is_left_out(tinies, name):
    tiny, plain = tinies(name, 16)
    gs.optimize(tiny.pipe, "fastercache")
    output = tiny.run(steps=16)
    assert output.isfinite().all() and not torch.equal(output, plain)
    log = logs(tiny.pipe)["unconditional pass"]
    assert log.steps(Action.REUSE)
    assert all(step % GUIDANCE_INTERVAL for step in log.steps(Action.REUSE))
    attention = [step for site, lg in logs(tiny.pipe).items() if "attention" in site for step in lg.steps(Action.REUSE)]
    assert set(attention) <= set(log.steps(Action.REUSE)), "attention is whole where both passes are computed"
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("name", UNGUIDED)
def test_without_an_unconditional_pass_attention_alone_is_skipped(tinies, name):
    tiny, plain = tinies(name, 16)
    gs.optimize(tiny.pipe, "fastercache")
    assert not torch.equal(tiny.run(steps=16), plain)
    assert filled(tiny.pipe) and "unconditional pass" not in logs(tiny.pipe)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("name", ["sd", "zimage", "wan"])
def test_two_equal_passes_differ_by_nothing(tinies, name, monkeypatch):
    """With the prompt as its own negative the difference is zero; attention is left whole here."""
    monkeypatch.setattr("gearshift.steps.trigger.Unguided.reason_to_compute", lambda *_: "not asked")
    tiny, _ = tinies(name, 16)
    call = {"steps": 16, "negative_prompt_embeds": tiny.parts.call(1)["prompt_embeds"]}
    plain = tiny.run(**call)
    gs.optimize(tiny.pipe, "fastercache")
    output = tiny.run(**call)
    assert filled(tiny.pipe)
    gs.restore(tiny.pipe)
    torch.testing.assert_close(output, plain, rtol=1e-3, atol=1e-4)


def test_a_skipped_pass_halves_what_the_blocks_see(tinies):
    tiny, _ = tinies("dit", 16)
    sizes = []
    block = tiny.pipe.transformer.transformer_blocks[0]
    hook = block.register_forward_pre_hook(lambda m, args: sizes.append(len(args[0])))
    gs.optimize(tiny.pipe, "fastercache")
    tiny.run(steps=16)
    hook.remove()
    skipped = logs(tiny.pipe)["unconditional pass"].steps(Action.REUSE)
    whole = max(sizes)
    assert [step for step, size in enumerate(sizes) if size == whole // 2] == skipped
    gs.restore(tiny.pipe)


def test_two_prompts_with_equal_noise_are_no_doubled_batch(tinies):
    tiny, _ = tinies("sd", 16)
    seeds = [torch.Generator().manual_seed(4) for _ in range(2)]
    call = {"batch": 2, "guidance": 1.0, "steps": 16, "generator": seeds}
    gs.optimize(tiny.pipe, "fastercache")
    tiny.run(**call)
    assert "unconditional pass" not in logs(tiny.pipe)
    gs.restore(tiny.pipe)


@pytest.mark.parametrize("recipe", ["pab(interval=1)", "fastercache(interval=1)"])
@pytest.mark.parametrize("name", ["sd", "wan", "flux"])
def test_an_interval_of_one_is_exact_and_says_so(tinies, name, recipe):
    tiny, plain = tinies(name)
    gs.optimize(tiny.pipe, recipe)
    assert torch.equal(tiny.run(steps=8), plain)
    assert any("computes every step" in note for a in gs.status(tiny.pipe).applied for note in a["notes"])
    gs.restore(tiny.pipe)


def test_kinds_of_attention_are_kept_for_longer_the_less_they_change(tinies):
    tiny, _ = tinies("latte", 32)
    gs.optimize(tiny.pipe, "pab")
    tiny.run(steps=32)
    counts = [len(logs(tiny.pipe)[f"{kind} attention"].steps(Action.REUSE)) for kind in ("self", "temporal", "cross")]
    assert counts == sorted(counts) and counts[0] < counts[2]
    gs.restore(tiny.pipe)


def test_within_goes_by_the_time_of_the_run():
    trigger, run = Within(Every(2), 0.1, 0.8), Run()
    run.place([1 - k / 20 for k in range(20)])
    computed = []
    for step in range(20):
        if trigger.reason_to_compute(run, {}):
            computed.append(step)
        run.tick()
    assert computed == [0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 19]
    assert "nothing tells" in trigger.reason_to_compute(Run(), {})


@pytest.mark.parametrize("last", [False, True])
def test_halves_come_apart_and_together(last):
    half = BatchHalf(4, last, listed=False)
    whole = {"a": torch.arange(8.0).view(4, 2), "b": (torch.arange(4.0), None)}
    again = half.joined(half.take(whole), half.other.take(whole))
    assert torch.equal(again["a"], whole["a"]) and torch.equal(again["b"][0], whole["b"][0]) and again["b"][1] is None
    table = torch.ones(4, 3)
    taken = half.take_arguments({"x": table, "image_rotary_emb": table, "n": torch.ones(3)})
    assert [len(t) for t in taken.values()] == [2, 4, 3]
    samples = [torch.full((2,), float(i)) for i in range(4)]
    listed = BatchHalf(4, last, listed=True)
    both = listed.joined(listed.take([*samples]), listed.other.take([*samples]))
    assert torch.equal(torch.stack(both), torch.stack(samples))
