"""Build the wheel, install it in a bare environment, and run the first steps of the documentation with it.

usage: python tools/check_wheel.py [WHEEL]      WHEEL: one that is built already

What it checks is that the package is whole: its models, data and extras, and nothing that lies in the repository alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TRIED = """
import gearshift as gs
from gearshift import zoo
assert len(gs.algorithms()) > 40
"""


def built(folder: Path) -> Path:
    """The wheel of this checkout."""
    subprocess.run([sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def first_steps() -> str:
    """The program of docs/start.md."""
    return TRIED + "\n".join(BLOCK.findall((ROOT / "docs" / "start.md").read_text()))


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wheel = Path(sys.argv[1]).resolve() if sys.argv[1:] else built(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB")
        venv.create(folder / "bare", with_pip=True)
        python = folder / "bare" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        constraints = ("--constraint", ROOT / "constraints.txt")
        # torch goes first and alone, so that nothing else decides which build of it is taken
        subprocess.run([python, *PIP, "install", *constraints, "torch"], check=True)
        subprocess.run([python, *PIP, "install", *constraints, f"{wheel}[diffusers]"], check=True)
        subprocess.run([python, "-m", "pip", "check"], check=True)
        subprocess.run([python, "-c", first_steps()], check=True, cwd=folder)
        subprocess.run([python, "-m", "gearshift", "check", "qkv_diffusers, taylor"], check=True, cwd=folder)
    print("The wheel installs and runs.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
