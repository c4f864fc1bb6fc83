"""Models that CTranslate2 runs: transformers' own tokens, arguments honored, saved and loaded, what is refused."""

import warnings

import pytest
import torch
from support.each import each
from support.tiny import build, randomize
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import gearshift as gs
from gearshift.core.errors import BadRecipe, BadValue, BrokenFolder, CannotRestore, GearshiftError, GearshiftWarning
from gearshift.zoo.language import load_language, validation_text

pytest.importorskip("ctranslate2")
ALGORITHM = {"llama": "c_generate", "gpt2": "c_generate", "opt": "c_generate", "marian": "c_translate"}
BOS, EOS, PAD = 1, 2, 0


def prompts(rows=2, tokens=7, seed=0):
    ids = torch.randint(3, 128, (rows, tokens), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = BOS
    return ids


def converted(name, bits=16, **settings):
    return gs.optimize(build(name).pipe, {ALGORITHM[name]: {"weight_bits": bits}}, **settings)


@pytest.fixture(scope="module")
def llama():
    return build("llama").pipe, converted("llama")


@pytest.fixture
def tokenizer():
    words = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, **{f"w{n}": n for n in range(3, 128)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize("name", ALGORITHM)
def test_greedy_tokens_are_those_of_transformers(name):
    plain, made = build(name).pipe, converted(name)
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    ids = prompts()
    assert torch.equal(made.generate(ids, max_new_tokens=24), plain.generate(input_ids=ids, max_new_tokens=24))
    assert torch.equal(made.generate(ids), plain.generate(input_ids=ids))
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())


def test_logits_of_a_text_are_those_of_transformers(llama):
    plain, made = llama
    ids = prompts(rows=1, tokens=9)
    with torch.no_grad():
        torch.testing.assert_close(made.logits(ids), plain(input_ids=ids).logits, rtol=0, atol=0.01)  # 16 bits


@pytest.mark.parametrize("name", ["llama", "marian"])
def test_the_model_may_have_been_halved(name):
    plain, ids = build(name).pipe.half().float(), prompts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", GearshiftWarning)  # that it is slower, where it is
        made = gs.optimize(build(name).pipe, ["half", ALGORITHM[name]])
    assert torch.equal(made.generate(ids, max_new_tokens=24), plain.generate(input_ids=ids, max_new_tokens=24))


ARGUMENTS = {
    "max_length": {"max_length": 12},
    "min_new_tokens": {"max_new_tokens": 16, "min_new_tokens": 12},
    "min_length": {"max_new_tokens": 16, "min_length": 20},
    "several ends": {"max_new_tokens": 16, "eos_token_id": [2, 34, 72]},
    "no end": {"max_new_tokens": 16, "eos_token_id": None},
    "padding": {"max_new_tokens": 16, "eos_token_id": [34], "pad_token_id": 5},
    "repetition_penalty": {"max_new_tokens": 16, "repetition_penalty": 1.4},
    "no_repeat_ngram_size": {"max_new_tokens": 16, "no_repeat_ngram_size": 2},
    "bad words": {"max_new_tokens": 16, "bad_words_ids": [[34], [43, 44]]},
    "suppress_tokens": {"max_new_tokens": 16, "suppress_tokens": [34, 44]},
    "a forced end": {"max_new_tokens": 8, "forced_eos_token_id": 2},
    "beams": {"max_new_tokens": 12, "num_beams": 3, "eos_token_id": None},
    "beams returned": {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2, "eos_token_id": None},
    "a configuration": {"generation_config": GenerationConfig(max_new_tokens=5, eos_token_id=34, pad_token_id=0)},
}


@each("given", ARGUMENTS.values())
def test_arguments_mean_what_they_mean_in_transformers(llama, given):
    plain, made = llama
    ids = prompts()
    assert torch.equal(made.generate(ids, **given), plain.generate(input_ids=ids, **given))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "marian"])
def test_padding_changes_nothing(name, side):
    made, ids = converted(name), prompts(3)
    rows = [ids[0, :3], ids[1], ids[2, :5]]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD, padding_side=side)
    alone = [made.generate(row[None], max_new_tokens=9, eos_token_id=None)[0, -9:] for row in rows]
    for mask in (None, (padded != PAD).long()):
        together = made.generate(padded, mask, max_new_tokens=9, eos_token_id=None)
        assert torch.equal(together[:, -9:], torch.stack(alone))
        assert name == "marian" or torch.equal(together[:, :7], padded)


