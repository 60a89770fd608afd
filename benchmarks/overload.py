"""Ten times the load that the service can carry -> a table on stdout, for requests of several sizes.

    python -m benchmarks.overload

One worker with a fast online store, the prediction log in `sync` mode, and a generator that does not wait for answers.
A share by rate means something on a machine that does nothing else; the share by the service's own CPU seconds holds
on any. Seconds are counted from the moment at which a request was due.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.serving.conftest import make_site
from tests.serving.test_overload import Phase, overload
from tests.serving.test_processes import serve_command

SIZES = (100, 500, 1000)  # ten times the single users that are answered is more than this generator can ask for
COLUMNS = (
    "users a request",
    "capacity, 1/s",
    "offered, 1/s",
    "answered, 1/s",
    "share by rate",
    "share by CPU",
    "503: p50, p99 ms",
    "200: p50, p99 ms",
    "probes: p50, worst ms",
)


def main() -> None:
    table = Table(*COLUMNS, box=None)
    for users in SIZES:
        table.add_row(str(users), *measured(users))
    Console(width=160).print(table)


def measured(users: int) -> list[str]:
    with tempfile.TemporaryDirectory() as scratch:
        site = make_site(Path(scratch))
        site.promote()
        with serve_command(site, BATCH_LIMIT=str(users)) as (process, address):
            phases, probed = asyncio.run(overload(process.pid, int(address.rsplit(":", 1)[1]), users))
    return row(phases, sorted(seconds for _, seconds in probed))


def row(phases: list[Phase], probes: list[float]) -> list[str]:
    calm, flood, _ = phases
    capacity, answered = calm.outcome.rate(200), flood.outcome.rate(200)
    return [
        f"{capacity:.0f}",
        f"{len(flood.outcome.answers) / flood.outcome.seconds:.0f}",
        f"{answered:.0f}",
        f"{answered / capacity:.0%}",
        f"{flood.answers_per_cpu_second / calm.answers_per_cpu_second:.0%}",
        *(percentiles(flood, status) for status in (503, 200)),
        f"{1000 * probes[len(probes) // 2]:.0f}, {1000 * probes[-1]:.0f}",
    ]


def percentiles(phase: Phase, status: int) -> str:
    return ", ".join(f"{1000 * phase.outcome.percentile(status, percent):.0f}" for percent in (50, 99))


if __name__ == "__main__":
    main()
