"""Fifty promotions in fifty seconds under load, by a real MLflow registry -> facts on stdout; ends with 1 if one fails.

    python -m benchmarks.promotions      # PROMOTIONS=50 and one a second, unless set

Every answer must be from one whole version and bit-equal to what that version says of the logged vector; the last alias
must be served by both workers in the end; and a worker must hold no more than two models.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import httpx

from benchmarks.deployment import Deployment, deployment
from benchmarks.steady_load import Asked, load, lost_and_wrong

PROMOTIONS = int(os.environ.get("PROMOTIONS", "50"))
MEGABYTES = 400


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="churn-promotions-") as scratch, deployment(Path(scratch)) as made:
        with load(made.address) as asked:
            memory, last = promote_again_and_again(made)
            served = wait_until_served(made, last)
        lost, wrong = lost_and_wrong(made, asked)
    facts = {
        "promotions": PROMOTIONS,
        "statuses": asked.statuses(),
        "versions that answered": len({each.version for each in asked.answered}),
        "answers of several versions": mixed(asked),
        "answers without a record": lost,
        "records that their version does not reproduce": wrong,
        "seconds until both workers served the last": round(served, 2),
        "most megabytes of a worker": round(max(memory)),
        "p50, p99 ms": (asked.percentile_ms(50), asked.percentile_ms(99)),
    }
    for name, value in facts.items():
        print(f"{name:46} {value}")
    fine = set(asked.statuses()) == {"200"} and not (lost or wrong or mixed(asked)) and max(memory) < MEGABYTES
    return 0 if fine and served < 5 else 1


def promote_again_and_again(made: Deployment) -> tuple[list[float], str]:
    """One move a second; each worker's memory after each, and the version of the last."""
    memory, version = [], made.versions[0]
    for number in range(PROMOTIONS):
        due = time.monotonic() + 1
        version = made.versions[(number + 1) % len(made.versions)]
        made.move_alias(version)
        memory += made.megabytes()
        time.sleep(max(0.0, due - time.monotonic()))
    return memory, version


def wait_until_served(made: Deployment, version: str, seconds: float = 30.0) -> float:
    """Seconds until both workers serve it; `seconds` if they do not."""
    since = time.monotonic()
    while time.monotonic() - since < seconds:
        found = {httpx.get(f"{address}/v1/model").json()["version"] for address in made.worker_addresses}
        if found == {version}:
            break
        time.sleep(0.05)
    return time.monotonic() - since


def mixed(asked: Asked) -> int:
    """Requests whose users were not all answered by the same version."""
    versions: dict[str, set[str]] = {}
    for each in asked.answered:
        versions.setdefault(each.request_id, set()).add(each.version)
    return sum(len(found) > 1 for found in versions.values())


if __name__ == "__main__":
    sys.exit(main())
