"""What a converted model is tried on: positions past every bound of its configuration, and every field of it."""

import pytest
import torch
from support.each import each
from support.tiny import build, randomize
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import gearshift as gs
from gearshift.core.errors import BadValue, GearshiftError
from gearshift.runtimes.fields import Reads, unread
from gearshift.runtimes.trial import LONG, LONGEST, PAST, SHORT, lengths

pytest.importorskip("ctranslate2")
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
SHARED = {**SIZES, "num_key_value_heads": 2}
TOKENS = {"vocab_size": 128, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 256}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}


def rope(kind="default", theta=10000.0, **more):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **more}}


def made(cls, config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(config)
    randomize(model, 0)
    return model.eval()


TAKEN = {
    "llama": lambda: made(LlamaForCausalLM, LlamaConfig(**SHARED, **TOKENS, **rope(theta=5e5))),
    "llama linear": lambda: made(LlamaForCausalLM, LlamaConfig(**SHARED, **TOKENS, **rope("linear", factor=4.0))),
    "mistral": lambda: made(MistralForCausalLM, MistralConfig(**SHARED, **TOKENS, sliding_window=None)),
    "mistral, a window beyond its positions": lambda: made(MistralForCausalLM, MistralConfig(**SHARED, **TOKENS)),
    "qwen2": lambda: made(
        Qwen2ForCausalLM, Qwen2Config(**SHARED, **TOKENS, **rope(theta=1e6), sliding_window=64, max_window_layers=1)
    ),
    "gptneox, another base": lambda: made(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES, **TOKENS, **rope(theta=5e4))),
    "gptneox, half turned": lambda: made(
        GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES, **TOKENS, **rope(theta=2e4, partial_rotary_factor=0.5))
    ),
    "gemma": lambda: made(GemmaForCausalLM, GemmaConfig(**SHARED, **TOKENS, **rope(theta=2e4), head_dim=16)),
}
REFUSED = {
    "mistral window": (
        lambda: made(MistralForCausalLM, MistralConfig(**SHARED, **TOKENS, sliding_window=48)),
        "only after 80 tokens",
    ),
    "qwen2 window": (
        lambda: made(
            Qwen2ForCausalLM,
            Qwen2Config(**SHARED, **TOKENS, use_sliding_window=True, sliding_window=100, max_window_layers=0),
        ),
        "sliding_window=100",
    ),
    "gptneox scaled": (
        lambda: made(GPTNeoXForCausalLM, GPTNeoXConfig(**SIZES, **TOKENS, **rope("linear", factor=4.0))),
        "rope_parameters",
    ),
    "t5 distance": (
        lambda: made(
            T5ForConditionalGeneration,
            T5Config(**T5, vocab_size=128, pad_token_id=0, eos_token_id=1, relative_attention_max_distance=64),
        ),
        "relative_attention_max_distance=64",
    ),
}


@each("name", TAKEN)
def test_what_is_taken_writes_the_models_tokens_at_every_length(name):
    plain, model = TAKEN[name](), gs.optimize(TAKEN[name](), "c_generate")
    for tokens in (8, 60, 220):
        ids = torch.randint(3, 128, (1, tokens), generator=torch.Generator().manual_seed(tokens))
        given = {"max_new_tokens": 20, "min_new_tokens": 20}
        assert torch.equal(model.generate(ids, **given), plain.generate(input_ids=ids, **given))


@each("bits", [16, 8])
@each("name", REFUSED)
def test_what_the_converter_leaves_out_is_refused(name, bits):
    make, words = REFUSED[name]
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    algorithm = "c_translate" if model.config.is_encoder_decoder else "c_generate"
    with pytest.raises(GearshiftError, match=words):
        gs.optimize(model, {algorithm: {"weight_bits": bits}})
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not gs.status(model).applied


def test_calls_are_as_long_as_what_is_at_stake():
    assert lengths("x", LlamaConfig(max_position_embeddings=64), 8) == [SHORT, 56]
    assert lengths("x", LlamaConfig(max_position_embeddings=4096), 8) == [SHORT, LONG]
    windowed = MistralConfig(sliding_window=4096, max_position_embeddings=32768)
    assert lengths("x", windowed, 8) == [SHORT, LONG, 4096 + PAST]
    scaled = LlamaConfig(
        max_position_embeddings=8192, **rope("yarn", factor=4.0, original_max_position_embeddings=2048)
    )
    assert 2048 + PAST in lengths("x", scaled, 8)
    with pytest.raises(GearshiftError, match=r"from 16384 tokens on \(sliding_window\)"):
        lengths("x", MistralConfig(sliding_window=2 * 8192, max_position_embeddings=32768), 8)
    assert max(lengths("x", Phi3Config(sliding_window=2047), 8)) == 2047 + PAST <= LONGEST


def test_fields_that_nobody_read_and_that_may_matter_are_named():
    config = LlamaConfig(**SHARED, **TOKENS, **rope("yarn", factor=4.0), attention_dropout=0.5, hidden_act="gelu")
    assert [field.partition("=")[0] for field in unread(config, set())] == ["rope_parameters"]
    read = set()
    Reads(config, read).rope_scaling  # noqa: B018
    assert unread(config, read) == []
    assert unread(LlamaConfig(**rope(theta=3e4)), set()) == [], "a base alone is told to the engine"
    assert unread(MarianConfig(scale_embedding=True, d_model=32, max_length=9), set()) == []


def test_prompts_that_the_engine_cannot_take_are_one_sentence():
    model = gs.optimize(build("gpt2").pipe, "c_generate")
    with pytest.raises(BadValue, match="No position encodings are defined for positions >= 64"):
        model.generate(torch.full((1, 70), 5))
    with pytest.raises(BadValue, match="from 0 to 127"):
        model.generate(torch.tensor([[5, 500]]))
    with pytest.raises(BadValue, match="Got -1"):
        model.generate(torch.tensor([[5, -1]]))
