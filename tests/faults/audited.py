"""Opens planted artifacts under a hook that sees all that Python does; a hook cannot be removed, so it has a process.

`python -m tests.faults.audited FOLDER`: FOLDER/<n>/ holds one version's files each. Of every one, a line of JSON:
{"folder": n, "reason": why it was refused or null, "events": what ran}. `--unguarded` opens with pickle instead.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from churn.core.artifact import digest_of
from churn.domain.artifacts import SERVED_FILES, Artifact
from churn.domain.versions import MODEL_FILE
from churn.errors import Refused
from tests.models import OPEN_MODEL, artifact_files

RUNS_CODE = (
    "pickle.",
    "exec",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "subprocess.",
    "ctypes.",
    "socket.",
)
READ_ONLY = 0b11


def runs(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether code runs, or a file is written. numpy reads its headers by `compile` to a tree, which runs nothing."""
    if event == "open":
        return bool(arguments[2] & READ_ONLY)
    return event.startswith(RUNS_CODE) or (event == "compile" and arguments[1] != "<unknown>")


def watched() -> list[str]:
    """What ran since it was last cleared. It is stopped, too."""
    events: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if runs(event, arguments):
            events.append(event)
            raise PermissionError(event)

    sys.addaudithook(hook)
    return events


def guarded(files: dict[str, bytes]) -> str | None:
    try:
        OPEN_MODEL(Artifact("1", digest_of(files), files))
    except Refused as refusal:
        return str(refusal.facts["reason"])
    return None


def unguarded(files: dict[str, bytes]) -> str | None:
    try:
        pickle.loads(files[MODEL_FILE])
    except Exception as error:
        return type(error).__name__
    return None


def main(root: Path, opened: Callable[[dict[str, bytes]], str | None]) -> None:
    planted = {each.name: {name: (each / name).read_bytes() for name in SERVED_FILES} for each in root.iterdir()}
    # What a load imports at its first time is no deed of the file.
    guarded(dict(artifact_files()))
    events = watched()
    for folder, files in sorted(planted.items(), key=lambda each: int(each[0])):
        events.clear()
        reason = opened(files)
        print(json.dumps({"folder": folder, "reason": reason, "events": list(events)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), unguarded if "--unguarded" in sys.argv else guarded)
