"""A model beside its original: what is measured, how it is shown, and what is refused before anything runs."""

import json

import pytest
import torch
from support.each import each
from support.tiny import build

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder, GearshiftError, UnknownName
from gearshift.core.facts import Kind
from gearshift.evaluate.energy import Meter
from gearshift.evaluate.examples import in_batches, read_examples
from gearshift.evaluate.metrics import psnr

STEPS = 4
CLOSE = ["psnr", "ssim", "sqnr"]


def calls(tiny, count, batch=1):
    """Calls of a tiny pipeline, whose prompts are embeddings."""
    kept = {k: v for k, v in tiny.parts.call(batch).items() if k != "output_type"}
    return [{**kept, "num_inference_steps": STEPS} for _ in range(count)]


@pytest.fixture
def cached(tinies):
    tiny, _ = tinies("sd")
    return tiny, gs.optimize(tiny.pipe, "periodic")


def test_a_pipeline_is_measured_beside_itself_before_it_was_optimized(cached):
    tiny, pipe = cached
    found = gs.evaluate(pipe, data=calls(tiny, 2), metrics=[*CLOSE, "speedup", "latency"], seed=5)
    with torch.no_grad():
        made, plain = [], []
        for seed in (5, 6):
            given = {**calls(tiny, 1)[0], "output_type": "np"}
            made.append(torch.as_tensor(pipe(**given, generator=torch.Generator().manual_seed(seed)).images))
            with gs.disabled(pipe):
                plain.append(torch.as_tensor(pipe(**given, generator=torch.Generator().manual_seed(seed)).images))
    wanted = [psnr(b, a) for a, b in zip(plain, made, strict=True)]
    assert found.figures["psnr"].spread.values == pytest.approx(wanted)
    assert found["speedup"] > 0 and found["latency"] > 0 and len(found.seconds) == 2
    assert "unet" in found.components and found.recipe == "periodic"
    assert found.original.recipe == "" and "psnr" not in found.original.figures
    assert found.worst("psnr")[1] == min(found.figures["psnr"].spread.values)
    assert gs.status(pipe).applied and found.holds(f"psnr>={min(wanted)}") and not found.holds("worst:psnr>=500")


def test_nothing_done_is_equal_and_is_shown_in_every_form(tinies, tmp_path):
    tiny, _ = tinies("sd")
    found = gs.evaluate(tiny.pipe, tiny.pipe, data=calls(tiny, 2), metrics=["psnr>=20", "ssim", "sqnr", "latency"])
    assert found["psnr"] == 100.0 and found["ssim"] == pytest.approx(1.0) and found["sqnr"] == 100.0
    text = str(found)
    assert "psnr" in text and "95 % interval" in text and "0 % (20)" in text
    kept = json.loads(found.to_json())
    assert kept["figures"]["psnr"]["values"] == ["inf", "inf"] and kept["figures"]["ssim"]["better"] == "higher"
    page = found.report(tmp_path / "r.html").read_text()
    assert "worst psnr" in page and page.count("<img") == 4
    assert "overlap" in found.compare(found)
    with pytest.raises(BadValue, match="different items"):
        found.compare(gs.evaluate(tiny.pipe, data=calls(tiny, 1), metrics="latency"))
    with pytest.raises(UnknownName, match="did you mean 'psnr'"):
        found["psn"]


def test_a_model_without_an_original_has_no_closeness(tinies):
    tiny, _ = tinies("dit")
    found = gs.evaluate(tiny.pipe, data=calls(tiny, 1))
    assert found.original is None and not {"psnr", "speedup"} & found.figures.keys()
    assert found["weights"] == pytest.approx(gs.status(tiny.pipe).size / 1e6)


def test_a_language_model_is_judged_by_its_tokens_and_timed_by_what_it_writes():
    tiny = build("llama")
    texts = [list(range(3, 20)), list(range(30, 42))]
    data = [{"input_ids": ids, "max_new_tokens": 3} for ids in texts]
    found = gs.evaluate(gs.optimize(tiny.pipe, "torch_unstructured", keep_original=True), data=data)
    plain = build("llama").pipe
    with torch.no_grad():
        lost = [plain(input_ids=torch.tensor([i]), labels=torch.tensor([i])).loss for i in texts]
    counts = [len(i) - 1 for i in texts]
    wanted = (sum(x * n for x, n in zip(lost, counts, strict=True)) / sum(counts)).exp()
    assert found.original["perplexity"] == pytest.approx(float(wanted), rel=1e-4)
    assert found["kl"] > 0 and 0 <= found["agreement"] < 100
    assert found["tokens_per_second"] == pytest.approx(6 / sum(found.seconds)) and found["first_token"] > 0


