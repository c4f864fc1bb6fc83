"""What diffusers' denoisers are made of, one row of data per class; read off diffusers 0.42 and checked on tiny models.

`describe_denoiser(module)` is the way in: the class's row made concrete for this module, or what `probe` can deduce.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from gearshift.models.denoiser import Denoiser, Kind
from gearshift.models.newer_rows import DOUBLE_SINGLE, ENDS, JOINT, NEWER, NORMS, SELF_CROSS
from gearshift.models.probe import UNET_BLOCKS, block_lists, probe, timestep_name

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ROWS",
    "Denoiser",
    "attention_modules",
    "deep_feature_paths",
    "denoisers",
    "describe_denoiser",
    "probe",
    "row_for",
]

COMPONENTS = ("unet", "transformer", "unconditional_transformer", "prior", "prior_prior", "decoder", "model")

ROWS: dict[str, Denoiser] = {
    **NEWER,
    "UNet2DConditionModel": Denoiser(
        blocks=UNET_BLOCKS,
        attention=SELF_CROSS,
        sample="sample",
        keep=("conv_in", "conv_out", "time_embedding.*", "add_embedding.*", "*.time_emb_proj"),
        unet=True,
    ),
    "DiTTransformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("self", ("*.attn1",)),),
        cond_first=True,
        text="class_labels",
        keep=("pos_embed.*", "*.norm1.*", "proj_out_1", "proj_out_2"),
    ),
    "PixArtTransformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        keep=("pos_embed.*", "adaln_single.*", "caption_projection.*", "proj_out"),
    ),
    "SD3Transformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn",)), ("self", ("*.attn2",))),
        keep=("pos_embed.*", "time_text_embed.*", "context_embedder", *NORMS, *ENDS),
    ),
    "FluxTransformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="embedded",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("x_embedder", "context_embedder", "time_text_embed.*", "single_*.norm.*", *NORMS, *ENDS),
    ),
    "ChromaTransformer2DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="separate",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("x_embedder", "context_embedder", "distilled_guidance_layer.*", "proj_out"),
    ),
    "CogVideoXTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn1",)),),
        keep=("patch_embed.*", "time_embedding.*", "*.norm1.*", "*.norm2.*", *ENDS),
    ),
    "WanTransformer3DModel": Denoiser(
        blocks=("blocks",),
        attention=SELF_CROSS,
        guidance="separate",
        cond_first=True,
        keep=("patch_embedding", "condition_embedder.*", "proj_out"),
    ),
    "LTXVideoTransformer3DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        keep=("proj_in", "time_embed.*", "caption_projection.*", "proj_out"),
    ),
    "HunyuanVideoTransformer3DModel": Denoiser(
        blocks=DOUBLE_SINGLE,
        attention=JOINT,
        guidance="embedded",
        cond_first=True,
        keep=("x_embedder.*", "context_embedder.*", "time_text_embed.*", "single_*.norm.*", *NORMS, *ENDS),
        refiners=("context_embedder.token_refiner.refiner_blocks",),
    ),
    "LatteTransformer3DModel": Denoiser(
        blocks=("transformer_blocks", "temporal_transformer_blocks"),
        attention=(
            ("self", ("transformer_blocks.*.attn1",)),
            ("cross", ("transformer_blocks.*.attn2",)),
            ("temporal", ("temporal_transformer_blocks.*.attn1",)),
        ),
        keep=("pos_embed.*", "adaln_single.*", "caption_projection.*", "proj_out"),
        interleaved=True,
    ),
    "SanaTransformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=SELF_CROSS,
        scaled_by="timestep_scale",
        keep=("patch_embed.*", "time_embed.*", "caption_projection.*", "proj_out"),
    ),
    "AuraFlowTransformer2DModel": Denoiser(
        blocks=("joint_transformer_blocks", "single_transformer_blocks"),
        attention=(("joint", ("*.attn",)),),
        timestep_scale=1e-3,
        keep=("pos_embed.*", "context_embedder", "time_step_proj.*", *NORMS, *ENDS),
    ),
    "Lumina2Transformer2DModel": Denoiser(
        blocks=("layers",),
        attention=(("joint", ("layers.*.attn",)),),
        guidance="separate",
        cond_first=True,
        output=-1.0,
        timestep_scale=-1e-3,
        timestep_offset=1.0,
        keep=("x_embedder", "time_caption_embed.*", "*.norm1.*", "norm_out.*"),
        refiners=("context_refiner", "noise_refiner"),
    ),
    "QwenImageTransformer2DModel": Denoiser(
        blocks=("transformer_blocks",),
        attention=(("joint", ("*.attn",)),),
        guidance="separate",
        cond_first=True,
        timestep_scale=1e-3,
        keep=("img_in", "txt_in", "time_text_embed.*", "*.img_mod.*", "*.txt_mod.*", *ENDS),
    ),
    "ZImageTransformer2DModel": Denoiser(
        blocks=("layers",),
        attention=(("joint", ("layers.*.attention",)),),
        cond_first=True,
        sample="x",
        timestep="t",
        text="cap_feats",
        output=-1.0,
        timestep_scale=-1e-3,
        timestep_offset=1.0,
        keep=("all_x_embedder.*", "all_final_layer.*", "*.adaLN_modulation.*", "t_embedder.*", "cap_embedder.*"),
        refiners=("noise_refiner", "context_refiner"),
    ),
}


def row_for(module: nn.Module) -> Denoiser | None:
    """The table's row for a module's class, or for the nearest class that it derives from."""
    return next((ROWS[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in ROWS), None)


def describe_denoiser(module: nn.Module) -> Denoiser:
    """A module's row with globs in `blocks` spelled out and its config taken into account; `probe`'s without a row."""
    row = row_for(module)
    if row is None:
        return probe(module)
    config: Any = getattr(module, "config", {})
    scale = config.get(row.scaled_by, 1.0) if row.scaled_by else 1.0
    return replace(
        row,
        blocks=block_lists(module, row.blocks),
        timestep_scale=row.timestep_scale * scale,
        scaled_by=None,
    )


def denoisers(model: Any) -> dict[str, nn.Module]:
    """A pipeline's denoisers by component name; a denoiser by itself under ''; nothing for any other model."""
    if hasattr(model, "forward"):
        return {"": model} if _denoises(model) else {}
    components = getattr(model, "components", None)
    if not isinstance(components, dict):
        return {}
    return {
        name: part
        for name, part in components.items()
        if hasattr(part, "forward") and (row_for(part) or (name.rstrip("_23") in COMPONENTS and _denoises(part)))
    }


