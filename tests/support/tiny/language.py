"""Tiny random-weight transformers models: language, translation and speech, with what they are called with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

VOCABULARY = 128


@dataclass
class TinyLanguage:
    """A tiny model of tokens or sound, and how to call it. `pipe` is the model, as for the tiny pipelines."""

    name: str
    pipe: PreTrainedModel

    def run(self, steps: int = 6, batch: int = 1, seed: int = 0, pipe: Any = None) -> torch.Tensor:
        """Logits [batch, tokens, vocabulary] for seeded tokens; float32. `steps` is how many tokens come in."""
        with torch.no_grad():
            return (pipe or self.pipe)(**self.call(steps, batch, seed)).logits.float()

    def call(self, steps: int = 6, batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
        """Arguments of `forward`."""
        generator = torch.Generator().manual_seed(seed)
        tokens = torch.randint(3, VOCABULARY, (batch, steps), generator=generator)
        if self.name == "whisper":
            sound = torch.randn(batch, 16, 64, generator=generator).to(self.pipe.dtype)
            return {"input_features": sound, "decoder_input_ids": tokens}
        return {"input_ids": tokens} | ({"decoder_input_ids": tokens} if self.name == "marian" else {})


def llama() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes, **special))


def gpt2() -> PreTrainedModel:
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4, **special))


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return OPTForCausalLM(
        OPTConfig(vocab_size=VOCABULARY, num_attention_heads=4, max_position_embeddings=64, **sizes, **special)
    )


def marian() -> PreTrainedModel:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 64}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 0}
    return MarianMTModel(MarianConfig(vocab_size=VOCABULARY, **sizes, **heads, **special))


def whisper() -> PreTrainedModel:
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 32}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "decoder_start_token_id": 1}
    return WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=VOCABULARY, num_mel_bins=16, max_target_positions=64, **sizes, **heads, **special)
    )


BUILDERS = {"llama": llama, "gpt2": gpt2, "opt": opt, "marian": marian, "whisper": whisper}
