"""The deployment's signing key, for those who give none in the settings: made once, readable by its owner alone."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from churn.domain.versions import SHORTEST_KEY
from churn.errors import BadInput, Unavailable

KEY_BYTES = 32


def read_or_make(path: Path) -> str:
    """The key in `path`, made if there is none: whole, or not at all. Raises BadInput when it is too short to be one,
    Unavailable."""
    try:
        if not path.exists():
            _make(path)
        key = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Unavailable(
            f"the signing key cannot be read: {getattr(error, 'strerror', '') or type(error).__name__}",
            hint="Look at the permissions of signing.key in the deployment's folder, or set CHURN_SIGNING_KEY.",
            facts={"reason": "signing_key"},
        ) from error
    if len(key) < SHORTEST_KEY:
        raise BadInput(
            f"{path} holds less than {SHORTEST_KEY} characters: that is no key",
            hint="Remove it for a new one, then judge the champion again: churn promote --version N.",
            facts={"reason": "signing_key"},
        )
    return key


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster: its key is the one
            os.link(unfinished, path)
    finally:
        unfinished.unlink()
