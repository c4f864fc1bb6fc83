"""Write the pages that are made from the registry: docs/algorithms.md and docs/compatibility.md.

usage: python tools/pages.py [--check]      --check: say whether they are up to date, change nothing
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from gearshift.core.files import write_atomically
from gearshift.core.registry import registry
from gearshift.core.rules import conflict

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- made by tools/pages.py from the registry; do not edit -->\n"


def algorithms() -> str:
    """One section for each algorithm."""
    lines = [NOTE, "# Algorithms\n"]
    for cls in registry():
        lines.append(f"## {cls.name}\n\n*{cls.facts.family.value}*. {_text(cls)}\n")
        if cls.params():
            lines.append("| parameter | default | allowed | meaning |\n|---|---|---|---|")
            for name, p in cls.params().items():
                lines.append(f"| `{name}` | `{p.default!r}` | {str(p.bound).removeprefix('one of ')} | {p.help} |")
            lines.append("")
        lines.append(f"When saved, it is {cls.facts.persist.value}.\n")
    return "\n".join(lines)


def compatibility() -> str:
    """A line for each pair: works (a test ran it), declared (the rules allow it), or the reason against it."""
    ran = json.loads((DOCS / "pairs.json").read_text())
    lines = [
        NOTE,
        "# Which algorithms go together\n",
        "*works*: `tools/pairs.py` applied both, ran the model, saved it, loaded it and got equal bits.",
        "*declared*: the rules allow the pair and nothing has run it yet. Otherwise the rules' reason against it.\n",
        "| pair | verdict |\n|---|---|",
    ]
    for a, b in itertools.combinations(registry(), 2):
        reason = conflict((a.name, a.facts), (b.name, b.facts))
        outcome = ran.get(f"{a.name} + {b.name}", "")
        verdict = f"no: {reason}" if reason else outcome if outcome.startswith(("works", "fails")) else "declared"
        lines.append(f"| {a.name} + {b.name} | {verdict} |")
    lines.append("")
    return "\n".join(lines)


def _text(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def main() -> int:
    stale = []
    for name, text in (("algorithms.md", algorithms()), ("compatibility.md", compatibility())):
        path = DOCS / name
        if not path.exists() or path.read_text() != text:
            stale.append(name)
            if "--check" not in sys.argv:
                write_atomically(path, text)
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run python tools/pages.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
