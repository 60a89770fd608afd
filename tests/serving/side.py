"""A side process for tests: lives until its parent ends; the file named by the argument tells who it is."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from churn.jobs.stage import end_with_parent

if __name__ == "__main__":
    end_with_parent(sys.stdin.buffer)
    Path(sys.argv[1]).write_text(str(os.getpid()))
    threading.Event().wait()
