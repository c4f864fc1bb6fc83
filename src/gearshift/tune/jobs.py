"""Handing candidates to the process that measures them, with a time limit; whatever ends one becomes a sentence."""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gearshift.core.errors import BadValue, GearshiftError, told
from gearshift.core.registry import registry

STARTING = 300.0  # seconds until a process has imported everything


class Jobs:
    """One process for jobs, started when it is needed, and again when it is gone; a context manager.

    Args:
        common: what all jobs have in common.
    """

    def __init__(self, common: dict[str, Any]) -> None:
        if not hasattr(os, "fork"):
            raise BadValue(f"Candidates run in forked processes, and {sys.platform} has none.")
        self.common = {**common, "algorithms": _own_algorithms()}
        self._folder = tempfile.TemporaryDirectory(prefix="gearshift-tune-")
        self._server: subprocess.Popen[str] | None = None
        self._pipe: Connection | None = None
        self._child: int | None = None
        self._count = 0
        try:
            _packed(self.common)
        except BadValue:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, limit: float, **job: Any) -> dict[str, Any]:
        """Do a job within so many seconds: what it found, or {'error': why it has nothing}."""
        self._count += 1
        out = Path(self._folder.name) / f"{self._count}.json"
        try:
            why = self._ended(out, _packed({**self.common, **job}), limit)
        except BaseException:
            self._kill()
            raise
        found = json.loads(out.read_text()) if out.exists() else {}
        if why and "error" not in found:
            found["error"] = why
        return found

    def _ended(self, out: Path, job: bytes, limit: float) -> str:
        """Send a job and wait for it; why it has no result, or nothing."""
        server = self._serving()
        assert self._pipe is not None
        self._pipe.send_bytes(os.fsencode(out))
        self._pipe.send_bytes(job)
        first = self._line(limit)
        self._child = int(first) if first and first.isdigit() else None
        line = self._line(limit) if self._child else None
        if line is None:
            gone = server.poll() is not None
            self._kill()
            return "the process that measures ended" if gone else f"it took more than {limit:.0f} s"
        self._child, code = None, int(line.split()[-1])
        if code == -signal.SIGKILL:
            return "the system ended it, most likely for want of memory"
        if code < 0:
            return f"it crashed ({signal.Signals(-code).name})"
        return f"it ended with code {code}" if code else ""

    def _serving(self) -> subprocess.Popen[str]:
        if self._server is None or self._server.poll() is not None:
            self._server = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "gearshift.tune.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )  # fmt: skip
            assert self._server.stdin is not None
            self._pipe = Connection(os.dup(self._server.stdin.fileno()), readable=False)
            if self._line(STARTING) != "ready":
                raise GearshiftError("The process that measures candidates did not start.")
        return self._server

    def _line(self, limit: float) -> str | None:
        """The server's next line; None if it does not come in time."""
        assert self._server is not None and self._server.stdout is not None
        until = time.monotonic() + limit
        while (left := until - time.monotonic()) > 0:
            if select.select([self._server.stdout], [], [], left)[0]:
                return self._server.stdout.readline().strip() or None
        return None

    def _kill(self) -> None:
        """End the job and its server; the next job starts another."""
        for pid in (self._child, self._server.pid if self._server else None):
            with suppress(OSError, ProcessLookupError):
                if pid is not None:
                    os.killpg(pid, signal.SIGKILL)
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            for stream in (self._pipe, self._server.stdin, self._server.stdout):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
        self._server = self._child = self._pipe = None

    def close(self) -> None:
        """End the process, and remove what was written for it."""
        self._kill()
        self._folder.cleanup()


def _packed(job: dict[str, Any]) -> bytes:
    """A job as it goes through the pipe.

    Raises:
        BadValue: if something in it cannot be sent.
    """
    try:
        return pickle.dumps(job)
    except Exception as error:
        raise BadValue(
            f"Candidates run in processes of their own, and something cannot be sent there: {told(error)}."
        ) from None


def _own_algorithms() -> list[tuple[str, str]]:
    """Algorithms from outside that were registered in this process: module and class.

    Raises:
        BadValue: for one that no other process can import.
    """
    found = [cls for cls in registry() if not cls.__module__.startswith("gearshift.")]
    for cls in found:
        if cls.__module__ == "__main__":
            raise BadValue(
                f"The algorithm {cls.name} is defined in the script itself; put it into a module of its own."
            )
    return [(cls.__module__, cls.__qualname__) for cls in found]
