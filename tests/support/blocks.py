"""The code blocks of README and docs, and small stand-ins for the models that they name."""

from __future__ import annotations

import re
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import transformers
from support.sources import TESTS
from support.tiny import randomize
from support.whisper import sound, tiny_whisper

from gearshift import zoo
from gearshift.runtimes.speech.audio import RATE
from gearshift.zoo import language

ROOT = TESTS.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
STEPS = 6  # in the place of 50: the fewest that a plan for 3x fits into
load, load_language = zoo.load, language.load_language


@dataclass(frozen=True)
class Block:
    """A fenced block: its page, its language, its lines and the line that it begins in."""

    page: Path
    language: str
    text: str
    line: int

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in these languages, in order."""
    text, found = page.read_text(), []
    for match in FENCE.finditer(text):
        body = "\n".join(line.removeprefix(match[1]) for line in match[3].splitlines())
        found.append(Block(page, match[2], body, text.count("\n", 0, match.start(3)) + 1))
    return [block for block in found if block.language in languages]


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a block in a shell's language, and what each prints where the block shows that."""
    if block.language != "console":
        lines = [line.partition("  #")[0].strip() for line in block.text.splitlines()]
        return [(line, "") for line in lines if line and not line.startswith("#")]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]
    return [(first, rest.strip()) for first, _, rest in (part.partition("\n") for part in parts)]


def quicker(code: str) -> str:
    """The code with fewer steps."""
    return re.sub(r'(steps"?(?:=|: ))\d+', rf"\g<1>{STEPS}", code)


def small_diffusion(name: str) -> Any:
    """The zoo's model that a name is nearest to, with a small denoiser of random weights."""
    if "flux" in name.lower():
        pipe = load("flux")
        few = {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 1}
        small = type(pipe.transformer).from_config(dict(pipe.transformer.config, **few))
        pipe.register_modules(transformer=small)
        pipe.default_sample_size = zoo.required_arguments("flux")["height"] // pipe.vae_scale_factor
    else:
        pipe = load()
        few = {"block_out_channels": (16, 32), "norm_num_groups": 8}
        few |= {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
        small = type(pipe.unet).from_config(dict(pipe.unet.config, **few))
        pipe.register_modules(unet=small)
    randomize(small, 0)
    return pipe


def small_language(*_: Any) -> tuple[Any, Any]:
    """The zoo's language model with one block, and its tokenizer."""
    model, tokenizer = load_language()
    model.model.layers = model.model.layers[:1]
    model.config.num_hidden_layers = 1
    return model, tokenizer


def put_in(monkeypatch: Any) -> None:
    """Models of any name are small ones from here on: a page's code needs no hub and little time."""
    _replace(monkeypatch, diffusers.DiffusionPipeline, small_diffusion)
    _replace(monkeypatch, transformers.AutoModelForCausalLM, lambda name: small_language()[0])
    _replace(monkeypatch, transformers.AutoTokenizer, lambda name: small_language()[1])
    _replace(monkeypatch, transformers.AutoModelForSpeechSeq2Seq, lambda name: tiny_whisper()[0])
    _replace(monkeypatch, transformers.AutoProcessor, lambda name: tiny_whisper()[1])
    monkeypatch.setattr(zoo, "load", lambda name="text-to-image": small_diffusion(name))
    monkeypatch.setattr(language, "load_language", small_language)


def _replace(monkeypatch: Any, cls: type, small: Callable[[str], Any]) -> None:
    """`from_pretrained` of a class and those derived from it reads folders; any other name is a small model."""
    original = cls.from_pretrained.__func__

    def from_pretrained(cls: type, name: Any, **kwargs: Any) -> Any:
        return original(cls, name, **kwargs) if Path(name).exists() else small(f"{cls.__name__} {name}")

    monkeypatch.setattr(cls, "from_pretrained", classmethod(from_pretrained))


def speech_file(path: Path) -> None:
    """Three seconds of bursts of noise as a sound file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound(3.0) * 32767).astype(np.int16).tobytes())
