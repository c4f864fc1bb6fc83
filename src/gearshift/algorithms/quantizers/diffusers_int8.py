"""bitsandbytes' 8-bit and 4-bit weights for denoisers."""

from __future__ import annotations

from gearshift.algorithms.quantizers import DIFFUSION, quantizer_facts
from gearshift.algorithms.quantizers.llm_int8 import LlmInt8


class DiffusersInt8(LlmInt8):
    """bitsandbytes 8-bit or 4-bit weights in the linear layers of a pipeline's denoiser.

    At 8 bits inputs are rounded token by token, but for columns with a value of 6 or more (LLM.int8(), arXiv
    2208.07339). At 4 bits only the weights are rounded, 64 to a scale; the product is one in the model's own type.
    """

    facts = quantizer_facts(DIFFUSION, extra="bitsandbytes", packages=("bitsandbytes",))
