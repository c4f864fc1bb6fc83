"""The plots of README and docs: functions that draw a benchmark's table on axes; tools/figures.py writes the files."""

from __future__ import annotations

from collections.abc import Callable
from textwrap import fill
from typing import Any

from measured import read, table

BLUE, AMBER, GRAY, LIGHT = "#2b5fd0", "#c97b12", "#5d6675", "#aab2bf"
WIDTH = 6.4  # inches
CONTROLS = {"DDIM": "-", "Euler": "-", "DPM++ 2M": "--", "UniPC": ":"}
PEERS = {  # how a row begins: its name and marker
    "diffusers TaylorSeer lite (": ("diffusers TaylorSeer", "^"),
    "diffusers FirstBlockCache": ("diffusers FirstBlockCache", "v"),
    "diffusers MagCache": ("diffusers MagCache", "s"),
    "cache-dit DBCache (": ("cache-dit DBCache", "P"),
    "cache-dit DBCache + TaylorSeer": ("cache-dit + TaylorSeer", "D"),
    "DeepCache (": ("DeepCache", "^"),
}
Draw = Callable[[Any], None]


def speed_quality(model: str) -> Draw:
    """Speed against PSNR of planned schedules, of fewer steps, and of other libraries' caches."""

    def draw(axes: Any) -> None:
        rows = {r.partition(": ")[2]: [] for r in table("caching", f"{model}, 50 steps")}
        for name, cells in table("caching", f"{model}, 50 steps").items():
            rows[name.partition(": ")[2]].append(cells)
        _line(axes, rows["planned (taylor_auto)"], "gearshift, planned", BLUE, "-", 3)
        for name, style in CONTROLS.items():
            _line(axes, rows.get(f"fewer {name} steps", []), f"fewer steps, {name}", LIGHT, style, 1.8)
        for begin, (name, marker) in PEERS.items():
            cells = [c for row, found in rows.items() if row.startswith(begin) for c in found]
            _line(axes, cells, name, AMBER, "", 3, marker)
        axes.figure.set_size_inches(WIDTH, 5.4)
        axes.set(xlabel="times as fast as all 50 steps", ylim=(20, None))
        axes.set_ylabel("PSNR to the images of all steps, dB; higher is better", fontsize=11)
        axes.figure.legend(fontsize=10.5, frameon=False, loc="outside lower center", ncol=2)

    return draw


def precision(model: str) -> Draw:
    """Bytes of weights read over a run against PSNR: steps and gears planned together, apart, and each alone."""
    ways = {"joint plan": BLUE, "both, found apart": AMBER, "caching alone": LIGHT, "precision alone": GRAY}

    def draw(axes: Any) -> None:
        rows = table("precision", f"{model}, together").items()
        for name, color in ways.items():
            points = [{"speedup": 1 / c["cost"], "psnr": c["psnr"]} for row, c in rows if row.endswith(f": {name}")]
            _line(axes, points, name, color, "-", 3 if color == BLUE else 1.8)
        axes.set(xlabel="times fewer bytes of weights read over a run", ylabel="PSNR to the original's images, dB")
        axes.legend(fontsize=10.5, frameon=False)

    return draw


def _line(axes: Any, cells: list[Any], name: str, color: str, style: str, width: float, marker: str = "o") -> None:
    """Cells in the order of their speed; nothing where none was measured."""
    cells = sorted((c for c in cells if c["psnr"]), key=lambda c: c["speedup"])
    if cells:
        x, y = [c["speedup"] for c in cells], [c["psnr"] for c in cells]
        size = 6.5 if marker != "o" else 2.5 + width
        axes.plot(
            x, y, linestyle=style or "none", marker=marker, markersize=size, linewidth=width, color=color, label=name
        )


def bars(
    name: str, key: str, column: str, label: str, only: tuple[str, ...] = (), mark: tuple[str, ...] = ("",)
) -> Draw:
    """A bar for each row of a table whose name begins as in `only`; those beginning as in `mark` stand out."""

    def draw(axes: Any) -> None:
        found = {row: cells.get(column) for row, cells in table(name, key).items()}
        found = {row: v for row, v in found.items() if isinstance(v, (int, float)) and row.startswith(only or ("",))}
        _bars(axes, found, mark)
        axes.set(xlabel=label)

    return draw


def _bars(axes: Any, found: dict[str, float], mark: tuple[str, ...]) -> None:
    names = list(reversed(found))
    shown = [fill(name, 34, break_long_words=False) for name in names]
    axes.figure.set_size_inches(WIDTH, 1.1 + 0.33 * len(names))
    colors = [BLUE if n.startswith(mark) else LIGHT for n in names]
    drawn = axes.barh(shown, [found[n] for n in names], color=colors, height=0.65)
    axes.bar_label(drawn, fmt="%.3g", padding=4, color=GRAY, fontsize=10.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=10.5)


def int8_layers(axes: Any) -> None:
    """How many times as fast as float32 an int8 linear layer is, with everything around it, on two CPUs."""
    found = {}
    for machine, tables in read("int8").items():
        for row in tables["tables"]["Linear"]:
            found[f"{machine.partition(', ')[2]}: {row['shape']}"] = row["paths"]["Int8Linear"]["ratio"]
    _bars(axes, found, tuple({m.partition(", ")[2] for m in read("int8") if "with VNNI" in m}))
    axes.axvline(1, color=GRAY, linewidth=1)
    axes.set(xlabel="times as fast as float32")


def quantizers(axes: Any) -> None:
    """Size and compiled speed of the Llama under each quantizer, beside the original's."""
    rows = {r: c for r, c in table("quantizers", "llama").items() if c["compiled"]}
    names = list(reversed(rows))
    axes.figure.set_size_inches(WIDTH, 1.4 + 0.3 * len(names))
    for column, color, words in (("size", AMBER, "size of the weights"), ("compiled", BLUE, "speed, compiled")):
        axes.plot([rows[n][column] for n in names], names, "o", color=color, label=words)
    axes.axvline(1, color=GRAY, linewidth=1)
    axes.set(xlabel="times the original's, which is not compiled", xlim=(0, None))
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.figure.legend(fontsize=10.5, frameon=False, loc="outside upper center", ncol=2)
