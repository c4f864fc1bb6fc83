"""Tiny text-to-image pipelines."""

from __future__ import annotations

from typing import Any

import diffusers as d

from .parts import TEXT_DIM, Parts, prompts, text, vae

NO_TEXT: dict[str, Any] = {"text_encoder": None, "tokenizer": None}
NO_TEXTS: dict[str, Any] = NO_TEXT | {"text_encoder_2": None, "tokenizer_2": None}
LATENT: dict[str, Any] = {"output_type": "latent"}
SIZE: dict[str, Any] = LATENT | {"height": 16, "width": 16}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}


def unet(**options: Any) -> d.UNet2DConditionModel:
    return d.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=2,
        norm_num_groups=8,
        cross_attention_dim=TEXT_DIM,
        **options,
    )


def sd() -> Parts:
    net = unet(
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    scheduler = d.DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False)
    pipe = d.StableDiffusionPipeline(
        vae(), unet=net, scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False, **NO_TEXT,
    )  # fmt: skip
    return Parts(pipe, "unet", lambda batch: LATENT | prompts(batch))


def sdxl() -> Parts:
    net = unet(
        attention_head_dim=(2, 4),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=8 * 6 + TEXT_DIM,
    )
    scheduler = d.EulerDiscreteScheduler(**NOISE, timestep_spacing="leading")
    pipe = d.StableDiffusionXLPipeline(vae(), unet=net, scheduler=scheduler, add_watermarker=False, **NO_TEXTS)
    return Parts(pipe, "unet", lambda batch: LATENT | prompts(batch, pooled=TEXT_DIM))


def dit() -> Parts:
    net = d.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3, sample_size=8
    )
    scheduler = d.DDIMScheduler(**NOISE, clip_sample=False)
    pipe = d.DiTPipeline(net, vae(), scheduler, id2label={n: str(n) for n in range(10)})
    return Parts(pipe, "transformer", lambda batch: {"class_labels": list(range(1, batch + 1)), "output_type": "pt"})


def pixart() -> Parts:
    net = d.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=3, sample_size=8,
        cross_attention_dim=32, caption_channels=TEXT_DIM,
    )  # fmt: skip
    scheduler = d.DPMSolverMultistepScheduler(**NOISE)
    pipe = d.PixArtSigmaPipeline(vae=vae(), transformer=net, scheduler=scheduler, **NO_TEXT)
    call = SIZE | {"use_resolution_binning": False, "negative_prompt": None}
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch, mask="attention_mask"))


def sd3(**options: Any) -> Parts:
    net = d.SD3Transformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_DIM, caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=16,
        **options,
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    nothing = NO_TEXTS | {"text_encoder_3": None, "tokenizer_3": None}
    pipe = d.StableDiffusion3Pipeline(net, scheduler, vae(), **nothing)
    return Parts(pipe, "transformer", lambda batch: LATENT | prompts(batch, pooled=32))


def sd35() -> Parts:
    """Stable Diffusion 3.5: normalized queries and keys, and a second attention over the image alone."""
    return sd3(dual_attention_layers=(0,), qk_norm="rms_norm")


def flux() -> Parts:
    net = d.FluxTransformer2DModel(
        in_channels=16, num_layers=3, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_DIM, pooled_projection_dim=32, guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = d.FluxPipeline(scheduler, vae(), transformer=net, **NO_TEXTS)

    def call(batch: int) -> dict[str, Any]:
        found = prompts(batch, pooled=32)
        return SIZE | {name: value for name, value in found.items() if not name.startswith("negative")}

    return Parts(pipe, "transformer", call)


def chroma() -> Parts:
    net = d.ChromaTransformer2DModel(
        in_channels=16, num_layers=3, num_single_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 6, 6), approximator_num_channels=8,
        approximator_hidden_dim=16, approximator_layers=2,
    )  # fmt: skip
    pipe = d.ChromaPipeline(d.FlowMatchEulerDiscreteScheduler(), vae(), transformer=net, **NO_TEXT)
    return Parts(pipe, "transformer", lambda batch: SIZE | prompts(batch, mask="attention_mask"))


def sana() -> Parts:
    net = d.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=3, num_attention_heads=2, attention_head_dim=16,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=TEXT_DIM,
        sample_size=8,
    )  # fmt: skip
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    pipe = d.SanaPipeline(
        vae=None, transformer=net, scheduler=d.DPMSolverMultistepScheduler(**flow), **NO_TEXT
    )  # without an autoencoder the pipeline takes a pixel to latent ratio of 32
    call = LATENT | {"height": 256, "width": 256, "use_resolution_binning": False, "negative_prompt": None}
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch, mask="attention_mask"))


def auraflow() -> Parts:
    net = d.AuraFlowTransformer2DModel(
        sample_size=8, in_channels=4, out_channels=4, num_mmdit_layers=2, num_single_dit_layers=3,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=TEXT_DIM, caption_projection_dim=32,
        pos_embed_max_size=64,
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=1.73)
    pipe = d.AuraFlowPipeline(vae=vae(), transformer=net, scheduler=scheduler, **NO_TEXT)
    return Parts(pipe, "transformer", lambda batch: SIZE | prompts(batch, mask="attention_mask"))


def lumina2() -> Parts:
    net = d.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=32, num_layers=3, num_refiner_layers=2, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=(4, 6, 6), axes_lens=(32, 32, 32), cap_feat_dim=TEXT_DIM,
    )  # fmt: skip
    pipe = d.Lumina2Pipeline(net, d.FlowMatchEulerDiscreteScheduler(shift=6.0), vae(), **NO_TEXT)
    call = LATENT | {"height": 64, "width": 64}  # the pipeline takes a pixel to latent ratio of 8
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch, mask="attention_mask"))


def qwenimage() -> Parts:
    net = d.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipe = d.QwenImagePipeline(scheduler, vae=None, transformer=net, **NO_TEXT)
    call = LATENT | {"height": 64, "width": 64}
    return Parts(pipe, "transformer", lambda batch: call | prompts(batch, mask="embeds_mask"), "true_cfg_scale")


def zimage() -> Parts:
    net = d.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=3, n_refiner_layers=2, n_heads=2, n_kv_heads=2, cap_feat_dim=TEXT_DIM,
        axes_dims=[4, 6, 6], axes_lens=[64, 32, 32],
    )  # fmt: skip
    scheduler = d.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = d.ZImagePipeline(scheduler, vae(), transformer=net, **NO_TEXT)

    def call(batch: int) -> dict[str, Any]:
        positive, negative = (list(text(batch, 8, TEXT_DIM, seed=seed)) for seed in (1, 2))
        return SIZE | {"prompt_embeds": positive, "negative_prompt_embeds": negative}

    return Parts(pipe, "transformer", call, guidance_offset=-1.0)  # its scale counts from 0: 0 is no guidance


BUILDERS = {
    f.__name__: f for f in (sd, sdxl, dit, pixart, sd3, sd35, flux, chroma, sana, auraflow, lumina2, qwenimage, zimage)
}
