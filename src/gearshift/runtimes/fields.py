"""Which fields of a configuration a converter reads, and which of the others it should have read."""

from __future__ import annotations

import re
from typing import Any

TOKENS = r"_token_ids?$|token_id$"
TRAINING = r"drop|init|_std$|loss|gradient|label|classif|problem|aux_|^mask_|spec_augment|pretraining|finetuning"
ANSWERS = r"use_cache|return_dict|^output_|summary|^is_|^add_cross|^tie_"
BOOKS = r"^_|architectures|dtype|version|model_type|tokenizer_class|name_or_path|fp32|fusion|slow_but"
SIZES = r"size$|^d_|dim$|^num_|^n_|layers$|heads?$|_eps$|epsilon|positions?$|_embeddings$|embd$|inner$|length$"
KINDS = r"_act$|activation|_function$|bias|norm|_bucket"
ALIASES = {"rope_scaling": "rope_parameters"}
PLACES = r"window|chunk|rope|rotary|alibi|position|sliding"
HARMLESS = re.compile("|".join((TOKENS, TRAINING, ANSWERS, BOOKS, SIZES, KINDS)))
"""Fields that change nothing about inference, or what a comparison of a few tokens sees at once."""


class Reads:
    """A configuration that notes in `read` which of its fields are asked for; parts of it are noted with it."""

    def __init__(self, config: Any, read: set[str]) -> None:
        self.__dict__.update(_config=config, _read=read)

    def __getattr__(self, name: str) -> Any:
        config = self.__dict__["_config"]
        self._read.add({**ALIASES, **getattr(config, "attribute_map", {})}.get(name, name))
        found = getattr(config, name)
        return Reads(found, self._read) if hasattr(found, "to_diff_dict") else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_config"], name, value)


def watch_fields(model: Any) -> set[str]:
    """Note from now on which fields of its configuration are read through a model or its modules."""
    config, read = model.config, set[str]()
    for module in model.modules():
        if vars(module).get("config") is config:
            module.config = Reads(config, read)
    return read


def unread(config: Any, read: set[str]) -> list[str]:
    """Fields as 'name=value' that differ from the class's defaults, may matter, and that nobody read."""
    default = type(config)().to_dict()
    return [
        f"{name}={value!r}"[:80]
        for name, value in sorted(config.to_diff_dict().items())
        if name in default and value != default[name] and name not in read and _matters(name, value)
    ]


def _matters(name: str, value: Any) -> bool:
    if HARMLESS.search(name) or value in (None, False, 0, "", [], {}):
        return False
    if isinstance(value, (bool, str)):  # these choose a computation for all tokens, but where tokens lie is at stake
        return re.search(PLACES, name) is not None
    if name == "layer_types":
        return set(value) != {"full_attention"}
    return not (name == "rope_parameters" and is_plain(value))


def is_plain(rope: Any) -> bool:
    """Whether rotary embeddings are as the first ones: a base, and the share of dimensions that turn."""
    if not isinstance(rope, dict):
        return False
    return rope.get("rope_type", rope.get("type", "default")) == "default" and "rope_theta" in rope
