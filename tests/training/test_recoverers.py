"""Recoverers win back what compression took, and leave what they must not touch."""

import warnings
from itertools import groupby

import pytest
import torch
from support.tiny import build
from torch import nn

import gearshift as gs
from gearshift.core.errors import BadRecipe, GearshiftWarning, WrongModel
from gearshift.layers.int8 import Int8Linear
from gearshift.steps.tree import tensors
from gearshift.training.diffusion import distillation_samples
from gearshift.training.language import SameAnswers, answers
from gearshift.training.lora import LowRank


def figures(model):
    return gs.status(model).applied[-1]["figures"]


def text(tiny, count=24):
    """Windows that the model itself would write: an original to get back to."""
    torch.manual_seed(0)
    first = torch.randint(3, 128, (count, 1))
    made = tiny.pipe.generate(first, do_sample=True, max_new_tokens=63, min_new_tokens=63, pad_token_id=0)
    return [made[:, :64].reshape(-1)]


LANGUAGE = ["text_to_text_perp", "text_to_text_inplace_perp", "text_to_text_lora"]


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_pruned_language_model_gets_better_and_stays_pruned(name):
    tiny = build("llama")
    data = text(tiny)
    gs.optimize(tiny.pipe, "torch_unstructured(sparsity=0.5)")
    zeros = {n: w == 0 for n, w in tiny.pipe.named_parameters() if w.ndim == 2 and (w == 0).any()}
    before = tiny.run()
    with pytest.warns(GearshiftWarning, match="learns from the next tokens of the text alone"):
        gs.optimize(tiny.pipe, {name: {"learning_rate": 0.01, "num_epochs": 4, "optimizer": "AdamW"}}, data=data)
    assert figures(tiny.pipe)["loss_after"] < figures(tiny.pipe)["loss_before"]
    assert not torch.equal(tiny.run(), before)
    after = dict(tiny.pipe.named_parameters())
    assert zeros and all((after[n][mask] == 0).all() for n, mask in zeros.items())
    assert not any(isinstance(m, LowRank) for m in tiny.pipe.modules())
    assert not any(p.requires_grad for p in tiny.pipe.parameters())


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_learns_what_the_original_would_have_said(name):
    tiny = build("llama")
    exact = answers(tiny.pipe, [text(tiny)[0].view(-1, 64)])[0]
    off = SameAnswers(tiny.pipe)
    assert float(off(exact)) < 1e-5
    settings = {"learning_rate": 0.01, "num_epochs": 4, "optimizer": "AdamW"}
    gs.optimize(tiny.pipe, {"torch_unstructured": {"sparsity": 0.5}, name: settings}, data=[exact.tokens])
    harsh = build("llama").pipe
    gs.optimize(harsh, "torch_unstructured(sparsity=0.5)")
    assert float(off(exact)) < 0.9 * float(SameAnswers(harsh)(exact))


