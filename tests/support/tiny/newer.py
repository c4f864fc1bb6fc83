"""Tiny pipelines of the newer and rarer families, for sweeps over many pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import diffusers as d
import torch

from .images import LATENT, NOISE, SIZE
from .parts import TEXT_DIM, TOKENS, Parts, prompts, text, vae

HEADS: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 16}
SIDE: dict[str, Any] = LATENT | {"height": 64, "width": 64}
VIDEO: dict[str, Any] = SIDE | {"num_frames": 5}
DOUBLE: dict[str, Any] = HEADS | {"num_layers": 2, "num_single_layers": 2}
UNET: dict[str, Any] = {"block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "sample_size": 8}
Call = Callable[[int], dict[str, Any]]


def whole(cls: Any, net: Any, scheduler: Any, call: Call, denoiser: str = "transformer", **components: Any) -> Parts:
    """A pipeline of these components and of None for all others."""
    known = list(inspect.signature(cls.__init__).parameters.values())[1:]
    nothing = {p.name: None for p in known if p.default is inspect.Parameter.empty}
    pipe = cls(**(nothing | {denoiser: net, "scheduler": scheduler} | components))
    return Parts(pipe, denoiser, call)


def flow(**options: Any) -> d.FlowMatchEulerDiscreteScheduler:
    return d.FlowMatchEulerDiscreteScheduler(**options)


def ddim() -> d.DDIMScheduler:
    return d.DDIMScheduler(**NOISE, clip_sample=False)


def embedded(fixed: dict[str, Any], *shape: int, **options: Any) -> Call:
    return lambda batch: fixed | prompts(batch, *shape, **options)


def one_sided(fixed: dict[str, Any], **options: Any) -> Call:
    """Embeddings of prompts, none of negative ones."""
    both = embedded(fixed, **options)
    return lambda batch: {k: v for k, v in both(batch).items() if not k.startswith("negative")}


def flux2_transformer(**options: Any) -> d.Flux2Transformer2DModel:
    return d.Flux2Transformer2DModel(
        in_channels=16, joint_attention_dim=TEXT_DIM, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
        **DOUBLE, **options,
    )  # fmt: skip


def flux2_vae() -> d.AutoencoderKLFlux2:
    return d.AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4,
    ).eval()  # fmt: skip


def flux2() -> Parts:
    return whole(
        d.Flux2Pipeline, flux2_transformer(), flow(use_dynamic_shifting=True), one_sided(SIZE), vae=flux2_vae()
    )


def flux2_klein() -> Parts:
    net = flux2_transformer(guidance_embeds=False)
    return whole(
        d.Flux2KleinPipeline, net, flow(use_dynamic_shifting=True), embedded(SIZE), vae=flux2_vae(), is_distilled=False
    )


def cogview4() -> Parts:
    net = d.CogView4Transformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, text_embed_dim=TEXT_DIM, time_embed_dim=16, condition_dim=4,
        pos_embed_max_size=16, sample_size=8, rope_axes_dim=(16, 16), **HEADS,
    )  # fmt: skip
    shifting = {"base_shift": 0.25, "max_shift": 0.75, "use_dynamic_shifting": True, "time_shift_type": "linear"}
    return whole(d.CogView4Pipeline, net, flow(**shifting), embedded(SIZE), vae=vae())


def cogview3plus() -> Parts:
    net = d.CogView3PlusTransformer2DModel(
        in_channels=4, out_channels=4, num_layers=2, text_embed_dim=TEXT_DIM, time_embed_dim=16, condition_dim=4,
        pos_embed_max_size=16, sample_size=8, **HEADS,
    )  # fmt: skip
    scheduler = d.CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    return whole(d.CogView3PlusPipeline, net, scheduler, embedded(SIZE), vae=vae())


def hidream() -> Parts:
    net = d.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=4, out_channels=4, caption_channels=(TEXT_DIM, TEXT_DIM), text_emb_dim=64,
        axes_dims_rope=(4, 4, 8), max_resolution=(16, 16), llama_layers=(0, 1, 2, 3), num_routed_experts=2,
        num_activated_experts=1, force_inference_output=True, **DOUBLE,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        found = dict(LATENT) | {"height": 16, "width": 16}
        for n, negative in enumerate(("", "negative_")):
            found[f"{negative}prompt_embeds_t5"] = text(batch, TOKENS, TEXT_DIM, seed=1 + n)
            llama = [text(batch, TOKENS, TEXT_DIM, seed=3 + 4 * n + layer) for layer in range(4)]
            found[f"{negative}prompt_embeds_llama3"] = torch.stack(llama)
            found[f"{negative}pooled_prompt_embeds"] = text(batch, 64, seed=20 + n)
        return found

    return whole(d.HiDreamImagePipeline, net, flow(shift=3.0), call, vae=vae(levels=6))


def bria() -> Parts:
    net = d.BriaTransformer2DModel(in_channels=16, joint_attention_dim=TEXT_DIM, axes_dims_rope=[4, 6, 6], **DOUBLE)
    return whole(d.BriaPipeline, net, flow(), embedded(SIZE), vae=vae())


def hunyuandit() -> Parts:
    net = d.HunyuanDiT2DModel(
        in_channels=4, patch_size=2, sample_size=8, hidden_size=32, num_layers=4, cross_attention_dim=TEXT_DIM,
        cross_attention_dim_t5=TEXT_DIM, pooled_projection_dim=16, text_len=TOKENS, text_len_t5=TOKENS,
        use_style_cond_and_image_meta_size=False, **HEADS,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        found = prompts(batch, mask="attention_mask")
        second = {f"{name}_2": value.flip(1) for name, value in found.items()}
        return SIZE | {"use_resolution_binning": False} | found | second

    options = {"requires_safety_checker": False, "vae": vae()}
    return whole(d.HunyuanDiTPipeline, net, d.DDPMScheduler(**NOISE), call, **options)


def hunyuanimage() -> Parts:
    net = d.HunyuanImageTransformer2DModel(
        in_channels=4, out_channels=4, num_refiner_layers=1, text_embed_dim=TEXT_DIM, text_embed_2_dim=TEXT_DIM,
        rope_axes_dim=(8, 8), guidance_embeds=False, **DOUBLE,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        found = prompts(batch, mask="embeds_mask")
        second = {k.replace("embeds", "embeds_2", 1) if k.endswith("embeds") else f"{k}_2": v for k, v in found.items()}
        return LATENT | {"height": 256, "width": 256} | found | second

    guider = d.AdaptiveProjectedMixGuidance(adaptive_projected_guidance_start_step=2)
    return whole(d.HunyuanImagePipeline, net, flow(shift=7.0), call, guider=guider)


def lumina() -> Parts:
    net = d.LuminaNextDiT2DModel(
        sample_size=8, patch_size=2, in_channels=4, hidden_size=32, num_layers=2, num_attention_heads=2, num_kv_heads=1,
        multiple_of=16, cross_attention_dim=TEXT_DIM,
    )  # fmt: skip
    call = embedded(SIZE | {"negative_prompt": None}, mask="attention_mask")
    return whole(d.LuminaPipeline, net, flow(), call, vae=vae())


def prx() -> Parts:
    net = d.PRXTransformer2DModel(
        in_channels=4, patch_size=2, context_in_dim=TEXT_DIM, hidden_size=32, num_heads=2, depth=2, axes_dim=[8, 8],
        mlp_ratio=2.0,
    )  # fmt: skip
    call = embedded(SIDE | {"use_resolution_binning": False, "negative_prompt": None}, mask="attention_mask")
    return whole(d.PRXPipeline, net, flow(shift=3.0), call, vae=vae())


def ovis() -> Parts:
    net = d.OvisImageTransformer2DModel(
        in_channels=16, out_channels=16, joint_attention_dim=TEXT_DIM, axes_dims_rope=(4, 6, 6), **DOUBLE
    )
    call = embedded(SIZE | {"negative_prompt": None})
    return whole(d.OvisImagePipeline, net, flow(use_dynamic_shifting=True), call, vae=vae())


def krea2() -> Parts:
    net = d.Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=32, timestep_embed_dim=16, text_hidden_dim=TEXT_DIM, num_text_layers=2,
        text_num_attention_heads=2, text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    call = embedded(SIDE, TOKENS, 2, TEXT_DIM, mask="embeds_mask")
    return whole(d.Krea2Pipeline, net, flow(use_dynamic_shifting=True), call)


def _movq() -> Any:
    return d.VQModel(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, vq_embed_dim=4, norm_num_groups=4,
    )  # fmt: skip


def kandinsky3() -> Parts:
    net = d.Kandinsky3UNet(
        time_embedding_dim=16, groups=2, attention_head_dim=4, layers_per_block=2, block_out_channels=(8, 16, 16, 16),
        cross_attention_dim=8, encoder_hid_dim=TEXT_DIM,
    )  # fmt: skip
    movq = _movq()

    def call(batch: int) -> dict[str, Any]:
        mask = torch.ones(batch, TOKENS)
        masks = {"attention_mask": mask, "negative_attention_mask": mask.clone()}
        return LATENT | {"height": 128, "width": 128} | prompts(batch) | masks

    return whole(d.Kandinsky3Pipeline, net, d.DDPMScheduler(**NOISE), call, "unet", movq=movq)


def unconditional() -> Parts:
    net = d.UNet2DModel(
        in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), **UNET,
    )  # fmt: skip
    return whole(d.DDIMPipeline, net, ddim(), lambda batch: {"batch_size": batch, "output_type": "np"}, "unet")


def stable_audio() -> Parts:
    net = d.StableAudioDiTModel(
        sample_size=8, in_channels=4, out_channels=4, num_layers=2, num_key_value_attention_heads=2,
        cross_attention_dim=TEXT_DIM, time_proj_dim=16, global_states_input_dim=2 * TEXT_DIM,
        cross_attention_input_dim=TEXT_DIM, **HEADS,
    )  # fmt: skip
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel

    projection = StableAudioProjectionModel(
        text_encoder_dim=TEXT_DIM, conditioning_dim=TEXT_DIM, min_value=0, max_value=32
    )
    sound = d.AutoencoderOobleck(
        encoder_hidden_size=8, downsampling_ratios=[1, 2], decoder_channels=8, decoder_input_channels=4,
        audio_channels=2, channel_multiples=[1, 2], sampling_rate=4,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        mask = torch.ones(batch, TOKENS, dtype=torch.long)
        masks = {"attention_mask": mask, "negative_attention_mask": mask.clone()}
        return LATENT | {"audio_end_in_s": 3.0} | prompts(batch) | masks

    scheduler = d.EDMDPMSolverMultistepScheduler(solver_order=2, sigma_data=1.0, prediction_type="v_prediction")
    return whole(d.StableAudioPipeline, net, scheduler, call, projection_model=projection, vae=sound)


def cascade_unet(**options: Any) -> Any:
    from diffusers.models.unets import StableCascadeUNet

    return StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=16, conditioning_dim=16,
        block_out_channels=(16, 16), num_attention_heads=(2, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), clip_text_pooled_in_channels=TEXT_DIM, clip_seq=1, **options,
    )  # fmt: skip


def cascade_prior() -> Parts:
    net = cascade_unet(
        clip_text_in_channels=TEXT_DIM,
        clip_image_in_channels=TEXT_DIM,
        switch_level=(False,),
        down_blocks_repeat_mappers=(1, 1),
    )

    def call(batch: int) -> dict[str, Any]:
        pooled = {
            "prompt_embeds_pooled": text(batch, 1, TEXT_DIM, seed=3),
            "negative_prompt_embeds_pooled": text(batch, 1, TEXT_DIM, seed=4),
        }
        return {"height": 256, "width": 256} | prompts(batch) | pooled

    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = CLIPTextModelWithProjection(CLIPTextConfig(vocab_size=64, projection_dim=TEXT_DIM, **small)).eval()
    return whole(d.StableCascadePriorPipeline, net, d.DDPMWuerstchenScheduler(), call, "prior", text_encoder=encoder)


def cascade_decoder() -> Parts:
    net = cascade_unet(effnet_in_channels=4, patch_size=2)
    vqgan = d.AutoencoderTiny(
        in_channels=3, out_channels=3, latent_channels=4, encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        pooled = {"prompt_embeds_pooled": text(batch, 1, TEXT_DIM, seed=3)}
        negative = {"negative_prompt_embeds_pooled": text(batch, 1, TEXT_DIM, seed=4)}
        return (
            LATENT
            | {"image_embeddings": text(batch, 4, 4, 4, seed=5)}
            | prompts(batch)
            | pooled
            | negative
            | {"guidance_scale": 2.0}
        )

    return whole(d.StableCascadeDecoderPipeline, net, d.DDPMWuerstchenScheduler(), call, "decoder", vqgan=vqgan)


def kandinsky22() -> Parts:
    net = d.UNet2DConditionModel(
        in_channels=4, out_channels=8, addition_embed_type="image", encoder_hid_dim=TEXT_DIM,
        encoder_hid_dim_type="image_proj", cross_attention_dim=8, attention_head_dim=4,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn", resnet_time_scale_shift="scale_shift", **UNET,
    )  # fmt: skip
    movq = _movq()

    def call(batch: int) -> dict[str, Any]:
        images = {"image_embeds": text(batch, TEXT_DIM), "negative_image_embeds": text(batch, TEXT_DIM, seed=2)}
        return SIDE | images

    return whole(d.KandinskyV22Pipeline, net, d.DDPMScheduler(**NOISE), call, "unet", movq=movq)


def audioldm2() -> Parts:
    net = d.AudioLDM2UNet2DConditionModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=((None, TEXT_DIM, TEXT_DIM),) * 2, attention_head_dim=4, **UNET,
    )  # fmt: skip
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        SpeechT5HifiGan,
        SpeechT5HifiGanConfig,
        T5Config,
        T5EncoderModel,
    )

    vocoder = SpeechT5HifiGan(
        SpeechT5HifiGanConfig(
            model_in_dim=8,
            sampling_rate=16000,
            upsample_initial_channel=16,
            upsample_rates=[2, 2],
            upsample_kernel_sizes=[4, 4],
            resblock_kernel_sizes=[3, 7],
            resblock_dilation_sizes=[[1, 3], [1, 3]],
        )
    )

    def call(batch: int) -> dict[str, Any]:
        mask = torch.ones(batch, TOKENS, dtype=torch.long)
        made = {"generated_prompt_embeds": text(batch, TOKENS, TEXT_DIM, seed=5)}
        made["negative_generated_prompt_embeds"] = text(batch, TOKENS, TEXT_DIM, seed=6)
        masks = {"attention_mask": mask, "negative_attention_mask": mask.clone()}
        return LATENT | {"audio_length_in_s": 0.016} | prompts(batch) | made | masks

    small = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 64}
    encoder = T5EncoderModel(T5Config(**small)).eval()
    speaker = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=TEXT_DIM, n_layer=1, n_head=2)).eval()
    parts = {"vae": vae(), "vocoder": vocoder, "text_encoder_2": encoder, "language_model": speaker}
    return whole(d.AudioLDM2Pipeline, net, ddim(), call, "unet", **parts)


BUILDERS = {
    f.__name__: f
    for f in (
        flux2, flux2_klein, cogview4, cogview3plus, hidream, bria, hunyuandit, hunyuanimage, lumina, prx, ovis,
        krea2, kandinsky3, unconditional, stable_audio, cascade_prior, cascade_decoder, kandinsky22, audioldm2,
    )
}  # fmt: skip
