"""Stages a version again and again, each time to die at another system call: for `strace -e inject=…:signal=KILL`.

    strace -f -e inject=fsync:signal=KILL:when=LAST … python -m tests.faults.crash_points FOLDER fsync:LAST …

FOLDER/fsync-1 to FOLDER/fsync-LAST are copies of one model cache. strace counts for each process: number N begins
with LAST - N harmless calls, so that the Nth of staging is the deadly one. Prints for each whether it was killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from tests.models import FakeRegistry, model_cache


def harmless(call: str, place: Path) -> Callable[[], None]:
    """A call of that name that changes nothing."""
    place.write_text("")
    if call == "rename":
        return lambda: os.rename(place, place)  # noqa: PTH104  (the very system call)
    handle = os.open(place, os.O_RDONLY)
    return lambda: os.fsync(handle)


def main() -> None:
    folder, registry = Path(sys.argv[1]), FakeRegistry()
    version = registry.promote(seed=2, version="2")
    for call, last in (argument.split(":") for argument in sys.argv[2:]):
        spare = harmless(call, folder / "spare")
        for number in range(1, int(last) + 1):
            if os.fork() == 0:
                for _ in range(int(last) - number):
                    spare()
                model_cache(folder / f"{call}-{number}").stage(version, registry.fetch)
                os._exit(0)
            _, status = os.wait()
            print("killed" if os.WIFSIGNALED(status) else "whole", flush=True)


if __name__ == "__main__":
    main()
