"""Tiny video pipelines of the newer and rarer families, for sweeps over many pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers as d
import torch

from .images import LATENT
from .newer import DOUBLE, HEADS, UNET, VIDEO, Call, ddim, embedded, flow, whole
from .parts import TEXT_DIM, TOKENS, Parts, prompts, text, vae

WAN: dict[str, Any] = HEADS | {"text_dim": TEXT_DIM, "freq_dim": 16, "ffn_dim": 64, "rope_max_seq_len": 32}


def unipc() -> d.UniPCMultistepScheduler:
    return d.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def wan_vae(channels: int = 16) -> d.AutoencoderKLWan:
    return d.AutoencoderKLWan(
        base_dim=3, z_dim=channels, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def hunyuanvideo15() -> Parts:
    net = d.HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_layers=2, num_refiner_layers=1, text_embed_dim=TEXT_DIM,
        text_embed_2_dim=TEXT_DIM, image_embed_dim=16, rope_axes_dim=(4, 6, 6), target_size=64, task_type="t2v",
        **HEADS,
    )  # fmt: skip
    coder = d.AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(8, 8, 8, 8, 8), layers_per_block=1, spatial_compression_ratio=16,
        temporal_compression_ratio=4,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        found = prompts(batch, mask="embeds_mask")
        second = {k + "_2": v for k, v in found.items()}
        return VIDEO | found | second

    guider = d.ClassifierFreeGuidance(guidance_scale=5.0)
    return whole(d.HunyuanVideo15Pipeline, net, flow(shift=7.0), call, guider=guider, vae=coder)


def cosmos_transformer(**options: Any) -> d.CosmosTransformer3DModel:
    return d.CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, mlp_ratio=2, text_embed_dim=TEXT_DIM, adaln_lora_dim=4,
        max_size=(4, 32, 32), concat_padding_mask=False, rope_scale=(2.0, 1.0, 1.0), **HEADS, **options,
    )  # fmt: skip


class Unchecked:
    """A safety checker that lets everything pass: the pipelines insist on one, and theirs is in another package."""

    def to(self, device: Any) -> None:
        return None

    def check_text_safety(self, *_: Any) -> bool:
        return True


@contextmanager
def unchecked(pipe: Any) -> Iterator[None]:
    vars(pipe)["safety_checker"] = Unchecked()
    yield
    vars(pipe)["safety_checker"] = None


def without_checker(cls: Any, net: Any, scheduler: Any, call: Call) -> Parts:
    parts = whole(cls, net, scheduler, call, safety_checker=Unchecked())
    parts.pipe.register_modules(safety_checker=None)
    parts.prepared = unchecked
    return parts


def edm() -> d.EDMEulerScheduler:
    return d.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80, sigma_data=0.5, sigma_schedule="karras", num_train_timesteps=1000,
        prediction_type="epsilon", rho=7.0, final_sigmas_type="sigma_min",
    )  # fmt: skip


def cosmos() -> Parts:
    net = cosmos_transformer(extra_pos_embed_type="learnable")
    return without_checker(d.CosmosTextToWorldPipeline, net, edm(), embedded(VIDEO | {"num_frames": 9}))


def cosmos2() -> Parts:
    net = cosmos_transformer(extra_pos_embed_type=None)
    call = embedded(LATENT | {"height": 64, "width": 64})
    scheduler = flow(use_karras_sigmas=True)
    return without_checker(d.Cosmos2TextToImagePipeline, net, scheduler, call)


def kandinsky5() -> Parts:
    net = d.Kandinsky5Transformer3DModel(
        in_visual_dim=4, out_visual_dim=4, in_text_dim=TEXT_DIM, in_text_dim2=TEXT_DIM, time_dim=16, model_dim=32,
        ff_dim=32, num_text_blocks=1, num_visual_blocks=2, axes_dims=(4, 6, 6),
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        found = dict(VIDEO)
        for n, negative in enumerate(("", "negative_")):
            found[f"{negative}prompt_embeds_qwen"] = text(batch, TOKENS, TEXT_DIM, seed=1 + n)
            found[f"{negative}prompt_embeds_clip"] = text(batch, TEXT_DIM, seed=3 + n)
            found[f"{negative}prompt_cu_seqlens"] = torch.arange(batch + 1, dtype=torch.int32) * TOKENS
        return found

    return whole(d.Kandinsky5T2VPipeline, net, flow(shift=5.0), call)


def mochi() -> Parts:
    net = d.MochiTransformer3DModel(
        patch_size=2, num_layers=2, pooled_projection_dim=16, in_channels=4, text_embed_dim=TEXT_DIM, time_embed_dim=4,
        **HEADS,
    )  # fmt: skip
    return whole(d.MochiPipeline, net, flow(invert_sigmas=True), embedded(VIDEO, mask="attention_mask"))


def skyreels() -> Parts:
    net = d.SkyReelsV2Transformer3DModel(in_channels=4, out_channels=4, num_layers=2, **WAN)
    return whole(d.SkyReelsV2Pipeline, net, unipc(), embedded(VIDEO))


def allegro() -> Parts:
    net = d.AllegroTransformer3DModel(
        in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=36, caption_channels=TEXT_DIM, sample_height=8,
        sample_width=8, sample_frames=2, num_attention_heads=2, attention_head_dim=18,
    )  # fmt: skip
    call = embedded(VIDEO | {"num_frames": 8, "negative_prompt": None}, mask="attention_mask")
    return whole(d.AllegroPipeline, net, ddim(), call)


def sana_video() -> Parts:
    net = d.SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=16,
        cross_attention_dim=32, caption_channels=TEXT_DIM, sample_size=8, **HEADS,
    )  # fmt: skip
    fixed = LATENT | {"height": 64, "width": 64, "frames": 5, "use_resolution_binning": False, "negative_prompt": None}
    scheduler = d.DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return whole(d.SanaVideoPipeline, net, scheduler, embedded(fixed, mask="attention_mask"), vae=wan_vae())


def animatediff() -> Parts:
    base = d.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=TEXT_DIM, attention_head_dim=2, **UNET,
    )  # fmt: skip
    adapter = d.MotionAdapter(
        block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=2, motion_num_attention_heads=4
    )
    call = embedded(LATENT | {"height": 16, "width": 16, "num_frames": 2})
    net = d.UNetMotionModel.from_unet2d(base, adapter)
    return whole(d.AnimateDiffPipeline, net, ddim(), call, "unet", vae=vae(), motion_adapter=adapter)


def motif_video() -> Parts:
    net = d.MotifVideoTransformer3DModel(
        in_channels=9, out_channels=4, text_embed_dim=TEXT_DIM, rope_axes_dim=(4, 6, 6), **DOUBLE
    )
    guider = d.ClassifierFreeGuidance(guidance_scale=4.0)
    call = embedded(VIDEO, mask="attention_mask")
    return whole(d.MotifVideoPipeline, net, flow(shift=3.0), call, guider=guider, vae=wan_vae(4))


def ltx2() -> Parts:
    net = d.LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        audio_in_channels=4, audio_out_channels=4, audio_num_attention_heads=2, audio_attention_head_dim=4,
        audio_cross_attention_dim=8, num_layers=2, caption_channels=TEXT_DIM, rope_double_precision=False,
        rope_type="split",
    )  # fmt: skip
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    connectors = LTX2TextConnectors(
        caption_channels=TEXT_DIM, text_proj_in_factor=1, video_connector_num_attention_heads=4,
        video_connector_attention_head_dim=8, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None,
        audio_connector_num_attention_heads=4, audio_connector_attention_head_dim=8, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, connector_rope_base_seq_len=32, rope_theta=10000.0,
        rope_double_precision=False, causal_temporal_positioning=False, rope_type="split",
    )  # fmt: skip
    fixed = LATENT | {"height": 32, "width": 32, "num_frames": 5, "stg_scale": 0.0, "modality_scale": 1.0,
        "audio_stg_scale": 0.0, "audio_modality_scale": 1.0}  # fmt: skip
    coder = d.AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,), layers_per_block=(1,),
        decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,), decoder_spatio_temporal_scaling=(True,),
        decoder_inject_noise=(False, False), downsample_type=("spatial",), upsample_residual=(False,),
        upsample_factor=(1,), patch_size=1,
    )  # fmt: skip
    sound = d.AutoencoderKLLTX2Audio(
        base_channels=4, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None, resolution=32, latent_channels=2,
        mid_block_add_attention=False, mel_bins=8,
    )  # fmt: skip
    scheduler = flow(use_dynamic_shifting=True, shift_terminal=0.1)
    call = embedded(fixed, mask="attention_mask")
    return whole(d.LTX2Pipeline, net, scheduler, call, connectors=connectors, vae=coder, audio_vae=sound)


def svd() -> Parts:
    net = d.UNetSpatioTemporalConditionModel(
        in_channels=8, out_channels=4, block_out_channels=(32, 64), layers_per_block=1, num_attention_heads=(2, 4),
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"), cross_attention_dim=TEXT_DIM,
        addition_time_embed_dim=8, projection_class_embeddings_input_dim=24, sample_size=8,
    )  # fmt: skip
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    eye = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=16,
            projection_dim=TEXT_DIM,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=16,
            intermediate_size=16,
            patch_size=4,
        )
    ).eval()
    coder = d.AutoencoderKLTemporalDecoder(
        block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2, latent_channels=4
    )
    scheduler = d.EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
        timestep_spacing="leading", timestep_type="continuous", interpolation_type="linear", steps_offset=1,
    )  # fmt: skip

    def call(batch: int) -> dict[str, Any]:
        image = text(batch, 3, 16, 16).sigmoid()
        return LATENT | {
            "image": image,
            "height": 16,
            "width": 16,
            "num_frames": 2,
            "max_guidance_scale": 2.5,
            "min_guidance_scale": 1.5,
        }

    processor = CLIPImageProcessor(crop_size={"height": 16, "width": 16}, size={"shortest_edge": 16})
    found = whole(
        d.StableVideoDiffusionPipeline, net, scheduler, call, "unet", vae=coder.eval(), image_encoder=eye,
        feature_extractor=processor,
    )  # fmt: skip
    found.guidance = "max_guidance_scale"
    return found


BUILDERS = {
    f.__name__: f
    for f in (
        hunyuanvideo15, cosmos, cosmos2, kandinsky5, mochi, skyreels, allegro, sana_video, animatediff,
        motif_video, ltx2, svd,
    )
}  # fmt: skip