@pytest.mark.parametrize("name", LANGUAGE)
def test_quantized_weights_are_not_touched(name):
    tiny = build("llama")
    data = text(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        gs.optimize(tiny.pipe, "torch_dynamic")
        before = {n: b.clone() for n, b in tiny.pipe.named_buffers() if n.endswith("qweight")}
        gs.optimize(tiny.pipe, {name: {"learning_rate": 0.01, "optimizer": "AdamW"}}, data=data)
    after = {n.replace(".base.", "."): b for n, b in tiny.pipe.named_buffers()}
    assert before and all(torch.equal(after[n], b) for n, b in before.items())
    assert figures(tiny.pipe)["loss_after"] <= figures(tiny.pipe)["loss_before"]
    updates = [m for m in tiny.pipe.modules() if isinstance(m, LowRank)]
    assert bool(updates) == (name != "text_to_text_inplace_perp") and all(
        isinstance(u.base, Int8Linear) for u in updates
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [("sd", "text_to_image_inplace_perp"), ("flux", "text_to_image_perp"), ("sd", "text_to_image_lora")],
)
def test_a_denoiser_learns_from_the_original(model, name):
    tiny = build(model)
    plain = tiny.run()
    call = {**tiny.parts.call(1), "num_inference_steps": 6}
    harsh = build(model)
    gs.optimize(harsh.pipe, "torch_unstructured(sparsity=0.4)")
    settings = {"learning_rate": 0.003, "num_epochs": 4}
    gs.optimize(tiny.pipe, {"torch_unstructured": {"sparsity": 0.4}, name: settings}, data=[call] * 3)
    found = figures(tiny.pipe)
    assert found["loss_after"] < 0.9 * found["loss_before"]
    lost, left = (harsh.run() - plain).norm(), (tiny.run() - plain).norm()
    assert left < lost


@pytest.mark.parametrize("model", ["sd", "flux"])
def test_a_denoiser_learns_from_images_of_ones_own(model):
    tiny = build(model)
    picture = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    call = {**tiny.parts.call(1), "num_inference_steps": 4, "image": picture}
    taught = distillation_samples(tiny.pipe, [call] * 4, 0)
    assert [len(list(steps)) for _, steps in groupby(taught, lambda sample: sample.run)] == [2, 4, 1, 3]
    other = distillation_samples(tiny.pipe, [{**call, "image": 1 - picture}] * 4, 0)
    assert not torch.equal(first_tensor(taught[0]), first_tensor(other[0]))
    settings = {"learning_rate": 0.003, "num_epochs": 4}
    gs.optimize(tiny.pipe, {"torch_unstructured": {"sparsity": 0.4}, "text_to_image_perp": settings}, data=[call] * 4)
    assert figures(tiny.pipe)["loss_after"] < 0.9 * figures(tiny.pipe)["loss_before"]


def test_a_pipeline_that_reads_images_itself_is_called_as_it_is():
    """Some of them know no strength."""
    tiny = build("sd")

    class Reader(type(tiny.pipe)):
        def __call__(self, *, image, **rest):
            return super().__call__(**rest)

    tiny.pipe.__class__ = Reader
    call = {**tiny.parts.call(1), "num_inference_steps": 4, "image": torch.rand(1, 3, 16, 16)}
    assert len(distillation_samples(tiny.pipe, [call], 0)) == 4


def first_tensor(sample):
    return tensors((sample.args, sample.kwargs))[0]


def test_images_without_a_pipeline_that_starts_from_them_are_refused():
    tiny = build("dit")
    recipe = {"torch_unstructured": {"sparsity": 0.4}, "text_to_image_perp": {}}
    with pytest.raises(WrongModel, match="DiTPipeline cannot start from images"):
        gs.optimize(tiny.pipe, recipe, data=[{"class_labels": [1], "image": torch.rand(1, 3, 16, 16)}])
    assert not gs.status(tiny.pipe).applied


def test_half_precision_is_trained_with_masters():
    tiny = build("llama")
    data = text(tiny)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)
        gs.optimize(tiny.pipe, ["half", {"text_to_text_inplace_perp": {"learning_rate": 0.003}}], data=data)
    assert {p.dtype for p in tiny.pipe.parameters()} == {torch.float16}
    assert figures(tiny.pipe)["loss_after"] <= figures(tiny.pipe)["loss_before"]


def test_what_was_trained_in_place_comes_off():
    tiny = build("llama")
    plain = tiny.run()
    with pytest.warns(GearshiftWarning, match="nothing was done to it before"):
        gs.optimize(tiny.pipe, "text_to_text_inplace_perp(learning_rate=0.01)", data=text(tiny))
    trained = tiny.run()
    with gs.disabled(tiny.pipe):
        assert torch.equal(tiny.run(), plain)
    assert torch.equal(tiny.run(), trained) and not torch.equal(trained, plain)


def test_an_update_over_a_pruned_layer_merges_to_what_it_computed():
    layer = nn.Linear(8, 6)
    layer.weight.data[:, ::2] = 0
    update = LowRank.over(layer, 4, 2.0, torch.Generator().manual_seed(0))
    update.up.data.normal_()
    x = torch.randn(3, 8)
    merged = torch.nn.functional.linear(x, layer.weight + update.update(), layer.bias)
    torch.testing.assert_close(update(x), merged)
    assert (update.update()[:, ::2] == 0).all()


def test_strings_need_a_tokenizer():
    with pytest.raises(BadRecipe, match="takes a `tokenizer`"):
        gs.optimize(build("llama").pipe, "text_to_text_perp", data=["In the beginning"])


@pytest.mark.filterwarnings("ignore::gearshift.core.errors.GearshiftWarning")
def test_a_model_without_layers_to_train_is_refused_in_a_sentence():
    tiny = build("gpt2")
    before = tiny.run()
    with pytest.raises(BadRecipe, match=r"finds nothing to train: the recipe leaves it no layer of type nn\.Linear"):
        gs.optimize(tiny.pipe, "text_to_text_lora", data=[tiny.call(256)])
    assert torch.equal(tiny.run(), before)