@pytest.mark.parametrize("history", [{}, {"repetition_penalty": 1.3}])
def test_rows_that_end_early_are_filled_up(llama, history):
    plain, made = llama
    ids = prompts(3)
    ids[0, :3], ids[2, :2] = PAD, PAD
    given = {"attention_mask": (ids != PAD).long(), "max_new_tokens": 12, "eos_token_id": 34, **history}
    assert torch.equal(made.generate(ids, **given), plain.generate(input_ids=ids, **given))


def test_sampling_is_seeded_and_really_samples(llama):
    made, ids = llama[1], prompts()
    draw = {"max_new_tokens": 12, "do_sample": True, "eos_token_id": None}
    once, again, other = (made.generate(ids, seed=seed, **draw) for seed in (1, 1, 2))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert not torch.equal(made.generate(ids, **draw), made.generate(ids, **draw))
    greedy = made.generate(ids, max_new_tokens=12, eos_token_id=None)
    for sure in ({"top_k": 1}, {"temperature": 1e-4}, {"top_p": 1e-4}):
        assert torch.equal(made.generate(ids, **draw, **sure), greedy)
    wild = made.generate(ids, **draw, temperature=100.0, top_k=0, num_return_sequences=8)
    assert wild.shape == (16, 19) and len(wild[:, 7:].unique()) > 60
    few = made.generate(ids[:1], **(draw | {"max_new_tokens": 1}), top_k=2, temperature=100.0, num_return_sequences=64)
    assert len(few[:, -1].unique()) == 2


def test_tokens_are_told_as_they_come(llama):
    made, ids = llama[1], prompts()
    told, stopped = [], made.generate(ids, max_new_tokens=9, eos_token_id=None, callback=lambda row, token: row == 0)
    assert (stopped[0, 8:] == PAD).all() and (stopped[1, 8:] != PAD).any()

    class Listener:
        def put(self, tokens):
            told.extend(tokens.flatten().tolist())

        def end(self):
            told.append("end")

    for history in ({}, {"no_repeat_ngram_size": 2}):
        told.clear()
        out = made.generate(ids[:1], max_new_tokens=9, eos_token_id=None, streamer=Listener(), **history)
        assert told == [*out[0].tolist(), "end"]
    with pytest.raises(BadValue, match="one prompt; there are 2"):
        made.generate(ids, streamer=Listener())
    with pytest.raises(BadValue, match="without beams"):
        made.generate(ids, num_beams=2, callback=print)


def test_text_in_and_out(tokenizer):
    made, plain = converted("llama", tokenizer=tokenizer), build("llama").pipe
    text = ["w5 w9", "w70 w81 w90 w4"]
    expected = [
        tokenizer.decode(plain.generate(torch.tensor([tokenizer(t).input_ids]), max_new_tokens=6)[0], True)
        for t in text
    ]
    assert made.generate(text, max_new_tokens=6) == expected and expected[0].startswith("w5 w9 ")
    assert made.generate(text[0], max_new_tokens=6) == expected[0]
    with pytest.raises(BadValue, match="Text needs a tokenizer"):
        converted("llama").generate("w5")


def test_a_saved_folder_gives_equal_tokens(tokenizer, tmp_path):
    made, ids = converted("llama", 8, tokenizer=tokenizer), prompts()
    expected, text = made.generate(ids, max_new_tokens=20), made.generate("w5 w9", max_new_tokens=6)
    gs.save(made, tmp_path / "once")
    gs.save(gs.load(tmp_path / "once"), tmp_path / "twice")
    again = gs.load(tmp_path / "twice")
    assert torch.equal(again.generate(ids, max_new_tokens=20), expected)
    assert again.generate("w5 w9", max_new_tokens=6) == text
    assert gs.status(again).applied[0]["name"] == "c_generate" and again.weight_bits == 8


@pytest.mark.parametrize("name", ALGORITHM)
def test_int8_is_small_and_exact_enough(name):
    applied = gs.status(converted(name, 8)).applied[0]["figures"]
    assert applied["size_after"] < 0.45 * applied["size_before"]
    assert applied["log_probability_sqnr"] > 25
    wide = gs.status(converted(name)).applied[0]["figures"]
    assert wide["log_probability_sqnr"] > 55 and wide["size_on_disk"] < 0.55 * wide["size_before"]


