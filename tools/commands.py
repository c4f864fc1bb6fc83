"""The page of the command line: the arguments of each command, as `--help` has them."""

from __future__ import annotations

import argparse

from gearshift.cli import _parser

HEAD = """# Command line

`gearshift COMMAND --help` prints this. Errors are one line and exit code 2; `gearshift --debug COMMAND` shows more.
"""


def commands() -> str:
    """One section for each command."""
    (subs,) = (action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction))
    return HEAD + "".join(_command(name, sub) for name, sub in subs.choices.items())


def _command(name: str, parser: argparse.ArgumentParser) -> str:
    rows = [_argument(action) for action in parser._actions if action.dest != "help"]
    table = "\n| argument | meaning |\n|---|---|\n" + "".join(rows) if rows else ""
    examples = f"\n```text\n{parser.epilog.strip()}\n```\n" if parser.epilog else ""
    return f"\n## {name}\n\n{parser.description}\n{table}{examples}"


def _argument(action: argparse.Action) -> str:
    value = str(action.metavar or action.dest.upper())
    words = ", ".join(action.option_strings)
    words = words if action.nargs == 0 else f"{words} {value}".strip()
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("|", "\\|")
    return f"| `{words}` | {text} |\n"
