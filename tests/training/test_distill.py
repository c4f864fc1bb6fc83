"""hyper: long steps that end where the original's short ones do."""

import pytest
import torch
from support.tiny import build

import gearshift as gs
from gearshift.algorithms.distillers import hyper
from gearshift.core.errors import BadRecipe
from gearshift.training.distill import SHORT, _path, segments, unguided


@pytest.mark.parametrize("name", ["sd", "dit", "flux"])
def test_the_targets_lead_along_the_originals_path(name):
    tiny = build(name)
    tiny.pipe.scheduler = hyper.trailing(tiny.pipe.scheduler)
    call = tiny.parts.call(1)
    found = segments(tiny.pipe, [call], 2, seed=5)
    path = _path(tiny.pipe, call, 2 * SHORT, 5)
    assert len(found) == 2 and all(torch.isfinite(s.output).all() for s in found)

    answers = iter(found)
    denoiser = getattr(tiny.pipe, tiny.denoiser)
    handle = denoiser.register_forward_hook(lambda m, a, out: replaced(out, next(answers).output))
    last = _path(tiny.pipe, {**call, **unguided(tiny.pipe)}, 2, 5)[-1]
    handle.remove()
    torch.testing.assert_close(last, path[-1][: len(last)], rtol=1e-3, atol=1e-3)


def replaced(output, value):
    whole = output[0] if isinstance(output, tuple) else output.sample
    value = torch.cat([value, whole[:, value.shape[1] :]], 1)
    if isinstance(output, tuple):
        return (value, *output[1:])
    output.sample = value
    return output


def test_a_distilled_pipeline_is_nearer_with_few_steps_and_saves_its_adapter(monkeypatch, tmp_path):
    monkeypatch.setattr(hyper, "EPOCHS", 12)
    tiny = build("flux")
    call = tiny.parts.call(1)
    fine, few = tiny.run(steps=48), tiny.run(steps=2)
    gs.optimize(tiny.pipe, "hyper(aggressive=True)", data=[call] * 4)
    figures = gs.status(tiny.pipe).applied[0]["figures"]
    assert figures["loss_after"] < figures["loss_before"] and figures["steps"] == 2
    made = tiny.run(steps=2)
    assert (made - fine).norm() < (few - fine).norm()
    steps = []
    handle = tiny.pipe.transformer.register_forward_pre_hook(lambda *_: steps.append(1))
    tiny.pipe(**{**call, "output_type": "latent"})
    handle.remove()
    assert len(steps) == 2
    gs.save(tiny.pipe, tmp_path / "m")
    assert torch.equal(tiny.run(steps=2, pipe=gs.load(tmp_path / "m")), made)
    assert (tmp_path / "m" / "kept" / "hyper" / hyper.ADAPTER).is_file()


def test_a_published_adapter_is_applied_with_its_steps(monkeypatch, tmp_path):
    from safetensors.torch import save_file

    tiny = build("sd")
    plain = tiny.run(steps=4)
    path = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = (
        tiny.pipe.get_submodule(path) if hasattr(tiny.pipe, "get_submodule") else tiny.pipe.unet.get_submodule(path[5:])
    )
    torch.manual_seed(0)
    state = {f"{path}.lora_A.weight": torch.randn(4, layer.in_features)}
    state[f"{path}.lora_B.weight"] = torch.randn(layer.out_features, 4)
    file = tmp_path / "Other-8steps-lora.safetensors"
    save_file(state, str(file))
    monkeypatch.setenv(hyper.SOURCE, str(file))
    before = layer.weight.detach().clone()
    gs.optimize(tiny.pipe, "hyper")
    changed = tiny.pipe.unet.get_submodule(path[5:]).weight - before
    expected = state[f"{path}.lora_B.weight"] @ state[f"{path}.lora_A.weight"]
    torch.testing.assert_close(changed, expected, rtol=1e-4, atol=1e-4)
    assert type(tiny.pipe.scheduler).__name__ == "TCDScheduler"
    assert gs.status(tiny.pipe).applied[0]["notes"] and not torch.equal(tiny.run(steps=4), plain)


def test_a_scheduler_of_another_kind_is_refused():
    with pytest.raises(BadRecipe, match="none of the schedulers"):
        hyper.trailing(object())
