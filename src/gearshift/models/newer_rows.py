"""Rows of denoisers, continued: families that are newer or rarer; each is checked on a tiny pipeline that is run."""

from __future__ import annotations

from gearshift.models.denoiser import Attention, Denoiser
from gearshift.models.probe import UNET_BLOCKS

SELF_CROSS: Attention = (("self", ("*.attn1",)), ("cross", ("*.attn2",)))
DOUBLE_SINGLE = ("transformer_blocks", "single_transformer_blocks")
JOINT: Attention = (("joint", ("transformer_blocks.*.attn", "single_transformer_blocks.*.attn")),)
NORMS = ("*.norm1.*", "*.norm1_context.*")
ENDS = ("norm_out.*", "proj_out")

NEWER: dict[str, Denoiser] = {
    "AllegroTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        keep=("pos_embed.*", "adaln_single.*", "caption_projection.*", "proj_out"),
    ),
    "AudioLDM2UNet2DConditionModel": Denoiser(
        blocks=UNET_BLOCKS,
        attention=SELF_CROSS,
        sample="sample",
        keep=("conv_in", "conv_out", "time_embedding.*", "*.time_emb_proj"),
        unet=True,
    ),
    "BriaTransformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        keep=("x_embedder", "context_embedder", "time_embed.*", "single_*.norm.*", *NORMS, *ENDS),
    ),
    "CogView3PlusTransformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn1",)),),
        keep=("patch_embed.*", "time_condition_embed.*", "*.norm1.*", *ENDS),
    ),
    "CogView4Transformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn1",)),),
        guidance="separate",
        cond_first=True,
        keep=("patch_embed.*", "time_condition_embed.*", "*.norm1.*", *ENDS),
    ),
    "CosmosTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        guidance="separate",
        cond_first=True,
        output=0.0,
        keep=("patch_embed.*", "time_embed.*", "*.norm1.*", "*.norm2.*", "*.norm3.*", *ENDS, "norm_out.*"),
    ),
    "Flux2Transformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="embedded",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("x_embedder", "context_embedder", "time_guidance_embed.*", "*_modulation*", *ENDS),
    ),
    "HiDreamImageTransformer2DModel": Denoiser(
        blocks=("double_stream_blocks", "single_stream_blocks"),
        attention=(("joint", ("*.attn1",)),),
        timestep="timesteps",
        text="encoder_hidden_states_t5",
        output=-1.0,
        keep=("x_embedder.*", "t_embedder.*", "p_embedder.*", "caption_projection.*", "*adaLN_modulation.*", "final_*"),
    ),
    "HunyuanDiT2DModel": Denoiser(
        blocks=("blocks",),
        attention=SELF_CROSS,
        keep=("pos_embed.*", "text_embedder.*", "time_extra_emb.*", "*.norm1.*", *ENDS),
    ),
    "HunyuanImageTransformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="separate",
        cond_first=True,
        keep=("x_embedder.*", "context_embedder*", "time_guidance_embed.*", "single_*.norm.*", *NORMS, *ENDS),
        refiners=("context_embedder.token_refiner.refiner_blocks",),
    ),
    "HunyuanVideo15Transformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("transformer_blocks.*.attn",)),),
        guidance="separate",
        cond_first=True,
        keep=("x_embedder.*", "image_embedder.*", "context_embedder*", "time_embed.*", *NORMS, *ENDS),
        refiners=("context_embedder.token_refiner.refiner_blocks",),
    ),
    "Kandinsky3UNet": Denoiser(
        blocks=(),
        attention=(("cross", ("*.attention",)),),
        sample="sample",
        keep=("conv_in", "conv_out", "time_embedding.*", "encoder_hid_proj.*", "*.context_mlp.*"),
        unet=True,
    ),
    "Kandinsky5Transformer3DModel": Denoiser(
        blocks=("visual_transformer_blocks",),
        attention=(
            ("self", ("visual_transformer_blocks.*.self_attention",)),
            ("cross", ("visual_transformer_blocks.*.cross_attention",)),
        ),
        guidance="separate",
        cond_first=True,
        keep=("*_embeddings.*", "*_modulation.*", "out_layer.*"),
        refiners=("text_transformer_blocks",),
    ),
    "Krea2Transformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("transformer_blocks.*.attn",)),),
        guidance="separate",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("img_in", "txt_in.*", "time_embed.*", "time_mod_proj", "text_fusion.projector", "final_layer.*"),
        refiners=("text_fusion.layerwise_blocks", "text_fusion.refiner_blocks"),
    ),
    "LTX2VideoTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(
            ("self", ("*.attn1", "*.audio_attn1")),
            ("cross", ("*.attn2", "*.audio_attn2", "*.audio_to_video_attn", "*.video_to_audio_attn")),
        ),
        output=0.0,
        keep=("*proj_in", "*proj_out", "*time_embed.*", "*caption_projection.*", "av_cross_attn_*"),
    ),
    "LuminaNextDiT2DModel": Denoiser(
        blocks=("layers",),
        attention=SELF_CROSS,
        cond_first=True,
        output=-1.0,
        timestep_scale=-1e-3,
        timestep_offset=1.0,
        keep=("patch_embedder.*", "time_caption_embed.*", "*.norm1.*", "norm_out.*"),
    ),
    "MochiTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn1",)),),
        keep=("patch_embed.*", "time_embed.*", *NORMS, *ENDS),
    ),
    "MotifVideoTransformer3DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="separate",
        cond_first=True,
        keep=("x_embedder.*", "context_embedder.*", "time_text_embed.*", "single_*.norm.*", *NORMS, *ENDS),
    ),
    "OvisImageTransformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="separate",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("x_embedder", "context_embedder", "timestep_embedder.*", "single_*.norm.*", *NORMS, *ENDS),
    ),
    "PRXTransformer2DModel": Denoiser(
        blocks=("blocks",),
        attention=(("joint", ("*.attention",)),),
        timestep_scale=1e-3,
        keep=("img_in", "txt_in", "time_in.*", "*.modulation.*", "final_layer.*"),
    ),
    "SanaVideoTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        keep=("patch_embedding", "time_embed.*", "caption_projection.*", "proj_out"),
    ),
    "SkyReelsV2Transformer3DModel": Denoiser(
        blocks=("blocks",),
        attention=SELF_CROSS,
        guidance="separate",
        cond_first=True,
        keep=("patch_embedding", "condition_embedder.*", "proj_out"),
    ),
    "StableAudioDiTModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        keep=("timestep_proj.*", "global_proj.*", "cross_attention_proj.*", "proj_in", "proj_out"),
    ),
    "StableCascadeUNet": Denoiser(
        blocks=(),
        attention=(("cross", ("*.attention",)),),
        cond_first=True,
        sample="sample",
        timestep="timestep_ratio",
        text="clip_text_pooled",
        keep=("embedding.*", "clf.*", "clip_*_mapper", "*.mapper*"),
    ),
    "UNet2DModel": Denoiser(
        blocks=(),
        attention=(("self", ("*.attentions.*",)),),
        guidance="none",
        sample="sample",
        text=None,
        keep=("conv_in", "conv_out", "time_embedding.*", "*.time_emb_proj"),
        unet=True,
    ),
    "UNetMotionModel": Denoiser(
        blocks=UNET_BLOCKS,
        attention=(
            ("self", ("*.attentions.*.attn1",)),
            ("cross", ("*.attentions.*.attn2",)),
            ("temporal", ("*.motion_modules.*.attn1", "*.motion_modules.*.attn2")),
        ),
        sample="sample",
        keep=("conv_in", "conv_out", "time_embedding.*", "*.time_emb_proj"),
        unet=True,
    ),
    "UNetSpatioTemporalConditionModel": Denoiser(
        blocks=UNET_BLOCKS,
        attention=(
            ("self", ("*.transformer_blocks.*.attn1",)),
            ("cross", ("*.transformer_blocks.*.attn2",)),
            ("temporal", ("*.temporal_transformer_blocks.*.attn1", "*.temporal_transformer_blocks.*.attn2")),
        ),
        sample="sample",
        keep=("conv_in", "conv_out", "time_embedding.*", "add_embedding.*", "*.time_emb_proj", "*.time_pos_embed.*"),
        unet=True,
    ),
}
