"""Write the figures of README and docs (docs/figures/*.svg): plots of the benchmarks' tables, and drawings.

usage: python tools/figures.py [--check] [NAME ...]     --check: say which are out of date, change nothing

Needs `pip install -e '.[plot]'`. A file says what it was made of, so that `--check` draws nothing.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import drawings
import plots
from measured import BENCHMARKS, ROOT
from plots import Draw, bars, precision, speed_quality

FIGURES = ROOT / "docs" / "figures"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gearshift",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": plots.LIGHT,
    "axes.labelcolor": plots.GRAY,
    "xtick.color": plots.GRAY,
    "ytick.color": plots.GRAY,
    "axes.grid": True,
    "grid.color": "#e7e9ee",
    "axes.axisbelow": True,
}
FASTER = "times as fast as the original"
PLOTS: dict[str, tuple[str, Draw]] = {  # by name of the file: the benchmark, and what draws it
    "speed-quality": ("caching", speed_quality("flux")),
    "speed-quality-text-to-image": ("caching", speed_quality("text-to-image")),
    "speed-quality-dit": ("caching", speed_quality("dit")),
    "predictors": (
        "predictors",
        bars(
            "predictors",
            "flux",
            "12 planned",
            "PSNR, dB, 12 of 50 steps computed",
            mark=("fitted",),
        ),
    ),
    "combined": ("combined", bars("combined", "text-to-image", "speedup", FASTER, mark=("planned",))),
    "compilers": (
        "compilers",
        bars("compilers", "text-to-image, 1 image(s)", "speed", FASTER, mark=("taylor", "deepcache")),
    ),
    "precision": ("precision", precision("text-to-image")),
    "gears": ("gears", bars("gears", "", "speed", FASTER)),
    "int8": ("int8", plots.int8_layers),
    "quantizers": ("quantizers", plots.quantizers),
    "language": ("language", bars("language", "", "ratio", FASTER)),
    "speech": ("speech", bars("speech", "", "speedup", FASTER, mark=("ifw", "c_whisper", "whisper_s2t"))),
    "recovery": (
        "recovery",
        bars("recovery", "quantized", "back", "% of the lost perplexity won back"),
    ),
}
DRAWINGS: dict[str, Draw] = {
    "steps": drawings.steps,
    "gears-of-steps": drawings.gears,
    "nested-weights": drawings.planes,
    "places": drawings.places,
}


def digest(*parts: Path) -> str:
    """Of the data and scripts that a figure is made of."""
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()


def wanted() -> dict[str, tuple[str, Draw]]:
    """Each figure's digest and what draws it."""
    here = Path(__file__).parent
    made = {
        name: (digest(BENCHMARKS / f"{source}.json", here / "plots.py"), draw) for name, (source, draw) in PLOTS.items()
    }
    return made | {name: (digest(here / "drawings.py"), draw) for name, draw in DRAWINGS.items()}


def stale() -> list[str]:
    """The figures that are of other data than there are now, or of another script."""
    texts = {name: FIGURES / f"{name}.svg" for name in wanted()}
    return [n for n, (sign, _) in wanted().items() if not texts[n].exists() or sign not in texts[n].read_text()]


def write(name: str, sign: str, picture: Draw) -> None:
    """Draw one figure."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(plots.WIDTH, 4.2), layout="constrained")
        picture(axes)
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None, "Creator": None, "Description": sign})
        pyplot.close(figure)


def main() -> int:
    named = [word for word in sys.argv[1:] if not word.startswith("--")]
    old = [name for name in stale() if not named or name in named]
    if "--check" in sys.argv:
        print(f"out of date: {', '.join(old)}; run python tools/figures.py" if old else "up to date")
        return bool(old)
    for name in old:
        write(name, *wanted()[name])
        print(FIGURES / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
