"""A writer of the prediction log as a process of its own, for tests that kill, trace and starve it.

    python -m tests.stores.log_program FOLDER MODE THREADS RECORDS [SEGMENT_BYTES [PAUSE]]

Prints `<request id> <time.time() when it was taken>` for each record that was acknowledged, in one write each, and
`refused` for each that was not. RECORDS are for each thread, PAUSE seconds apart; 0: until it is killed.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from itertools import count
from pathlib import Path

from churn.domain.records import PredictionRecord
from churn.errors import Unavailable
from churn.stores.prediction_log import BufferedPredictionLog, PredictionLog
from tests.stores.log_records import record

MODES = {"sync": PredictionLog, "buffered": BufferedPredictionLog}


def tell(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def write(log: PredictionLog | BufferedPredictionLog, name: str, records: int, pause: float) -> None:
    for number in range(records) if records else count():
        entry: PredictionRecord = record(f"{name}-{number}")
        taken = time.time()
        try:
            log.append([entry])
        except Unavailable:
            tell("refused")
            time.sleep(0.01)
        else:
            tell(f"{entry.request_id} {taken:.6f}")
            time.sleep(pause)


def main() -> None:
    folder, mode, threads, records, *rest = sys.argv[1:]
    segment_bytes, pause = (*rest, *("1000000", "0")[len(rest) :])
    log = MODES[mode](Path(folder), segment_bytes=int(segment_bytes))
    names = [f"{os.getpid()}.{number}" for number in range(int(threads))]
    workers = [threading.Thread(target=write, args=(log, name, int(records), float(pause))) for name in names]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    log.close()


if __name__ == "__main__":
    main()
