"""The command line: thin; every option of an algorithm comes from its declaration."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

from gearshift.core.errors import GearshiftError, GearshiftWarning, told

DEBUG = "GEARSHIFT_DEBUG"  # an environment variable that does what --debug does
DATA_HELP = "text with a prompt a line, or JSON lines with a call's arguments in each"
RECIPE_HELP = "'name, name(parameter=value)', or a YAML file"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; errors are one line on stderr and exit code 2, or 1 where gearshift did not expect them."""
    arguments = _completing(_parser()).parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show  # type: ignore[assignment]
            return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("gearshift: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if arguments.debug or os.environ.get(DEBUG):
            raise
        return _told(error)


def _told(error: Exception) -> int:
    """Print an error; the exit code that goes with it."""
    if isinstance(error, GearshiftError):
        text = str(error)
        print(f"gearshift:\n{text}" if "\n" in text else f"gearshift: {text}", file=sys.stderr)
        return 2
    what = f"{type(error).__name__}: {told(error)}"
    print(f"gearshift: unexpected {what}. With --debug the whole traceback is shown.", file=sys.stderr)
    return 1


def _show(message: Warning | str, category: type[Warning], *where: Any) -> None:
    """Gearshift's own warnings as one line; those of other libraries are not for a command line's user."""
    if issubclass(category, GearshiftWarning):
        print(f"gearshift: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    from gearshift import __version__

    parser = argparse.ArgumentParser(
        prog="gearshift", description="Make diffusion pipelines, language models and Whisper faster, smaller, cheaper."
    )
    parser.add_argument("--version", action="version", version=f"gearshift {__version__}")
    parser.add_argument("--debug", action="store_true", help=f"show tracebacks of errors, as {DEBUG}=1 does")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: str, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=_lazily(run))
        return sub

    sub = command("list", "listing:list_all", "list every algorithm")
    sub.add_argument("--json", action="store_true", help="as JSON, for programs")
    sub.add_argument("--kind", choices=("diffusion", "language", "speech"), help="those for one kind of model")
    sub.add_argument("--family", metavar="NAME", help="those of one family, e.g. cacher")
    sub = command("info", "listing:info", "show one algorithm: parameters, partners, what it needs")
    sub.add_argument("name", metavar="NAME")
    sub = command("check", "work:check", "show the order in which a recipe is applied, or why it cannot be")
    sub.add_argument("recipe", metavar="RECIPE", help=RECIPE_HELP)
    sub.add_argument("--model", metavar="MODEL", help="a folder or a hub id to check it against")
    _optimize(command("optimize", "work:optimize", "apply a recipe to a model and save the result"))
    _export(command("export", "work:export", "write a model in another program's format, weights bit for bit"))
    sub = command("generate", "work:generate", "make images with a saved model")
    _generate(sub)
    _transcribe(command("transcribe", "words:transcribe", "write what is said in recordings, as text or subtitles"))
    _chat(command("chat", "words:chat", "talk with a language model"))
    _evaluate(
        command("evaluate", "measuring:evaluate", "measure a model: how close to the original, how good, how fast")
    )
    _tune(
        command("tune", "measuring:tune", "find the best recipe for a model on this machine, at a quality you ask for")
    )
    _demo(command("demo", "demo:run", "run the main job on the model that ships, and write a report"))
    command("doctor", "doctor:run", "show what this machine has, which algorithms run here, and what the others lack")
    return parser


def _completing(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """A parser that prints completions for a shell too, where shtab is installed."""
    if find_spec("shtab"):
        import shtab

        shtab.add_argument_to(parser, "--print-completion", help="print completions for this shell")
    return parser


def _export(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift export`."""
    sub.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    sub.add_argument("folder", metavar="FOLDER", help="folder to write")
    sub.add_argument("--format", metavar="F", required=True, help="safetensors, compressed-tensors, gptq, awq or gguf")
    sub.add_argument("--overwrite", action="store_true", help="delete what is in FOLDER")


def _generate(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift generate`."""
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("prompts", metavar="PROMPT", nargs="+")
    sub.add_argument("--steps", type=int, help="denoising steps (those of the pipeline)")
    sub.add_argument("--guidance", type=float, help="guidance scale (that of the pipeline)")
    sub.add_argument("--seed", type=int, default=0, help="seed (%(default)s)")
    sub.add_argument("--device", metavar="DEVICE", help="device to run on, e.g. cuda")
    sub.add_argument("--trust-compiled", action="store_true", help="run the compiled code that the folder may hold")
    sub.add_argument("--out", metavar="DIR", default=".", help="folder for the images (%(default)s)")


def _model(sub: argparse.ArgumentParser) -> None:
    """Which model a command opens, and what it does to it first."""
    sub.add_argument("model", metavar="MODEL", help="a folder or a hub id; of a language model also a GGUF file")
    sub.add_argument("--with", dest="recipe", metavar="RECIPE", help=f"apply it first: {RECIPE_HELP}")
    sub.add_argument("--device", metavar="DEVICE", help="device to run on, e.g. cuda")


def _transcribe(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift transcribe`."""
    _model(sub)
    sub.add_argument("recordings", metavar="FILE", nargs="+", help="sound files")
    sub.add_argument("--format", choices=("txt", "srt", "vtt", "json"), default="txt", help="of what is written (txt)")
    sub.add_argument("--words", action="store_true", help="times of words instead of segments")
    sub.add_argument("--language", metavar="CODE", help="such as en (found out from the sound)")
    sub.add_argument(
        "--task", choices=("transcribe", "translate"), default="transcribe", help="translate: into English"
    )
    sub.add_argument("--batch-size", type=int, metavar="N", help="pieces at once (1)")
    sub.add_argument("--out", metavar="DIR", help="folder to write into (beside each recording)")


def _chat(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift chat`."""
    _model(sub)
    sub.add_argument("message", metavar="MESSAGE", nargs="*", help="one message (else each line of standard input)")
    sub.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    sub.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="most tokens of an answer (256)")


def _tune(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift tune`."""
    sub.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    sub.add_argument("--data", metavar="FILE", required=True, help=DATA_HELP)
    sub.add_argument(
        "--keep", metavar="CONDITION", action="append", help="what has to stay, e.g. 'psnr>=35' or 'worst:psnr>=25'"
    )
    sub.add_argument("--objective", default="latency", help="latency, throughput, memory or disk (%(default)s)")
    sub.add_argument("--budget", metavar="TIME", default="10m", help="how long to search, e.g. 90s or 1h (%(default)s)")
    sub.add_argument("--only", metavar="NAME", action="append", help="try this algorithm or family and no others")
    sub.add_argument("--without", metavar="NAME", action="append", help="do not try this algorithm or family")
    sub.add_argument("--seed", type=int, default=0, help="seed of the examples and of the search (%(default)s)")
    sub.add_argument("--device", metavar="DEVICE", help="device to work on, e.g. cuda")
    sub.add_argument("--out", metavar="DIR", required=True, help="folder for recipe, table and report; goes on in it")


def _optimize(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift optimize`."""
    sub.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    sub.add_argument("--with", dest="recipe", metavar="RECIPE", required=True, help=RECIPE_HELP)
    sub.add_argument("--out", metavar="DIR", required=True, help="folder to write")
    sub.add_argument("--overwrite", action="store_true", help="delete what is in DIR, whoever wrote it")
    sub.add_argument("--device", metavar="DEVICE", help="device to work on, e.g. cuda")


def _demo(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift demo`."""
    sub.add_argument("--out", metavar="DIR", default="gearshift-demo", help="folder to write (%(default)s)")
    sub.add_argument("--compile", action="store_true", help="add a compiled recipe; compiling takes a minute or two")
    sub.add_argument("--images", type=int, default=48, help="images per recipe (%(default)s)")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    """Arguments of `gearshift evaluate`."""
    sub.add_argument("model", metavar="MODEL", help="a folder or a hub id")
    sub.add_argument("--against", metavar="MODEL", help="the model to compare with (itself before it was optimized)")
    sub.add_argument("--with", dest="recipe", metavar="RECIPE", help=f"apply this first: {RECIPE_HELP}")
    sub.add_argument("--data", metavar="FILE", required=True, help=DATA_HELP)
    sub.add_argument(
        "--metric", metavar="METRIC", action="append", help="measure this, e.g. psnr or 'psnr>=30' (usual)"
    )
    sub.add_argument("--batch-size", type=int, default=1, help="prompts in one call of a pipeline (%(default)s)")
    sub.add_argument("--seed", type=int, default=0, help="seed of the first example (%(default)s)")
    sub.add_argument("--device", metavar="DEVICE", help="device to run on, e.g. cuda")
    sub.add_argument("--json", metavar="FILE", help="also write everything as JSON")
    sub.add_argument("--report", metavar="FILE", help="also write a page with pictures")


def _lazily(where: str) -> Callable[[argparse.Namespace], int | None]:
    """A command's function, imported when it is run."""

    def run(arguments: argparse.Namespace) -> int | None:
        from importlib import import_module

        module, _, function = where.partition(":")
        return getattr(import_module(f"gearshift.cli.{module}"), function)(arguments)

    return run
