"""Tiny pipelines that use the denoisers of others: from images, with masks, with control, with two stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import diffusers as d
import torch

from . import images
from .images import NOISE, unet
from .parts import TEXT_DIM, Parts, text

PLAIN: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def image(batch: int, side: int = 32, seed: int = 7) -> torch.Tensor:
    return text(batch, 3, side, side, seed=seed).sigmoid()


def mask(batch: int, side: int = 32) -> torch.Tensor:
    drawn = torch.zeros(batch, 1, side, side)
    drawn[..., side // 4 : side // 2] = 1.0
    return drawn


def again(cls: Any, base: Callable[[], Parts], more: Callable[[int], dict[str, Any]], **components: Any) -> Parts:
    """Another pipeline of a pipeline's components, called with more."""
    parts = base()
    held = {k: v for k, v in parts.pipe.components.items() if k in cls._get_signature_types()}
    options = PLAIN if "safety_checker" in held else {}
    pipe = cls(**(held | options | components))
    return Parts(
        pipe, parts.denoiser, lambda batch: parts.call(batch) | more(batch), parts.guidance, parts.guidance_offset
    )


def from_image(strength: float = 0.9, side: int = 32) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {"image": image(batch, side), "strength": strength}


def masked(strength: float = 0.9, side: int = 32) -> Callable[[int], dict[str, Any]]:
    return lambda batch: {"image": image(batch, side), "mask_image": mask(batch, side), "strength": strength}


def controlled(side: int = 32, name: str = "image") -> Callable[[int], dict[str, Any]]:
    return lambda batch: {name: image(batch, side)}


def reference(batch: int) -> dict[str, Any]:
    """What an editing pipeline gets to see, at its own size."""
    return {"image": image(batch, 16), "max_area": 256, "_auto_resize": False}


def controlnet(net: Any) -> d.ControlNetModel:
    made = d.ControlNetModel.from_unet(net, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False)
    return made.eval()


def sd_controlnet() -> Parts:
    net = controlnet(images.sd().pipe.unet)
    return again(d.StableDiffusionControlNetPipeline, images.sd, controlled(), controlnet=net)


def sdxl_controlnet() -> Parts:
    net = controlnet(images.sdxl().pipe.unet)
    return again(d.StableDiffusionXLControlNetPipeline, images.sdxl, controlled(), controlnet=net)


@contextmanager
def seeded(pipe: Any) -> Iterator[None]:
    """For pipelines that draw from an autoencoder's distribution without the call's generator."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def sd3_controlnet() -> Parts:
    known = dict(images.sd3().pipe.transformer.config)
    net = d.SD3ControlNetModel.from_config(
        {k: v for k, v in known.items() if not k.startswith("_")} | {"num_layers": 2}
    )
    parts = again(
        d.StableDiffusion3ControlNetPipeline, images.sd3, controlled(16, "control_image"), controlnet=net.eval()
    )
    parts.prepared = seeded
    return parts


def flux_controlnet() -> Parts:
    net = d.FluxControlNetModel.from_transformer(
        images.flux().pipe.transformer, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        load_weights_from_transformer=False,
    )  # fmt: skip
    return again(d.FluxControlNetPipeline, images.flux, controlled(16, "control_image"), controlnet=net.eval())


def sd_adapter() -> Parts:
    adapter = d.T2IAdapter(
        in_channels=3, channels=[16, 32], num_res_blocks=1, downscale_factor=2, adapter_type="full_adapter"
    )
    return again(d.StableDiffusionAdapterPipeline, images.sd, controlled(), adapter=adapter.eval())


def pix2pix() -> Parts:
    net = unet(
        in_channels=8, attention_head_dim=2, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    return again(d.StableDiffusionInstructPix2PixPipeline, images.sd, controlled(), unet=net)


def flux_wide(cls: Any, more: Any, channels: int) -> Parts:
    net = d.FluxTransformer2DModel(
        in_channels=channels, out_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=TEXT_DIM, pooled_projection_dim=32, guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return again(cls, images.flux, more, transformer=net)


def without(parts: Parts, *names: str) -> Parts:
    """The same, called without some arguments."""
    call = parts.call
    parts.call = lambda batch: {k: v for k, v in call(batch).items() if k not in names}
    return parts


BUILDERS: dict[str, Callable[[], Parts]] = {
    "sd_img2img": lambda: again(d.StableDiffusionImg2ImgPipeline, images.sd, from_image()),
    "sd_inpaint": lambda: again(d.StableDiffusionInpaintPipeline, images.sd, masked()),
    "sd_pag": lambda: again(d.StableDiffusionPAGPipeline, images.sd, lambda batch: {"pag_scale": 2.0}),
    "sd_controlnet": sd_controlnet,
    "sd_adapter": sd_adapter,
    "sd_pix2pix": pix2pix,
    "sdxl_img2img": lambda: again(d.StableDiffusionXLImg2ImgPipeline, images.sdxl, from_image()),
    "sdxl_inpaint": lambda: again(d.StableDiffusionXLInpaintPipeline, images.sdxl, masked()),
    "sdxl_pag": lambda: again(d.StableDiffusionXLPAGPipeline, images.sdxl, lambda batch: {"pag_scale": 2.0}),
    "sdxl_controlnet": sdxl_controlnet,
    "sd3_img2img": lambda: again(d.StableDiffusion3Img2ImgPipeline, images.sd3, from_image(side=16)),
    "sd3_controlnet": sd3_controlnet,
    "flux_img2img": lambda: again(d.FluxImg2ImgPipeline, images.flux, from_image(side=16)),
    "flux_inpaint": lambda: again(d.FluxInpaintPipeline, images.flux, masked(side=16)),
    "flux_fill": lambda: flux_wide(d.FluxFillPipeline, lambda batch: masked(side=16)(batch) | {"strength": 1.0}, 48),
    "flux_control": lambda: flux_wide(d.FluxControlPipeline, controlled(16, "control_image"), 32),
    "flux_kontext": lambda: again(d.FluxKontextPipeline, images.flux, reference),
    "flux_controlnet": flux_controlnet,
    "chroma_img2img": lambda: again(d.ChromaImg2ImgPipeline, images.chroma, from_image(side=16)),
    "zimage_img2img": lambda: again(d.ZImageImg2ImgPipeline, images.zimage, from_image(side=16)),
    "pixart_alpha": lambda: again(d.PixArtAlphaPipeline, images.pixart, lambda batch: {}),
    "lcm": lambda: without(again(
        d.LatentConsistencyModelPipeline, images.sd, lambda batch: {}, scheduler=d.LCMScheduler(**NOISE),
        unet=unet(attention_head_dim=2, time_cond_proj_dim=16, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))), "negative_prompt_embeds"),
}  # fmt: skip
