"""Write what of README and docs is made by script: pages from the registry, numbers and tables from the benchmarks.

usage: python tools/pages.py [--check]      --check: say what is out of date, change nothing
"""

from __future__ import annotations

import sys
from pathlib import Path

from commands import commands
from compatibility import compatibility
from machines import hardware, matrix
from measured import BENCHMARKS, ROOT, filled

from gearshift.core.algorithm import Algorithm
from gearshift.core.facts import Family
from gearshift.core.files import write_atomically
from gearshift.core.registry import registry

DOCS = ROOT / "docs"
NOTE = "<!-- made by tools/pages.py; do not edit -->\n\n"
PURPOSES = {  # a page of algorithms: its title, what they do, the families that do it
    "steps": (
        "Compute fewer steps",
        "Some denoising steps, or parts of them, are computed and the others filled in; or fewer steps are needed.",
        (Family.CACHER, Family.DISTILLER),
    ),
    "bits": (
        "Use fewer bits",
        "The weights are held in fewer bits, for all steps or for some.",
        (Family.QUANTIZER, Family.PRECISION),
    ),
    "compile": (
        "Compile, convert, fuse",
        "The same computation in a faster way.",
        (Family.COMPILER, Family.FACTORIZER),
    ),
    "speech": (
        "Transcribe in batches",
        "Long recordings are cut at pauses, and several pieces transcribed at once.",
        (Family.BATCHER,),
    ),
    "smaller": (
        "Remove weights, win quality back",
        "Weights are removed; or a changed model is trained until it answers as the original did.",
        (Family.PRUNER, Family.RECOVERER),
    ),
    "images": ("Improve images", "They work on finished images.", (Family.ENHANCER,)),
}


def pages() -> dict[Path, str]:
    """The text of every page that is made from the registry, the command line and the benchmarks."""
    made = {f"algorithms/{name}.md": _purpose(name) for name in PURPOSES}
    made |= {"algorithms/index.md": _overview(), "compatibility.md": compatibility(registry())}
    made |= {"cli.md": commands(), "hardware.md": hardware()}
    made |= {f"tables/{p.name}": f'--8<-- "benchmarks/{p.name}"\n' for p in sorted(BENCHMARKS.glob("*.md"))}
    return {DOCS / name: NOTE + text for name, text in made.items()}


def fillings() -> dict[Path, str]:
    """The text of every page that is written by hand, with the numbers that belong into it."""
    by_hand = [ROOT / "README.md", *(p for p in sorted(DOCS.rglob("*.md")) if p not in pages())]
    blocks = {"hardware": matrix("docs/benchmarks.md"), "decibels": _decibels()}
    return {path: filled(path.read_text(), **blocks) for path in by_hand}


def _decibels() -> str:
    """What a PSNR means: the mean error of a pixel in % of the range, and in levels of 255."""
    rows = [(dB, 10 ** (-dB / 20)) for dB in (20, 25, 30, 35, 40, 45, 50, 60)]
    lines = [f"| {dB} dB | {error:.2%} | {255 * error:.1f} |" for dB, error in rows]
    return "\n".join(["| PSNR | error of a pixel | in levels of 255 |", "|---|---:|---:|", *lines])


def _of(families: tuple[Family, ...]) -> list[type[Algorithm]]:
    return [cls for family in families for cls in registry() if cls.facts.family is family]


def _overview() -> str:
    """Every algorithm in a line, by purpose."""
    found = ["# Algorithms\n\nBy purpose. Every name links to its parameters; `gearshift info NAME` prints the same.\n"]
    for name, (title, text, families) in PURPOSES.items():
        found.append(f"\n## {title}\n\n{text}\n\n| algorithm | family | what it does |\n|---|---|---|\n")
        for cls in _of(families):
            found.append(f"| [`{cls.name}`]({name}.md#{cls.name}) | {cls.facts.family.value} | {cls.summary()} |\n")
    return "".join(found)


def _purpose(name: str) -> str:
    """One section for each algorithm of a purpose."""
    title, text, families = PURPOSES[name]
    return f"# {title}\n\n{text}\n" + "".join(_section(cls) for cls in _of(families))


def _section(cls: type[Algorithm]) -> str:
    facts = cls.facts
    lines = [f"\n## {cls.name}\n", _text(cls), ""]
    if cls.params():
        lines.append("| parameter | default | allowed | meaning |\n|---|---|---|---|")
        for name, p in cls.params().items():
            lines.append(f"| `{name}` | `{p.default!r}` | {str(p.bound).removeprefix('one of ')} | {p.help} |")
        lines.append("")
    lines += [
        f"- Family: {facts.family.value}.",
        f"- For: {', '.join(sorted(kind.value for kind in facts.kinds))}.",
        f"- Devices: {', '.join(facts.devices)}.",
        f"- Install: `pip install 'gearshift[{facts.extra}]'`." if facts.extra else "- Install: nothing more.",
        f"- When saved: {facts.persist.value}.",
        "",
    ]
    return "\n".join(lines)


def _text(cls: type[Algorithm]) -> str:
    return " ".join((cls.__doc__ or "").split())


def main() -> int:
    stale = []
    for path, text in {**pages(), **fillings()}.items():
        if not path.exists() or path.read_text() != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, text)
    if "--check" in sys.argv and stale:
        print(f"out of date: {', '.join(stale)}; run python tools/pages.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
