"""Who may ask the service what."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from hashlib import sha256

KEY_PREFIX = "churn_"  # tells people, and programs that look for lost secrets, what they have found
KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(StrEnum):
    """What a key opens. None includes another."""

    SCORE = "score"
    ADMIN = "admin"
    METRICS = "metrics"


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key: never the key itself.

    `digest` is `key_digest` of it; `rate` bounds its requests a second, None does not; `revoked_at` None: it holds.
    """

    name: str
    digest: str
    scopes: Set[Scope]
    rate: float | None
    created_at: datetime
    revoked_at: datetime | None = None


def key_digest(key: str) -> str:
    """sha256 in hexadecimal of the key's bytes as they came in a header.

    Plain and unsalted, because keys are random, not chosen: NIST SP 800-63B-3, 5.1.2.2, asks for salt and a slow hash
    below 112 bits of entropy only, and ours have 256. Neither can be guessed from the other, so that a lookup by
    digest tells nothing by its time.
    """
    return sha256(key.encode("latin-1", "replace")).hexdigest()
