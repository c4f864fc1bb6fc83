"""gearshift list, gearshift info."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gearshift.core.algorithm import Algorithm
from gearshift.core.errors import UnknownName
from gearshift.core.facts import Kind
from gearshift.core.registry import registry, works_with


def describe(cls: type[Algorithm]) -> dict[str, Any]:
    """An algorithm as plain data."""
    return {
        "name": cls.name,
        "family": cls.facts.family.value,
        "family_aliases": cls.facts.family.aliases,
        "summary": cls.summary(),
        "params": [{"name": name, **declared.describe()} for name, declared in cls.params().items()],
        "works_with": works_with(cls),
        "extra": cls.facts.extra,
        "devices": list(cls.facts.devices),
    }


def list_all(arguments: argparse.Namespace) -> None:
    """Every algorithm, or those for a kind of model or of a family, as a table or as JSON."""
    chosen = list(registry())
    if arguments.kind is not None:
        chosen = [cls for cls in chosen if Kind[arguments.kind.upper()] in cls.facts.kinds]
    if arguments.family is not None:
        families = {cls.facts.family for cls in registry()}
        if arguments.family not in {family.value for family in families}:
            raise UnknownName("family", arguments.family, [family.value for family in families])
        chosen = [cls for cls in chosen if cls.facts.family.value == arguments.family]
    found = [describe(cls) for cls in chosen]
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("family", "name", "what it does", "parameters", box=None, pad_edge=False)
    for entry in found:
        params = ", ".join(f"{p['name']}={p['default']}" for p in entry["params"])
        table.add_row(entry["family"], entry["name"], entry["summary"], params)
    Console().print(table)
    print(f"{len(found)} algorithms.")


def info(arguments: argparse.Namespace) -> None:
    """One algorithm in full."""
    cls = registry().get(arguments.name)
    entry = describe(cls)
    lines = [f"{entry['name']} ({entry['family']})", "", _text(cls), ""]
    if not entry["params"]:
        lines += ["It has no parameters.", ""]
    for name, declared in cls.params().items():
        lines += [f"  {name} = {declared.default!r}: {declared.help}", f"      {declared.bound}"]
    needs = ", ".join(sorted(t.value for t in cls.facts.needs)) or "nothing in particular"
    lines += [
        "",
        f"For:      {', '.join(sorted(k.value for k in cls.facts.kinds))}",
        f"Needs:    {needs}",
        f"Saved:    {cls.facts.persist.value}",
        f"Devices:  {', '.join(entry['devices'])}",
        f"Installs: {'gearshift[' + entry['extra'] + ']' if entry['extra'] else 'nothing more'}",
        f"Together: {', '.join(entry['works_with'])}",
    ]
    print("\n".join(lines))


def _text(cls: type[Algorithm]) -> str:
    return "\n".join(line.strip() for line in (cls.__doc__ or "").strip().splitlines())
