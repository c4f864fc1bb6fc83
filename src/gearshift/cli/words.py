"""gearshift transcribe, gearshift chat."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gearshift.cli.work import open_model
from gearshift.core.boundary import calling, path_of, refuse_unwritable
from gearshift.core.devices import refuse_absent
from gearshift.core.errors import GearshiftError
from gearshift.core.extras import need
from gearshift.core.facts import Family
from gearshift.core.files import replacing_file
from gearshift.core.registry import registry
from gearshift.persist.readers import readers_of


def transcribe(arguments: argparse.Namespace) -> int:
    """Write what is said in each recording, beside it or into a folder."""
    from gearshift.runtimes.speech.audio import read_audio
    from gearshift.runtimes.speech.subtitles import WRITERS

    need("torch", "transformers", "gearshift transcribe")
    _check_batch(arguments.batch_size)
    places = [path_of(name, "A recording") for name in arguments.recordings]
    outs = [_beside(place, arguments.out, arguments.format) for place in places]
    if len({*outs}) < len(outs):
        raise GearshiftError("Two recordings would be written into one file; transcribe them one by one.")
    for out in outs:
        refuse_unwritable(out)
    recordings = [read_audio(place) for place in places]
    model = _transcriber(arguments)
    timed: bool | str = "word" if arguments.words else arguments.format != "txt"
    given = {"language": arguments.language, "task": arguments.task, "return_timestamps": timed}
    for samples, out in zip(recordings, outs, strict=True):
        found = model(samples, progress=sys.stderr.isatty(), batch_size=arguments.batch_size, **given)
        with replacing_file(out) as scratch:
            Path(scratch).write_text(WRITERS[arguments.format](found), encoding="utf-8")
        print(out)
    return 0


def chat(arguments: argparse.Namespace) -> int:
    """Answer one message, or each line of standard input, word by word as it is made."""
    need("torch", "transformers", "gearshift chat")
    if arguments.max_new_tokens < 1:
        raise GearshiftError(f"--max-new-tokens must be 1 or more. Got {arguments.max_new_tokens} instead.")
    model = _opened(arguments, arguments.recipe)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not hasattr(model, "generate"):
        raise GearshiftError(f"{arguments.model} is no language model with a tokenizer beside it.")
    said = [{"role": "system", "content": arguments.system}] if arguments.system else []
    for message in _messages(arguments):
        said.append({"role": "user", "content": message})
        said.append({"role": "assistant", "content": _answer(model, tokenizer, said, arguments.max_new_tokens)})
    return 0


def _transcriber(arguments: argparse.Namespace) -> Any:
    """A saved transcriber, or what the recipe, by default the batcher in torch, makes of a Whisper."""
    model = _opened(arguments, arguments.recipe)
    if not hasattr(model, "stream") and arguments.recipe is None:
        model = _applied(model, arguments, _plain_batcher())
    if not hasattr(model, "stream"):
        raise GearshiftError(f"{arguments.model} is a {type(model).__name__}, which transcribes no recordings.")
    return model


def _plain_batcher() -> str:
    """The algorithm that makes a transcriber and needs no further package."""
    return next(cls.name for cls in registry() if cls.facts.family is Family.BATCHER and cls.facts.extra is None)


def _opened(arguments: argparse.Namespace, recipe: str | None) -> Any:
    """The model of a command, with its recipe applied if it has one."""
    refuse_absent(arguments.device)
    model = open_model(arguments.model, arguments.device)
    return model if recipe is None else _applied(model, arguments, recipe)


def _applied(model: Any, arguments: argparse.Namespace, recipe: str) -> Any:
    import gearshift as gs

    settings = {"device": arguments.device} if arguments.device else {}
    return gs.optimize(model, recipe, **settings, **readers_of(model))


def _beside(recording: Path, out: str | None, ending: str) -> Path:
    folder = recording.parent if out is None else path_of(out, "--out")
    return folder / f"{recording.stem}.{ending}"


def _check_batch(size: int | None) -> None:
    if size is not None and size < 1:
        raise GearshiftError(f"--batch-size must be 1 or more. Got {size} instead.")


def _messages(arguments: argparse.Namespace) -> Iterable[str]:
    if arguments.message:
        yield " ".join(arguments.message)
        return
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _answer(model: Any, tokenizer: Any, said: list[dict[str, str]], most: int) -> str:
    """Print the next turn of a conversation as it is made, and return it."""
    from transformers import TextStreamer

    if tokenizer.chat_template is None:
        read = tokenizer("\n".join(turn["content"] for turn in said), return_tensors="pt")
    else:
        read = tokenizer.apply_chat_template(said, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens, mask = read["input_ids"].to(model.device), read["attention_mask"].to(model.device)
    shown = TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    with calling(model, "this conversation"):
        made = model.generate(tokens, attention_mask=mask, max_new_tokens=most, do_sample=False, streamer=shown)
    return str(tokenizer.decode(made[0, tokens.shape[1] :], skip_special_tokens=True))
