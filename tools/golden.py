"""Write the saved folders that every later release has to load: one for each way in which a folder keeps something.

Run once for a release, with that release's code; what is written is never changed afterwards. Beside each folder lies
NAME.json: the recipe, and a short SHA-256 of every tensor of the model's state dicts.

usage: python tools/golden.py tests/golden/VERSION
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import diffusers as d  # noqa: E402
import torch  # noqa: E402
import transformers as t  # noqa: E402
from support.hashes import recipe, tensors  # noqa: E402
from support.tiny import randomize  # noqa: E402

import gearshift as gs  # noqa: E402
from gearshift.core.model import parts  # noqa: E402

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
TOKENS = torch.arange(1024)[None] % 64


def vae() -> Any:
    return d.AutoencoderKL(block_out_channels=(4,), latent_channels=4, norm_num_groups=2, shift_factor=0.0)


def stable_diffusion() -> Any:
    net = d.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return d.StableDiffusionPipeline(
        vae(), unet=net, scheduler=d.DDIMScheduler(**NOISE), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **NO_TEXT,
    )  # fmt: skip


def dit() -> Any:
    net = d.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
        num_embeds_ada_norm=16,
    )  # fmt: skip
    return d.DiTPipeline(net, vae(), d.DDIMScheduler(**NOISE), id2label={n: str(n) for n in range(10)})


def flux() -> Any:
    net = d.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=1,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    texts = {**NO_TEXT, "text_encoder_2": None, "tokenizer_2": None}
    return d.FluxPipeline(scheduler=d.FlowMatchEulerDiscreteScheduler(), vae=vae(), transformer=net, **texts)


def llama() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    return t.LlamaForCausalLM(t.LlamaConfig(vocab_size=64, num_key_value_heads=2, tie_word_embeddings=True, **sizes))


def gpt2() -> Any:
    return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=64, n_positions=32, n_embd=32, n_layer=1, n_head=4))


def whisper() -> Any:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 16, "num_mel_bins": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    return t.WhisperForConditionalGeneration(
        t.WhisperConfig(vocab_size=64, max_target_positions=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                        decoder_start_token_id=1, **sizes, **heads)
    )  # fmt: skip


def run(pipe: Any) -> None:
    """One call, in which planners find their schedule."""
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"prompt_embeds": torch.ones(1, 4, 16), "pooled_prompt_embeds": torch.ones(1, 16)}
    call |= {"num_inference_steps": 8, "generator": torch.Generator().manual_seed(0)}
    pipe(height=16, width=16, output_type="latent", **call)


CASES: dict[str, tuple[Callable[[], Any], str, bool]] = {
    "replayed": (stable_diffusion, "qkv_diffusers, taylor(order=1)", False),
    "int8": (dit, "torch_dynamic, fora(interval=3)", False),
    "gears": (flux, "auto(speed_factor=0.6), adaptive_precision", True),
    "nothing": (llama, "", False),
    "calibrated": (llama, "gptq", False),
    "halfquadratic": (llama, "hqq(weight_bits=4)", False),
    "transposed": (gpt2, "ipex_llm(weight_bits=8)", False),
    "smaller": (llama, "torch_structured", False),
    "recovered": (llama, "torch_dynamic, text_to_text_lora(num_epochs=1)", False),
    "sixteen": (whisper, "half", False),
}


def write(name: str, folder: Path) -> None:
    """One folder, and beside it what has to come out of it."""
    build, wanted, runs = CASES[name]
    torch.manual_seed(0)
    model = build()
    for n, part in enumerate(parts(model).values()):
        randomize(part, n)
    if wanted:
        gs.optimize(model, wanted, data=[{"input_ids": TOKENS}] if build is llama else None)
    if runs:
        run(model)
    gs.save(model, folder / name)
    expected = {"recipe": recipe(model), "tensors": tensors(model)}
    (folder / f"{name}.json").write_text(json.dumps(expected, indent=1) + "\n")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("folder", type=Path)
    folder = asked.parse_args().folder
    if folder.exists():
        print(f"{folder} exists; a release's folders are written once.", file=sys.stderr)
        return 2
    folder.mkdir(parents=True)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    for name in CASES:
        write(name, folder)
        print(name, sum(p.stat().st_size for p in (folder / name).rglob("*") if p.is_file()), "bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
