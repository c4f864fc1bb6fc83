"""Facts of algorithms that are coming: the rules already know how they go with the others.

An entry goes away when its algorithm's own file arrives; a recipe that names one is told that it is not here yet.
"""

from __future__ import annotations

from gearshift.core.facts import Facts, Family, Kind, Persist, Slot, Stage, Trait

DIFFUSION = frozenset({Kind.DIFFUSION})
LANGUAGE = frozenset({Kind.LANGUAGE})
SPEECH = frozenset({Kind.SPEECH})
TEXT = LANGUAGE | SPEECH
FLOAT = frozenset({Trait.FLOAT_WEIGHTS})


def _quantizer(kinds: frozenset[Kind] = frozenset(Kind), *slots: Slot) -> Facts:
    return Facts(
        family=Family.QUANTIZER,
        stage=Stage.QUANTIZE,
        persist=Persist.WEIGHTS,
        occupies=frozenset({Slot.WEIGHT_FORMAT, *slots}),
        needs=FLOAT | {Trait.LINEAR},
        removes=FLOAT,
        kinds=kinds,
    )


def _recoverer(kinds: frozenset[Kind]) -> Facts:
    return Facts(
        family=Family.RECOVERER,
        stage=Stage.RECOVER,
        persist=Persist.WEIGHTS,
        occupies=frozenset({Slot.ADAPTER}),
        needs=frozenset({Trait.TORCH_FORWARD}),
        kinds=kinds,
    )


def _compiler(kinds: frozenset[Kind], *removes: Trait) -> Facts:
    return Facts(
        family=Family.COMPILER,
        stage=Stage.COMPILE,
        occupies=frozenset({Slot.RUNTIME}),
        needs=frozenset({Trait.TORCH_FORWARD}),
        removes=frozenset(removes),
        kinds=kinds,
    )


def _batcher(*needs: Trait) -> Facts:
    return Facts(
        family=Family.BATCHER,
        stage=Stage.BATCH,
        occupies=frozenset({Slot.BATCHING}),
        needs=frozenset(needs),
        kinds=SPEECH,
    )


def _pruner() -> Facts:
    return Facts(family=Family.PRUNER, stage=Stage.PRUNE, persist=Persist.WEIGHTS, needs=FLOAT)


def _enhancer(*slots: Slot) -> Facts:
    return Facts(
        family=Family.ENHANCER,
        stage=Stage.ENHANCE,
        occupies=frozenset(slots),
        needs=frozenset({Trait.DENOISES, Trait.IMAGES}),
        kinds=DIFFUSION,
    )


ANNOUNCED: dict[str, Facts] = {
    "ifw": _batcher(Trait.TORCH_FORWARD),
    "whisper_s2t": _batcher(),
    "c_generate": _compiler(TEXT, Trait.TORCH_FORWARD, Trait.TORCH_MODULE),
    "c_translate": _compiler(TEXT, Trait.TORCH_FORWARD, Trait.TORCH_MODULE),
    "c_whisper": _compiler(SPEECH, Trait.TORCH_FORWARD, Trait.TORCH_MODULE),
    "ipex_llm": _compiler(LANGUAGE),
    "stable_fast": _compiler(DIFFUSION),
    "x_fast": _compiler(frozenset(Kind)),
    "hyper": Facts(
        family=Family.DISTILLER,
        stage=Stage.DISTILL,
        persist=Persist.WEIGHTS,
        needs=FLOAT | {Trait.DENOISES},
        kinds=DIFFUSION,
    ),
    "realesrgan_upscale": _enhancer(Slot.IMAGE_SIZE),
    "img2img_denoise": _enhancer(),
    "torch_structured": _pruner(),
    "torch_unstructured": _pruner(),
    "gptq": _quantizer(LANGUAGE),
    "hqq": _quantizer(LANGUAGE),
    "hqq_diffusers": _quantizer(DIFFUSION),
    "diffusers_int8": _quantizer(DIFFUSION),
    "llm_int8": _quantizer(LANGUAGE),
    "awq": _quantizer(LANGUAGE),
    "quanto": _quantizer(),
    "torch_static": _quantizer(),
    "torchao": _quantizer(),
    "torchao_autoquant": _quantizer(frozenset(Kind), Slot.RUNTIME),
    "higgs": _quantizer(LANGUAGE),
    "diffusers_higgs": _quantizer(DIFFUSION),
    "fp8": _quantizer(),
    "text_to_text_perp": _recoverer(LANGUAGE),
    "text_to_text_inplace_perp": _recoverer(LANGUAGE),
    "text_to_text_lora": _recoverer(LANGUAGE),
    "text_to_image_perp": _recoverer(DIFFUSION),
    "text_to_image_inplace_perp": _recoverer(DIFFUSION),
    "text_to_image_lora": _recoverer(DIFFUSION),
}
