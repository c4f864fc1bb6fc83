"""Measures candidates, each in a process of its own: a crash, a hang or too much memory ends that one only.

`python -m gearshift.tune.worker` imports everything once, then reads the paths of jobs from standard input and forks
for each. Where a system cannot fork, a fresh process is started. A job is a pickle that `gearshift.tune.jobs` wrote.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from gearshift.core.errors import told


def main() -> None:
    """Serve jobs until standard input ends; with an argument, do that one job."""
    warnings.simplefilter("ignore")
    if len(sys.argv) > 1:
        run_job(Path(sys.argv[1]))
        return
    preload()
    print("ready", flush=True)
    for line in sys.stdin:
        path = line.strip()
        pid = started(Path(path))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(f"ended {os.waitstatus_to_exitcode(status)}", flush=True)


def preload() -> None:
    """Import what jobs need. One thread until they begin: a pool of threads does not survive a fork."""
    import torch

    torch.set_num_threads(1)
    for name in ("diffusers", "transformers", "gearshift.evaluate.evaluating", "gearshift.tune.measured"):
        try:
            __import__(name)
        except ImportError:
            continue


def started(path: Path) -> int:
    """The process that does a job."""
    if not hasattr(os, "fork"):
        return subprocess.Popen([sys.executable, "-m", "gearshift.tune.worker", str(path)]).pid
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory runs out, this process goes and no other
    devnull = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(devnull, stream)
    code = 1
    try:
        run_job(path)
        code = 0
    finally:
        os._exit(code)


def run_job(path: Path) -> None:
    """Do one job; what comes out is written beside it as it comes, as JSON."""
    from gearshift.tune.measured import measured

    job: dict[str, Any] = pickle.loads(path.read_bytes())
    out = path.with_suffix(".json")
    began = time.monotonic()

    def write(found: dict[str, Any]) -> None:
        scratch = out.with_suffix(".part")
        scratch.write_text(json.dumps({**found, "seconds": time.monotonic() - began}))
        scratch.replace(out)

    try:
        measured(job, write)
    except BaseException as error:
        why = told(error) if str(error) else type(error).__name__
        known = type(error).__module__.startswith("gearshift")
        write({"error": why if known else f"{type(error).__name__}: {why}", "trace": traceback.format_exc()})
        if not isinstance(error, Exception):
            raise


if __name__ == "__main__":
    main()