def test_a_trained_model_writes_the_same_text():
    try:
        plain, tokenizer = load_language()
    except BrokenFolder as error:
        pytest.skip(str(error))
    text = ["In the beginning", "And it came to pass, that when"]
    made, small = (gs.optimize(plain, {"c_generate": {"weight_bits": bits}}, tokenizer=tokenizer) for bits in (16, 8))
    for start, written in zip(text, made.generate(text, max_new_tokens=48), strict=True):
        ids = torch.tensor([tokenizer(start).input_ids])
        assert written == tokenizer.decode(plain.generate(input_ids=ids, max_new_tokens=48)[0], True)
    ids = torch.tensor([tokenizer(validation_text()[:3000]).input_ids[:256]])
    likeliest = plain(ids).logits.argmax(-1)[0].tolist()
    single = [small.generate(ids[:, :n], max_new_tokens=1)[0, -1].item() for n in range(8, 256, 8)]
    assert sum(a == b for a, b in zip(single, likeliest[7::8], strict=False)) >= 0.9 * len(single)


def test_the_original_cannot_come_back(llama):
    with pytest.raises(CannotRestore, match="c_generate replaced the model by another object"):
        gs.restore(converted("llama"))


@each(
    ("given", "sentence"),
    [
        ({"typical_p": 0.9}, "no argument 'typical_p'; it has max_new_tokens, max_length"),
        ({"top_p": 1.5}, "'top_p' parameter of CausalGenerator.generate must be a number in the range"),
        ({"num_beams": 0}, "must be an int in the range"),
        ({"max_length": 7}, "no room for a new token"),
        ({"max_new_tokens": 3, "min_new_tokens": 4}, "at least 4 new tokens and at most 3"),
        ({"num_return_sequences": 2}, "only with as many beams"),
        ({"generation_config": GenerationConfig(min_p=0.1)}, "cannot do min_p=0.1"),
    ],
)
def test_bad_arguments_get_a_sentence(llama, given, sentence):
    with pytest.raises(BadValue, match=sentence):
        llama[1].generate(prompts(), **given)


def test_what_is_no_prompt_gets_a_sentence(llama):
    for given in (None, torch.ones(2, 2, 2), torch.ones(2, 2)[:0]):
        with pytest.raises(BadValue, match="input_ids must be an int64 tensor"):
            llama[1].generate(given)


def test_what_the_configuration_wants_in_vain_is_said():
    plain = build("llama").pipe
    plain.generation_config.min_p = 0.1
    with pytest.warns(GearshiftWarning, match=r"min_p=0\.1, which CTranslate2 cannot do"):
        made = gs.optimize(plain, "c_generate")
    assert made.generation_config.min_p == 0.1


@pytest.mark.parametrize(
    ("name", "algorithm"), [("marian", "c_generate"), ("llama", "c_translate"), ("sd", "c_generate")]
)
def test_other_architectures_are_refused_with_a_list(name, algorithm):
    with pytest.raises(BadRecipe, match=r"does not take|works on a language model"):
        gs.optimize(build(name).pipe, algorithm)
    if name == "marian":
        assert "GPT2LMHeadModel" in gs.problems(build(name).pipe, algorithm)[0]


def test_a_conversion_that_is_not_the_model_is_refused():
    plain = build("llama").pipe
    plain.model.layers[0].register_forward_hook(lambda module, args, output: output * 0.1)
    with pytest.raises(GearshiftError, match="computes something else"):
        gs.optimize(plain, "c_generate")


def test_adapters_are_merged():
    peft = pytest.importorskip("peft")
    plain, ids = build("llama").pipe, prompts()
    without = plain.generate(input_ids=ids, max_new_tokens=12)
    plain.add_adapter(peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, r=4))
    plain.eval()
    expected = plain.generate(input_ids=ids, max_new_tokens=12)
    made = gs.optimize(plain, "c_generate")
    assert torch.equal(made.generate(ids, max_new_tokens=12), expected) and not torch.equal(expected, without)
    assert torch.equal(plain.generate(input_ids=ids, max_new_tokens=12), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_t5_keeps_its_confidence(tied):
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "vocab_size": 128}
    tokens = {"eos_token_id": EOS, "pad_token_id": PAD, "decoder_start_token_id": PAD}
    plain = T5ForConditionalGeneration(T5Config(**sizes, **tokens, tie_word_embeddings=tied))
    randomize(plain, 0)
    made, ids = gs.optimize(plain, "c_translate"), prompts()
    assert gs.status(made).applied[0]["figures"]["log_probability_sqnr"] > 55
    assert torch.equal(made.generate(ids, max_new_tokens=12), plain.generate(input_ids=ids, max_new_tokens=12))


@pytest.mark.parametrize("name", ["model.bin", "vocabulary.json"])
def test_a_folder_that_lacks_a_part_is_a_sentence(llama, tmp_path, name):
    made = llama[1]
    made.save_pretrained(tmp_path)
    next(tmp_path.glob(f"*{name}")).unlink()
    with pytest.raises(BrokenFolder, match=name):
        type(made).from_pretrained(tmp_path)
