"""The page that says which algorithms go together: a matrix for each kind of model."""

from __future__ import annotations

import json
from collections.abc import Iterable

from measured import ROOT

from gearshift.core.algorithm import Algorithm
from gearshift.core.facts import Kind, Slot, Trait
from gearshift.core.rules import conflict

KINDS = {  # titles, and the classes of models that tools/pairs.py runs
    Kind.DIFFUSION: ("Diffusion pipelines", ("DiTPipeline", "StableDiffusionPipeline", "FluxPipeline")),
    Kind.LANGUAGE: ("Language models", ("LlamaForCausalLM", "MarianMTModel")),
    Kind.SPEECH: ("Speech models", ("WhisperForConditionalGeneration",)),
}
HEAD = """# Which algorithms go together

The order of names in a recipe does not matter. `gearshift check RECIPE` says whether it can be applied, or why not.

- **✓** `tools/pairs.py` applied both to a model, ran it, saved it, loaded it and got equal bits.
- **○** the rules allow both; nothing has run the pair yet.
- **✗** not together; the reasons follow each matrix.
"""


def compatibility(registry: Iterable[type[Algorithm]]) -> str:
    """The whole page."""
    ran = json.loads((ROOT / "docs" / "pairs.json").read_text())
    classes = list(registry)
    return HEAD + "".join(_kind(kind, classes, ran) for kind in KINDS)


def _kind(kind: Kind, classes: list[type[Algorithm]], ran: dict[str, str]) -> str:
    """The matrix of one kind of model, and why pairs are refused."""
    title, ours = KINDS[kind]
    there = [cls for cls in classes if kind in cls.facts.kinds]
    head = "".join(f"<th><span>{cls.name}</span></th>" for cls in there[:-1])
    rows = [f"<tr><th></th>{head}</tr>"]
    for n, cls in enumerate(there[1:], 1):
        cells = "".join(f"<td>{_cell(other, cls, ran, ours)}</td>" for other in there[:n])
        rows.append(f"<tr><th>{cls.name}</th>{cells}</tr>")
    matrix = '<div class="matrix"><table class="pairs">\n' + "\n".join(rows) + "\n</table></div>"
    return f"\n## {title}\n\n{matrix}\n\nNot together:\n\n" + "".join(f"- {line}\n" for line in _reasons(there))


def _cell(a: type[Algorithm], b: type[Algorithm], ran: dict[str, str], classes: tuple[str, ...]) -> str:
    if conflict((a.name, a.facts), (b.name, b.facts)):
        return "✗"
    outcome = ran.get(f"{a.name} + {b.name}") or ran.get(f"{b.name} + {a.name}") or ""
    return "✓" if outcome.startswith("works") and outcome.endswith(classes) else "○"


def _reasons(there: list[type[Algorithm]]) -> list[str]:
    """Why pairs are refused: what only one may decide, and what one needs and others remove."""
    lines = []
    for slot in Slot:
        found = [cls for cls in there if slot in cls.facts.occupies]
        lines += [f"Only one of these, as each decides {slot.value}: {_names(found)}."] if len(found) > 1 else []
    for trait in Trait:
        removing = [cls for cls in there if trait in cls.facts.removes]
        first = min((cls.facts.stage for cls in removing), default=None)
        needing = [cls for cls in there if first is not None and trait in cls.facts.needs and cls.facts.stage >= first]
        needing = [cls for cls in needing if any(not cls.facts.occupies & other.facts.occupies for other in removing)]
        lines += [f"{_names(needing)} need {trait.value}; {_names(removing)} leave none."] if needing else []
    return lines


def _names(classes: Iterable[type[Algorithm]]) -> str:
    return ", ".join(f"`{cls.name}`" for cls in classes)
