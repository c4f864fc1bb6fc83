"""What quantizers leave in float of each known denoiser at its real size: made on the meta device, nothing is held."""

import diffusers
import pytest
import torch
from torch import nn

from gearshift.core.target import matches, select
from gearshift.models.describe import layers_to_leave

LAYERS = (nn.Linear, nn.Conv2d, nn.Conv3d)
SHARES = {  # of all weights; mostly the modulation of adaptive norms, which `include` takes in on request
    "UNet2DConditionModel": 0.032,
    "DiTTransformer2DModel": 0.362,
    "PixArtTransformer2DModel": 0.017,
    "SD3Transformer2DModel": 0.344,
    "FluxTransformer2DModel": 0.276,
    "ChromaTransformer2DModel": 0.033,
    "CogVideoXTransformer3DModel": 0.216,
    "WanTransformer3DModel": 0.016,
    "LTXVideoTransformer3DModel": 0.022,
    "HunyuanVideoTransformer3DModel": 0.293,
    "SanaTransformer2DModel": 0.029,
    "AuraFlowTransformer2DModel": 0.337,
    "Lumina2Transformer2DModel": 0.104,
    "QwenImageTransformer2DModel": 0.335,
    "ZImageTransformer2DModel": 0.022,
}


@pytest.mark.parametrize("name", SHARES)
def test_the_share_of_weights_that_stays_float(name):
    with torch.device("meta"):
        root = getattr(diffusers, name)()
    ((_, globs),) = layers_to_leave(root).values()
    rounded = {path for path, _ in select(root, LAYERS, exclude=globs)}
    left = {path: m.weight.numel() for path, m in root.named_modules() if type(m) in LAYERS and path not in rounded}
    assert sum(left.values()) / sum(p.numel() for p in root.parameters()) == pytest.approx(SHARES[name], abs=0.002)
    inside = [path for path in left if path.count(".") > 1 and path.endswith("proj_out")]
    assert inside == []  # a block's own last projection is none of the model's


def test_a_glob_that_begins_with_a_dot_is_one_of_the_whole_path():
    assert matches("proj_out", [".proj_out"]) and not matches("blocks.3.proj_out", [".proj_out"])
    assert matches("blocks.3.proj_out", ["proj_out"]) and matches("blocks.3.norm1.linear", [".*.norm1.*"])
