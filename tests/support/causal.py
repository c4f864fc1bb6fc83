"""Tiny causal language models of every architecture of transformers that can be made small from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

VOCABULARY, MOST = 160, 4_000_000  # tokens; parameters
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "n_inner": 128,
    "n_positions": 128,
    "rotary_dim": 16,
    "d_model": 64,
    "n_heads": 4,
    "n_layers": 2,
    "max_seq_len": 128,
    "ffn_dim": 128,
    "ffn_hidden_size": 128,
    "word_embed_proj_dim": 64,
    "embedding_size": 64,
    "d_ff": 128,
    "d_kv": 16,
    "num_layers": 2,
    "num_heads": 4,
    "attention_heads": 4,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "num_decoder_layers": 2,
    "num_encoder_layers": 2,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 64,
    "shared_expert_intermediate_size": 64,
    "shared_intermediate_size": 64,
    "kv_lora_rank": 32,
    "q_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "sliding_window": 64,
    "state_size": 16,
    "mamba_d_state": 16,
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_expand": 2,
    "lru_width": 64,
    "attention_window_size": 64,
    "time_step_rank": 4,
    "hidden_dim": 64,
    "ssm_cfg": {},
    "is_decoder": True,
    "use_cache": False,
}
WITHOUT: list[tuple[str, ...]] = [  # sizes that some configurations do not go with, tried in turn
    (),
    ("head_dim", "v_head_dim"),
    ("num_key_value_heads",),
    ("num_layers", "num_hidden_layers"),
    ("num_experts_per_tok", "n_group", "topk_group"),
    ("head_dim", "num_key_value_heads", "num_experts_per_tok"),
]


def architectures() -> list[str]:
    """Model types that transformers has a causal language model of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def causal(model_type: str) -> Any:
    """A tiny model with drawn weights, in eval mode; the same at each call.

    Raises:
        ValueError: if it cannot be made small, or does not answer tokens with finite logits.
    """
    problems = []
    for without in WITHOUT:
        try:
            return _made(model_type, {name: size for name, size in SIZES.items() if name not in without})
        except Exception as error:  # whatever a configuration of these sizes does not go with
            problems.append(" ".join(f"{type(error).__name__}: {error}".split()))
    raise ValueError(problems[0][:150])


def _made(model_type: str, sizes: dict[str, Any]) -> Any:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    kind = CONFIG_MAPPING[model_type]
    known = set(inspect.signature(kind.__init__).parameters) | set(getattr(kind, "attribute_map", {}))
    known |= set(getattr(kind, "__annotations__", {}))
    known |= {name for name in sizes if hasattr(kind, name)}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = kind(**{name: size for name, size in sizes.items() if name in known})
        with torch.device("meta"):
            count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
        if count > MOST:
            raise ValueError(f"{model_type} has {count} parameters at the least")
        model = AutoModelForCausalLM.from_config(config).eval()
        draw(model)
    if not bool(logits(model).isfinite().all()):
        raise ValueError(f"{model_type} answers with NaN")
    return model


@torch.no_grad()
def draw(model: Any) -> None:
    """Matrices of noise scaled by their inputs: none is zero or left as it was allocated."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """float32 [2, 12, vocabulary] for tokens that are always the same."""
    tokens = torch.randint(3, VOCABULARY, (2, 12), generator=torch.Generator().manual_seed(1))
    return model(input_ids=tokens).logits.float()


def models() -> Iterator[tuple[str, Any, str]]:
    """(model type, model or None, why there is none) of all architectures."""
    for name in architectures():
        try:
            yield name, causal(name), ""
        except ValueError as error:
            yield name, None, str(error)
