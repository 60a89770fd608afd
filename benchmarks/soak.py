"""Faults at random under steady load -> build/soak.json and the same on stdout; ends with 1 if an invariant broke.

    python -m benchmarks.soak            # SOAK_SECONDS=600 and SOAK_SEED=<random> unless set

A service with two workers, Redis and an MLflow server, all real. One fault at a time, for a few seconds, then a few
seconds of calm. What must hold: no answer but 200 and 503, and a connection breaks only where a worker was killed;
every 200 is in the log as it was answered, and its version says the same of its vector again; within two seconds of a
fault's end there are answers; what happens to the registry is not felt at all; a worker's memory stays bounded.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import redis

from benchmarks.deployment import Deployment, deployment
from benchmarks.promotions import MEGABYTES, wait_until_served
from benchmarks.steady_load import Asked, load, lost_and_wrong

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
RECOVERY_SECONDS = 2.0
REPORT = Path("build/soak.json")
Fault = Callable[[Deployment, float, random.Random], None]


@dataclass
class Injected:
    """One fault: when it began and ended, in seconds since the start, and how soon there were answers after it."""

    kind: str
    began: float
    ended: float
    recovered_after: float | None = None
    refused_meanwhile: int = 0


@dataclass
class Report:
    """What a soak came to; `broken` names the invariants that did not hold."""

    seed: int
    seconds: float
    faults: list[Injected] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    answered: int = 0
    without_record: int = 0
    not_reproduced: int = 0
    most_megabytes: float = 0.0
    last_alias_served_after: float = 0.0
    broken: list[str] = field(default_factory=list)


# -- faults ----------------------------------------------------------------------------------------------------


def redis_killed(made: Deployment, seconds: float, _chance: random.Random) -> None:
    made.redis.kill()
    time.sleep(seconds)
    made.redis.start()
    made.redis.wait()


def redis_frozen(made: Deployment, seconds: float, _chance: random.Random) -> None:
    made.redis.signal(signal.SIGSTOP)
    time.sleep(seconds)
    made.redis.signal(signal.SIGCONT)


def redis_slow(made: Deployment, seconds: float, _chance: random.Random) -> None:
    """Every command waits up to 0.2 s."""
    end = time.monotonic() + seconds
    with redis.Redis(port=made.redis.port) as client:
        while time.monotonic() < end:
            client.execute_command("CLIENT", "PAUSE", "200", "ALL")
            time.sleep(0.25)


def alias_moved(made: Deployment, seconds: float, chance: random.Random) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        made.move_alias(chance.choice(made.versions))
        time.sleep(chance.uniform(0.05, 1.5))


def registry_frozen(made: Deployment, seconds: float, _chance: random.Random) -> None:
    made.mlflow.signal(signal.SIGSTOP)
    time.sleep(seconds)
    made.mlflow.signal(signal.SIGCONT)


def registry_killed(made: Deployment, seconds: float, _chance: random.Random) -> None:
    made.mlflow.kill()
    time.sleep(seconds)
    made.mlflow.start()
    made.mlflow.wait()


def worker_killed(made: Deployment, _seconds: float, chance: random.Random) -> None:
    os.kill(chance.choice(made.workers()), signal.SIGKILL)


def side_process_killed(made: Deployment, _seconds: float, _chance: random.Random) -> None:
    with suppress(StopIteration):  # it is being started again
        os.kill(made.side_process(), signal.SIGKILL)


def disk_full(made: Deployment, seconds: float, _chance: random.Random) -> None:
    """No worker can make any file longer, as on a full disk."""
    workers = made.workers()
    for pid in workers:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    time.sleep(seconds)
    for pid in workers:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


FAULTS: tuple[Fault, ...] = (
    redis_killed,
    redis_frozen,
    redis_slow,
    alias_moved,
    registry_frozen,
    registry_killed,
    worker_killed,
    side_process_killed,
    disk_full,
)
NOT_FELT = {"alias_moved", "registry_frozen", "registry_killed", "side_process_killed"}
BREAKS_CONNECTIONS = {"worker_killed"}


# -- the soak --------------------------------------------------------------------------------------------------


def main() -> int:
    print(f"seed {SEED}, {SECONDS:.0f} seconds", flush=True)
    report = Report(SEED, SECONDS)
    with tempfile.TemporaryDirectory(prefix="churn-soak-") as scratch, deployment(Path(scratch)) as made:
        with load(made.address) as asked:
            memory = inject(made, asked, report)
            made.move_alias(made.versions[0])
            report.last_alias_served_after = round(wait_until_served(made, made.versions[0]), 2)
        report.without_record, report.not_reproduced = lost_and_wrong(made, asked)
    conclude(report, asked, memory)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(asdict(report), indent=1) + "\n")
    print(REPORT.read_text())
    return 1 if report.broken else 0


def inject(made: Deployment, asked: Asked, report: Report) -> list[float]:
    """Fault after fault, each kind as often as the others, until the time is over; megabytes of the workers."""
    chance, memory, bag = random.Random(SEED), list[float](), list[Fault]()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        bag = bag or chance.sample(FAULTS, len(FAULTS))
        fault, began = bag.pop(), time.monotonic()
        fault(made, chance.uniform(0.5, 5.0), chance)
        ended = time.monotonic()
        time.sleep(chance.uniform(RECOVERY_SECONDS, 2 * RECOVERY_SECONDS))
        memory += made.megabytes()
        report.faults.append(told(asked, Injected(fault.__name__, began, ended)))
        print(report.faults[-1], flush=True)
    return memory


def told(asked: Asked, fault: Injected) -> Injected:
    """The fault with what the clients saw of it, in seconds since the start of the load."""
    began, ended = fault.began - asked.started, fault.ended - asked.started
    recovered = asked.first_good_after(fault.ended)
    refused = sum(status != 200 for at, status, _ in asked.seen if began <= at)
    return Injected(
        fault.kind,
        round(began, 2),
        round(ended, 2),
        None if recovered is None else round(recovered, 3),
        refused,
    )


def is_recovered(fault: Injected) -> bool:
    return fault.recovered_after is not None and fault.recovered_after <= RECOVERY_SECONDS


def conclude(report: Report, asked: Asked, memory: list[float]) -> None:
    report.statuses, report.answered = asked.statuses(), len(asked.answered)
    report.p50_ms, report.p99_ms = asked.percentile_ms(50), asked.percentile_ms(99)
    report.most_megabytes = round(max(memory))
    felt = [fault for fault in report.faults if fault.kind in NOT_FELT and fault.refused_meanwhile]
    late = [fault for fault in report.faults if not is_recovered(fault)]
    killed = sum(fault.kind in BREAKS_CONNECTIONS for fault in report.faults)
    rules = {
        "an answer was neither 200 nor 503": set(report.statuses) <= {"0", "200", "503"},
        "connections broke where no worker was killed": report.statuses.get("0", 0) <= 4 * killed,
        "an answer has no record": report.without_record == 0,
        "a record is not reproduced by its version": report.not_reproduced == 0,
        f"no answer within {RECOVERY_SECONDS:.0f} s of a fault's end: {[fault.kind for fault in late]}": not late,
        f"what happens to the registry was felt: {[fault.kind for fault in felt]}": not felt,
        f"a worker took more than {MEGABYTES} MB": report.most_megabytes <= MEGABYTES,
        "the last alias was not served within 10 s": report.last_alias_served_after < 10,
    }
    report.broken = [broken for broken, holds in rules.items() if not holds]


if __name__ == "__main__":
    sys.exit(main())
