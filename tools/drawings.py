"""The drawings that explain how it works; tools/figures.py writes them. Gears are the presets' own."""

from __future__ import annotations

from typing import Any

from plots import AMBER, BLUE, GRAY, LIGHT, WIDTH

from gearshift.precision import quick_schedule
from gearshift.precision.levels import Precision

SHADES = {Precision.INT4: "#bcd0f7", Precision.INT8: "#7aa0ee", Precision.FP16: BLUE}
STEPS = 20


def steps(axes: Any) -> None:
    """A run of 20 steps: all computed, every third computed, and a planned schedule's uneven ones."""
    rows = {
        "all computed": range(STEPS),
        "every 3rd computed": [0, 1, 2, *range(3, STEPS, 3)],
        "planned": [0, 1, 3, 6, 10, 14, 17, 19],
    }
    for y, (name, computed) in enumerate(reversed(rows.items())):
        for step in range(STEPS):
            if step in computed:
                axes.bar(step, 0.7, bottom=y, color=BLUE, width=0.82)
            else:
                axes.bar(step, 0.28, bottom=y, color="white", edgecolor=AMBER, hatch="////", width=0.82)
        axes.text(-0.6, y + 0.78, name, color=GRAY, fontsize=11)
    _bare(axes, 2.9)
    axes.set(xlabel="denoising step: solid is computed, hatched is filled in", xticks=range(STEPS)[::2])


def gears(axes: Any) -> None:
    """The gear of each step in the presets: bits of the weights that are read."""
    presets = ("quality", "balanced", "performance")
    for y, name in enumerate(reversed(presets)):
        for step, gear in enumerate(quick_schedule(name, STEPS).precisions):
            axes.bar(step, 0.62, bottom=y, color=SHADES.get(gear, BLUE), width=0.82)
        axes.text(-0.6, y + 0.7, name, color=GRAY, fontsize=11)
    _bare(axes, 2.9)
    handles = [axes.bar(0, 0, color=color, label=gear.value) for gear, color in SHADES.items()]
    axes.figure.legend(handles=handles, fontsize=10.5, frameon=False, loc="outside lower center", ncol=3)
    axes.set(xlabel="denoising step", xticks=range(STEPS)[::2])


def planes(axes: Any) -> None:
    """One weight kept as three nested planes, and what each gear reads of them."""
    widths = (
        ("4-bit plane", 4, SHADES[Precision.INT4]),
        ("4 more bits", 4, SHADES[Precision.INT8]),
        ("8 more bits", 8, BLUE),
    )
    x = 0
    for name, bits, color in widths:
        axes.barh(0, bits, left=x, color=color, height=0.6, edgecolor="white", linewidth=2)
        axes.text(
            x + bits / 2,
            0,
            name,
            ha="center",
            va="center",
            fontsize=10.5,
            color="white" if color == BLUE else "#1d2430",
        )
        x += bits
        axes.annotate(
            "",
            (x, 0.5 + 0.32 * (x > 4) + 0.32 * (x > 8)),
            (0, 0.5 + 0.32 * (x > 4) + 0.32 * (x > 8)),
            arrowprops={"arrowstyle": "-|>", "color": GRAY},
        )
        gear = {4: "INT4", 8: "INT8", 16: "FP16"}[x]
        axes.text(0.15, 0.56 + 0.32 * (x > 4) + 0.32 * (x > 8), f"gear {gear} reads", fontsize=10, color=GRAY)
    _bare(axes, 2.4)
    axes.set(xlabel="bits of a weight", xticks=(0, 4, 8, 16), ylim=(-0.4, 1.6))


def places(axes: Any) -> None:
    """Where a cacher can stand in a denoiser: around all of it, its stack of blocks, or each block."""
    axes.add_patch(_box(0.2, 0.1, 9.6, 3.8, GRAY))
    axes.text(0.4, 3.5, "denoiser: taylor, periodic, adaptive, auto, taylor_auto", fontsize=10.5, color=GRAY)
    axes.add_patch(_box(1.6, 0.5, 6.9, 2.7, AMBER))
    axes.text(1.8, 2.8, "stack of blocks: flux_caching", fontsize=10.5, color=AMBER)
    for n in range(4):
        axes.add_patch(_box(1.9 + 1.62 * n, 0.8, 1.4, 1.6, BLUE))
        axes.text(
            2.6 + 1.62 * n,
            1.6,
            "block" if n else "block:\nfora, pab",
            ha="center",
            va="center",
            fontsize=10.5,
            color=BLUE,
        )
    for x, word in ((0.85, "embed"), (9.15, "out")):
        axes.text(x, 1.7, word, ha="center", fontsize=10.5, color=GRAY)
    axes.set(xlim=(0, 10), ylim=(0, 4), xticks=[])
    _bare(axes, 2.9)


def _box(x: float, y: float, wide: float, tall: float, color: str) -> Any:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=0.15"
    return FancyBboxPatch((x, y), wide, tall, boxstyle=style, fill=False, edgecolor=color, linewidth=1.6)


def _bare(axes: Any, tall: float) -> None:
    axes.figure.set_size_inches(WIDTH, tall)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(yticks=[])
    axes.tick_params(axis="x", color=LIGHT)