def attention_modules(module: nn.Module, row: Denoiser, kind: Kind | None = None) -> dict[str, nn.Module]:
    """A denoiser's attention modules by name, of one kind or of all, in the order that they are registered."""
    patterns = [p for k, globs in row.attention if kind in (None, k) for p in globs]
    return {name: m for name, m in module.named_modules() if any(fnmatchcase(name, p) for p in patterns)}


def deep_feature_paths(module: nn.Module) -> tuple[str, ...]:
    """A U-Net's blocks but the outermost, in the order they run; the last one's output is DeepCache's deep feature.

    What stays outside is conv_in, the first down block but for its downsampler, the last up block (which reads only
    those two's skips) and conv_out. (DeepCache, arXiv 2312.00858)
    """
    down: Any = module.down_blocks
    up: Any = module.up_blocks
    middle = ["mid_block"] if getattr(module, "mid_block", None) is not None else []
    downs, ups = range(1, len(down)), range(len(up) - 1)
    halving = ["down_blocks.0.downsamplers.0"] if getattr(down[0], "downsamplers", None) else []
    return (*halving, *(f"down_blocks.{n}" for n in downs), *middle, *(f"up_blocks.{n}" for n in ups))


def _denoises(module: nn.Module) -> bool:
    return row_for(module) is not None or timestep_name(module) is not None
