"""Tiny text-to-video pipelines: two latent frames, no autoencoder."""

from __future__ import annotations

from typing import Any

import diffusers as d

from .images import LATENT, NO_TEXT, NO_TEXTS, NOISE
from .parts import TEXT_DIM, Parts, prompts

VIDEO: dict[str, Any] = LATENT | {"height": 64, "width": 64, "num_frames": 5}


def cogvideox() -> Parts:
    net = d.CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, time_embed_dim=16,
        text_embed_dim=TEXT_DIM, num_layers=3, sample_width=8, sample_height=8, sample_frames=5, max_text_seq_length=8,
    )  # fmt: skip
    scheduler = d.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    pipe = d.CogVideoXPipeline(vae=None, transformer=net, scheduler=scheduler, **NO_TEXT)
    return Parts(pipe, "transformer", lambda batch: VIDEO | {"max_sequence_length": 8} | prompts(batch))


def wan_transformer() -> d.WanTransformer3DModel:
    return d.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, text_dim=TEXT_DIM, freq_dim=16,
        ffn_dim=64, num_layers=3, rope_max_seq_len=32,
    )  # fmt: skip


def wan(**options: Any) -> Parts:
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    scheduler = d.UniPCMultistepScheduler(**flow)
    pipe = d.WanPipeline(vae=None, transformer=wan_transformer(), scheduler=scheduler, **NO_TEXT, **options)
    return Parts(pipe, "transformer", lambda batch: VIDEO | prompts(batch))


def wan22() -> Parts:
    """Wan 2.2: one transformer for high noise, another for low."""
    return wan(transformer_2=wan_transformer(), boundary_ratio=0.8)


def ltx() -> Parts:
    net = d.LTXVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=32,
        num_layers=3, caption_channels=TEXT_DIM,
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1)
    pipe = d.LTXPipeline(scheduler, vae=None, transformer=net, **NO_TEXT)
    call = LATENT | {"height": 128, "width": 128, "num_frames": 9}
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch, mask="attention_mask"))


def hunyuanvideo() -> Parts:
    net = d.HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=3, num_single_layers=3,
        num_refiner_layers=2, text_embed_dim=TEXT_DIM, pooled_projection_dim=32, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=7.0)
    pipe = d.HunyuanVideoPipeline(vae=None, transformer=net, scheduler=scheduler, **NO_TEXTS)

    def call(batch: int) -> dict[str, Any]:
        found = prompts(batch, mask="attention_mask", pooled=32)
        return VIDEO | {name: value for name, value in found.items() if not name.startswith("negative")}

    return Parts(pipe, "transformer", call)


def latte() -> Parts:
    net = d.LatteTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
        patch_size=2, cross_attention_dim=32, caption_channels=TEXT_DIM, num_embeds_ada_norm=1000, attention_bias=True,
        activation_fn="gelu-approximate", norm_type="ada_norm_single", norm_elementwise_affine=False, video_length=2,
    )  # fmt: skip
    scheduler = d.DDIMScheduler(**NOISE, clip_sample=False)
    pipe = d.LattePipeline(vae=None, transformer=net, scheduler=scheduler, **NO_TEXT)
    call = LATENT | {"height": 64, "width": 64, "video_length": 2, "negative_prompt": None}
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch))


BUILDERS = {f.__name__: f for f in (cogvideox, wan, wan22, ltx, hunyuanvideo, latte)}
