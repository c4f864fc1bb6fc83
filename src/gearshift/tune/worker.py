"""Measures candidates, each in a process of its own: a crash, a hang or too much memory ends that one only.

`python -m gearshift.tune.worker` imports everything once, then forks for each job that the process which started it
sends through its pipe: where the answer goes, and what `gearshift.tune.jobs` wrote. Nothing is read from a file.
"""

from __future__ import annotations

import json
import os
import pickle
import time
import traceback
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gearshift.core.errors import told


def main() -> None:
    """Serve jobs until the pipe at standard input ends."""
    warnings.simplefilter("ignore")
    preload()
    jobs = Connection(0, writable=False)
    print("ready", flush=True)
    while True:
        try:
            out, job = Path(os.fsdecode(jobs.recv_bytes())), jobs.recv_bytes()
        except EOFError:
            return
        pid = started(out, job)
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


def started(out: Path, job: bytes) -> int:
    """The process that does a job."""
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
        run_job(out, job)
        code = 0
    finally:
        os._exit(code)


def run_job(out: Path, job: bytes) -> None:
    """Do one job; what comes out is written as it comes, as JSON."""
    from gearshift.tune.measured import measured

    began = time.monotonic()

    def write(found: dict[str, Any]) -> None:
        scratch = out.with_suffix(".part")
        scratch.write_text(json.dumps({**found, "seconds": time.monotonic() - began}))
        scratch.replace(out)

    try:
        measured(pickle.loads(job), write)  # objects of the process that started this one, by its own pipe
    except BaseException as error:
        why = told(error) if str(error) else type(error).__name__
        known = type(error).__module__.startswith("gearshift")
        write({"error": why if known else f"{type(error).__name__}: {why}", "trace": traceback.format_exc()})
        if not isinstance(error, Exception):
            raise


if __name__ == "__main__":
    main()
