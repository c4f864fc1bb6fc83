"""Each metric against another implementation of it, to four digits."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from support.each import each

import gearshift.evaluate.measures  # noqa: F401
from gearshift.evaluate.examples import Example
from gearshift.evaluate.metric import METRICS, replace
from gearshift.evaluate.spread import spread_of
from gearshift.evaluate.subjects import Answer

torchmetrics = pytest.importorskip("torchmetrics")
TWO = Example({"prompt": ["a coat", "a bag"]}, ("a coat", "a bag"), 0)


def pictures():
    first = torch.rand(2, 3, 24, 20)
    return first, (first + 0.1 * torch.randn_like(first)).clamp(0, 1)


def scored(name, answer, original=None, example=TWO, **given):
    found = METRICS.get(name).function(example, answer, original, **given)
    return [s if isinstance(s, tuple) else (s, 1.0) for s in found]


def ssim_by_scipy(a, b):
    """Wang et al. 2004, with the Gaussian filter of scipy over the places where its window fits."""

    def mean(x):
        return np.stack([gaussian_filter(c, 1.5, truncate=3.5) for c in x])[:, 5:-5, 5:-5]

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return np.mean((2 * ma * mb + 1e-4) * (2 * cov + 9e-4) / ((ma**2 + mb**2 + 1e-4) * (va + vb + 9e-4)))


def test_closeness_of_images_is_that_of_other_libraries():
    first, second = pictures()
    answers = Answer(1.0, images=second), Answer(1.0, images=first)
    psnr = [
        float(torchmetrics.functional.peak_signal_noise_ratio(b, a, data_range=1.0))
        for a, b in zip(first, second, strict=True)
    ]
    assert [v for v, _ in scored("psnr", *answers)] == pytest.approx(psnr, rel=1e-5)
    wanted = [ssim_by_scipy(a.double().numpy(), b.double().numpy()) for a, b in zip(first, second, strict=True)]
    assert [v for v, _ in scored("ssim", *answers)] == pytest.approx(wanted, rel=1e-4)
    same = torchmetrics.functional.signal_noise_ratio
    latents = Answer(1.0, latents=second), Answer(1.0, latents=first)
    wanted = [float(same(b.flatten(), a.flatten())) for a, b in zip(first, second, strict=True)]
    assert [v for v, _ in scored("sqnr", *latents)] == pytest.approx(wanted, rel=1e-4)


def language():
    tokens = torch.randint(0, 50, (12,))
    original = torch.randn(12, 50)
    one = Answer(1.0, tokens=tokens, logits=original + 0.3 * torch.randn(12, 50))
    return one, Answer(1.0, tokens=tokens, logits=original)


def test_perplexity_is_that_of_torchmetrics_over_all_texts():
    metric, scores = METRICS.get("perplexity"), []
    other = torchmetrics.text.Perplexity()
    for _ in range(3):
        answer, _ = language()
        scores += scored("perplexity", answer)
        other.update(answer.logits[None, :-1], answer.tokens[None, 1:])
    found = spread_of(metric, scores, ["a", "b", "c"])
    assert found.mean == pytest.approx(float(other.compute()), rel=1e-4)
    assert found.worst == max(found.values) and found.interval[0] < found.mean < found.interval[1]


def test_divergence_and_agreement_are_those_of_torchs_distributions_and_of_counting():
    answer, original = language()
    ours, theirs = (torch.distributions.Categorical(logits=a.logits) for a in (answer, original))
    wanted = float(torch.distributions.kl_divergence(theirs, ours).mean())
    assert scored("kl", answer, original)[0][0] == pytest.approx(wanted, rel=1e-4)
    equal = [int(a.argmax()) == int(b.argmax()) for a, b in zip(answer.logits, original.logits, strict=True)]
    assert scored("agreement", answer, original)[0][0] == pytest.approx(100 * sum(equal) / len(equal))


def edits(said, heard):
    """Substitutions, insertions and deletions between two lists, by the whole table."""
    table = np.zeros((len(said) + 1, len(heard) + 1), int)
    table[:, 0], table[0, :] = range(len(said) + 1), range(len(heard) + 1)
    for i, a in enumerate(said, 1):
        for j, b in enumerate(heard, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return table[-1, -1]


@each(
    "said, heard",
    [
        ("The dog's bark, at the door!", "the dogs bark at a door"),
        ("one two three", ""),
        ("a b c d", "x a b d d"),
        ("I don\u2019t know", "i dont no"),
    ],
)
def test_word_errors_are_those_of_a_table_of_edits(said, heard):
    pytest.importorskip("jiwer")
    example = Example({"audio": "x.wav", "text": said}, ("x.wav",), 0)
    plain = [
        t.lower().replace("'", "").replace("\u2019", "").replace(",", "").replace("!", "").split()
        for t in (said, heard)
    ]
    ((percent, words),) = scored("wer", Answer(1.0, text=heard), example=example)
    assert words == len(plain[0]) and percent == pytest.approx(100 * edits(*plain) / words, rel=1e-6)
    assert scored("wer_original", Answer(1.0, text=heard), Answer(1.0, text=said)) == [(percent, words)]


def test_clip_is_the_cosine_of_the_models_own_features(tmp_path):
    transformers = pytest.importorskip("transformers")
    from gearshift.zoo import path

    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = transformers.CLIPTokenizer.from_pretrained(path("text-to-image") / "tokenizer")
    words = {
        **sizes,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": 77,
    }
    config = transformers.CLIPConfig(
        text_config=words, vision_config={**sizes, "image_size": 32, "patch_size": 8}, projection_dim=16
    )
    model = transformers.CLIPModel(config).eval()
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model.save_pretrained(tmp_path)
    transformers.CLIPProcessor(images, tokenizer).save_pretrained(tmp_path)
    first, _ = pictures()
    found = scored("clip", Answer(1.0, images=first), weights=str(tmp_path))
    bytes_of = [(i.permute(1, 2, 0) * 255).round().byte().numpy() for i in first]
    with torch.no_grad():
        pixels = model.visual_projection(model.vision_model(**images(bytes_of, return_tensors="pt")).pooler_output)
        given = tokenizer(TWO.call["prompt"], return_tensors="pt", padding=True)
        texts = model.text_projection(model.text_model(**given).pooler_output)
    wanted = [max(100 * float(p @ t / p.norm() / t.norm()), 0.0) for p, t in zip(pixels, texts, strict=True)]
    assert [v for v, _ in found] == pytest.approx(wanted, abs=1e-3)


def test_means_weigh_items_and_equal_images_count_as_a_hundred_decibels():
    wer, psnr = METRICS.get("wer"), METRICS.get("psnr")
    found = spread_of(wer, [(0.0, 30.0), (60.0, 10.0)], ["long", "short"])
    assert found.mean == pytest.approx(15.0) and (found.worst_name, found.worst) == ("short", 60.0)
    assert found.below == 0.5  # of the items have more than half of their words wrong
    found = spread_of(psnr, [(math.inf, 1.0), (20.0, 1.0)], ["same", "other"])
    assert found.mean == 60.0 and found.below == 0.5 and found.worst_name == "other"
    assert spread_of(replace(psnr, floor=10.0), [(20.0, 1.0)], ["one"]).below == 0.0
