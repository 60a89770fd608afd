"""The deployment's API keys: one JSON file that holds what is needed to know a key again, and never a key.

    {"keys": [{"name": "shop", "sha256": "9f86...", "scopes": ["score"], "rate": 50.0, "created_at": "...",
               "revoked_at": null}]}

Revoked keys stay in it, so that it tells who had access when.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from churn.domain.access import KEY_NAME, KEY_PREFIX, ApiKey, Scope, key_digest
from churn.errors import BadInput, Unavailable

KEY_BYTES = 32
_HINT = "Restore it from a backup; or remove it and make new keys: churn keys add NAME --scope score."


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=f"^{KEY_NAME.pattern}$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    rate: Annotated[float | None, Field(gt=0, allow_inf_nan=False)]
    created_at: AwareDatetime
    revoked_at: AwareDatetime | None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: list[_Row]


class KeyFile:
    """Reads and changes the file. Changes are whole or not made, and one after the other."""

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    def read(self) -> Sequence[ApiKey]:
        """Every key, the oldest first, revoked ones too; none when there is no file.

        Raises BadInput when it is not what we write, Unavailable.
        """
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise _unavailable(error) from error
        return _parsed(text, self._path)

    def add(self, name: str, scopes: Set[Scope], rate: float | None = None) -> str:
        """A new key: the only time that it is told. Raises BadInput, also when `name` has a key that holds."""
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        made = _checked(ApiKey(name, key_digest(key), scopes, rate, self._now()))
        with self._changing() as keys:
            if _holding(keys, name):
                raise BadInput(
                    f"there is a key of the name {name} already",
                    hint="Choose another name; or first: churn keys revoke NAME.",
                )
            keys.append(made)
        return key

    def revoke(self, name: str) -> ApiKey:
        """Ends the key of that name. Raises BadInput when there is none that holds."""
        with self._changing() as keys:
            found = _holding(keys, name)
            if not found:
                raise BadInput("no key of that name holds", hint="churn keys list shows those that do.")
            keys[keys.index(found[0])] = revoked = replace(found[0], revoked_at=self._now())
        return revoked

    @contextmanager
    def _changing(self) -> Iterator[list[ApiKey]]:
        """The keys, to be changed in place; on disk when the block ends without an error."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self._path.parent, os.O_RDONLY)
        except OSError as error:
            raise _unavailable(error) from error
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # the folder, because the file itself is replaced
            keys = list(self.read())
            yield keys
            _write(self._path, _rendered(keys))
            os.fsync(folder)
        except OSError as error:
            raise _unavailable(error) from error
        finally:
            os.close(folder)


def _holding(keys: Sequence[ApiKey], name: str) -> list[ApiKey]:
    return [key for key in keys if key.name == name and key.revoked_at is None]


def _checked(key: ApiKey) -> ApiKey:
    try:
        _row(key)
    except ValidationError as error:
        raise BadInput(
            f"such a key cannot be made: {_told(error)}",
            hint="A name has letters, digits, dots, dashes and underscores, 64 at most; a rate is above 0.",
        ) from error
    return key


def _row(key: ApiKey) -> _Row:
    return _Row(
        name=key.name,
        sha256=key.digest,
        scopes=frozenset(key.scopes),
        rate=key.rate,
        created_at=key.created_at,
        revoked_at=key.revoked_at,
    )


def _parsed(text: bytes, path: Path) -> Sequence[ApiKey]:
    try:
        rows = _File.model_validate_json(text).keys
    except ValidationError as error:
        raise BadInput(
            f"{path} is not a file of keys: {_told(error)}", hint=_HINT, facts={"reason": "api_keys"}
        ) from error
    return [ApiKey(row.name, row.sha256, row.scopes, row.rate, row.created_at, row.revoked_at) for row in rows]


def _told(error: ValidationError) -> str:
    """Where and what, without repeating what was found there."""
    first = error.errors(include_input=False, include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")


def _rendered(keys: Sequence[ApiKey]) -> bytes:
    return (_File(keys=[_row(key) for key in keys]).model_dump_json(indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _unavailable(error: OSError) -> Unavailable:
    return Unavailable(
        f"the API keys cannot be used: {error.strerror or type(error).__name__}",
        hint="Look at the permissions of the file that CHURN_KEYS_FILE names, by default keys.json in the home.",
        facts={"reason": "api_keys"},
    )
