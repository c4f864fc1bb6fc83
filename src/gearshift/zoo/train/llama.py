"""Train the language model: a small Llama (Touvron et al. 2023) that reads the King James Bible."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from ...core.errors import BrokenFolder
from ..language import CALIBRATION, VALIDATION, folder, load_language, perplexity, validation_text
from .loop import fit, one_thread, write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BATCH = 8
LENGTH = 256
VOCABULARY = 4096
END = "<|endoftext|>"
HELD_OUT = 48  # one chapter in so many is for validation
CALIBRATING = 36  # one of the other chapters in so many is for calibration as well as for training
MARKED = 0.125  # share of windows that begin with END, so that it can begin a text


def chapters() -> list[str]:
    """The 1189 chapters of the King James Bible, a verse a line, as Debian's program `bible` prints them.

    Raises:
        BrokenFolder: the program or its text is not installed.
    """
    try:
        shown = subprocess.run(["bible", "-f", "Gen1:1-Rev22:21"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        raise BrokenFolder("The Bible is not here: install Debian's packages bible-kjv and bible-kjv-text.") from None
    verses = [line.partition(" ") for line in shown.splitlines()]
    by_chapter = groupby(verses, key=lambda verse: verse[0].partition(":")[0])
    return ["\n".join(words for _, _, words in group) for _, group in by_chapter]


def split(all_chapters: list[str]) -> tuple[str, str, str]:
    """Text to train on, text to validate on, and calibration text, which is part of the text to train on."""
    validation = all_chapters[HELD_OUT // 2 :: HELD_OUT]
    train = [text for index, text in enumerate(all_chapters) if index % HELD_OUT != HELD_OUT // 2]
    train_text, validation_text, calibration_text = (
        "\n\n".join(part) + "\n" for part in (train, validation, train[::CALIBRATING])
    )
    return train_text, validation_text, calibration_text


def tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Byte-level byte-pair encoding learned from the text; END begins, ends and pads, and is never added unasked."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    pairs.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=pairs, bos_token=END, eos_token=END, pad_token=END)


def build(end: int) -> nn.Module:
    """An untrained Llama: 6 layers of width 256, 4 heads that share 2 of keys and values, one table for both ends."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config)


def batches(ids: torch.Tensor, end: int) -> Iterator[torch.Tensor]:
    """Windows int64 [batch, length + 1]: every token once an epoch, cut at another place each time, shuffled."""
    while True:
        start = int(torch.randint(LENGTH, ()))
        windows = ids[start:].unfold(0, LENGTH + 1, LENGTH)
        for chosen in torch.randperm(len(windows)).split(BATCH):
            batch = windows[chosen].clone()
            batch[torch.rand(len(batch)) < MARKED, 0] = end
            yield batch


def main(steps: int = 640) -> None:
    """Train, write the model's folder with its texts, print the figures reached."""
    one_thread()
    torch.manual_seed(0)
    train, validation, calibration = split(chapters())
    words = tokenizer(train)
    end = words.convert_tokens_to_ids(END)
    ids = torch.tensor(words(train).input_ids)
    print(f"{len(ids)} tokens to train on, {len(train.encode()) / len(ids):.3f} bytes each", flush=True)
    model = build(end).train()
    source = batches(ids, end)

    def loss(_: int) -> torch.Tensor:
        batch = next(source)
        logits = model(input_ids=batch[:, :-1], use_cache=False).logits
        return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    start = time.process_time()
    fit(model, loss, steps)
    print(f"{time.process_time() - start:.0f} s of processor time")
    assemble(model, words, validation, calibration)
    report()


def assemble(model: nn.Module, words: PreTrainedTokenizerFast, validation: str, calibration: str) -> None:
    """Write weights in fp16, tokenizer and texts."""
    root = folder("llama", must_exist=False)
    write(model, root)
    words.save_pretrained(root)
    written = root / "tokenizer_config.json"
    facts = json.loads(written.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}  # transformers 4 knows it
    written.write_text(json.dumps(facts, indent=2) + "\n")
    (root / VALIDATION).write_text(validation, encoding="utf-8")
    (root / CALIBRATION).write_text(calibration, encoding="utf-8")


def report() -> None:
    """Print the perplexity of a token and the bits per byte on the held-out text, and what the model writes."""
    model, words = load_language()
    text = validation_text()
    reached = perplexity(model, words, text)
    tokens = len(words(text).input_ids)
    print(f"parameters: {model.num_parameters()}")
    print(f"held-out perplexity {reached:.3f}, {math.log2(reached) * tokens / len(text.encode()):.4f} bits per byte")
    prompt = words("And it came to pass", return_tensors="pt")
    print(words.decode(model.generate(**prompt, max_new_tokens=60, do_sample=False)[0]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
