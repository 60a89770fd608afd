"""`make bench`: every part of the benchmarks, each in a process of its own -> docs/benchmarks.md, build/bench.json.

A part is measured again alone by `python -m benchmarks.<part>`, which renews its own place in both files.
"""

from __future__ import annotations

import subprocess
import sys
import time

from rich.console import Console

from benchmarks.figures import PARTS, REPOSITORY


def main() -> None:
    console = Console(stderr=True)
    started = time.monotonic()
    failed = [part for place, part in enumerate(PARTS, 1) if not _done(part, f"[{place}/{len(PARTS)}] {part}", console)]
    console.print(f"docs/benchmarks.md, build/bench.json in {(time.monotonic() - started) / 60:.0f} minutes")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


def _done(part: str, title: str, console: Console) -> bool:
    console.print(f"{title} …", markup=False)
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}"], check=False, cwd=REPOSITORY)
    console.print(f"{title}: {time.monotonic() - started:.0f} s", markup=False)
    return done.returncode == 0


if __name__ == "__main__":
    main()