def test_other_modules_and_functions_of_ones_own():
    layer = torch.nn.Linear(8, 4)
    data = [torch.randn(3, 8) for _ in range(2)]

    def positive(output, call):
        return float((output > 0).float().mean())

    found = gs.evaluate(layer, torch.nn.Linear(8, 4), data=data, metrics=[positive, "sqnr"])
    wanted = sum(float((layer(x) > 0).float().mean()) for x in data) / 2
    assert found["positive"] == pytest.approx(wanted) and found["sqnr"] < 20
    with pytest.raises(BadRecipe, match="cannot be called with example"):
        gs.evaluate(layer, data=[torch.randn(3, 7)])


@each(
    "given, sentence",
    [
        ({"metrics": ["psn"]}, "did you mean 'psnr'"),
        ({"metrics": "perplexity"}, "is for a language model"),
        ({"metrics": []}, "no metrics"),
        ({"metrics": [3]}, "A metric is a name"),
        ({"metrics": "psnr<=3"}, "write '>='"),
        ({"metrics": "worst:psnr>=3"}, "A floor is that of an item"),
        ({"metrics": "psnr=here"}, "no weights"),
        ({"metrics": "psnr"}, "there is none"),
        ({"metrics": "lpips", "against": "itself"}, "needs the package"),
        ({"data": []}, "no example"),
        ({"data": None}, "missing"),
        ({"data": 3}, "must be a list"),
        ({"data": ["  "]}, "is empty"),
        ({"data": [3]}, "a prompt or a dict"),
        ({"data": [{"prompt": "x", "seed": -1}]}, "seed of example 0"),
        ({"data": "no.jsonl"}, "is not there"),
        ({"batch_size": 0}, "batch_size"),
        ({"against": torch.nn.Linear(2, 2)}, "one kind"),
    ],
)
def test_bad_input_is_a_sentence_before_anything_runs(given, sentence):
    pipe = build("sd").pipe
    pipe.__class__ = type("Idle", (type(pipe),), {"__call__": lambda *_, **__: pytest.fail("it ran")})
    given = {**given, **({"against": pipe} if given.get("against") == "itself" else {})}
    with pytest.raises(GearshiftError, match=sentence):
        gs.evaluate(pipe, **{"data": ["a coat"], **given})


def test_files_of_examples(tmp_path):
    lines = tmp_path / "d.jsonl"
    lines.write_text('{"prompt": "a coat", "seed": 7}\n\n"a bag"\n')
    found = read_examples(lines, Kind.DIFFUSION)
    assert [e.call for e in found] == [{"prompt": "a coat"}, {"prompt": "a bag"}]
    assert [e.seed for e in found] == [7, 1] and found[1].names == ("a bag",)
    text = tmp_path / "d.txt"
    text.write_text("a coat\na bag\na boot\n")
    (first, second) = in_batches(read_examples(str(text), Kind.DIFFUSION), 2)
    assert first.call["prompt"] == ["a coat", "a bag"] and list(first.seeds) == [0, 1] and second.seed == 2
    assert in_batches(found, 2) == found or found[0].seed == 7
    for name, content in (("b.jsonl", "{"), ("b.json", '{"a": 1}'), ("b.txt", b"\xff\xfe\xfa")):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(BrokenFolder, match="cannot be read as examples"):
            read_examples(tmp_path / name, Kind.DIFFUSION)


def test_energy_is_the_difference_of_counters_that_wrap_around(tmp_path):
    assert Meter(tmp_path).stop() is None
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("9000000")
    (zone / "max_energy_range_uj").write_text("10000000")
    meter = Meter(tmp_path)
    meter.start()
    (zone / "energy_uj").write_text("2000000")
    assert meter.stop() == pytest.approx(3.0)
