"""Rows in one hash of Redis: it is there as a whole or not at all, and tells its size at once.

Readers wait 0.1 s for a connection and 0.15 s for an answer, once: redis-py's own defaults wait for minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from churn.errors import BadInput, NotReady
from churn.stores.online.packed import TIME_OFFSET
from churn.stores.online.table import SENTINEL, Row, not_ready, unavailable

if TYPE_CHECKING:
    import redis

CONNECT_SECONDS = 0.1
READ_SECONDS = 0.15
WRITE_SECONDS = 1.0
MOST_ROWS = 500  # a call: Redis answers nobody else meanwhile, for about 2 ms
_TEXTS = frozenset({"password", "username", "client_name"})

# KEYS[1] the hash; ARGV field, row, field, row … In Redis itself, because between a look and a write from outside
# somebody else may write. What has not the form of a row is no newer row.
_PUT = f"""
local head, time = {TIME_OFFSET}, {TIME_OFFSET + 1}
local written = 0
for i = 1, #ARGV, 2 do
  local old, new = redis.call('HGET', KEYS[1], ARGV[i]), ARGV[i + 1]
  if not old or #old ~= #new or string.sub(old, 1, head) ~= string.sub(new, 1, head)
      or struct.unpack('<i8', new, time) >= struct.unpack('<i8', old, time) then
    redis.call('HSET', KEYS[1], ARGV[i], new)
    written = written + 1
  end
end
return written
"""
# HSCAN would send the rows along, 300 bytes for each key of 43.
_KEYS = """
local found = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', 1000)
local keys = {}
for i = 1, #found[2], 2 do keys[#keys + 1] = found[2][i] end
return {found[1], keys}
"""
_REASONS = {
    "OOM": ("redis_out_of_memory", "Redis has no memory left", "Raise maxmemory; the rows so far stay."),
    "LOADING": ("redis_loading", "Redis is loading its data", "Wait until it has."),
    "READONLY": ("redis_read_only", "this Redis is a replica", "Set CHURN_REDIS_ADDRESS to the primary."),
    "NOAUTH": ("redis_no_auth", "Redis wants a password", "Add password=… to CHURN_REDIS_ADDRESS."),
    "WRONGPASS": ("redis_no_auth", "Redis refuses the password", "Correct password=… in CHURN_REDIS_ADDRESS."),
    "NOPERM": ("redis_no_permission", "Redis refuses the command to this user", "Let it use hashes and scripts."),
    "MISCONF": ("redis_misconf", "Redis cannot save to its disk", "See Redis's log; give its disk space."),
    "WRONGTYPE": ("redis_wrong_type", "its key holds something else", "Choose another database: db=… ."),
}


@dataclass
class RedisTable:
    """A table of rows in the hash `name` of the Redis at `address`, host:port[,option=value…]."""

    address: str
    name: str
    _reading: redis.Redis | None = None
    _writing: redis.Redis | None = None
    _checked: bool = False

    # -- reading -------------------------------------------------------------------------------------------------

    def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        with self._named():
            client = self._reader()
            return list(client.hmget(self.name, list(keys))) if keys else []  # type: ignore[arg-type]  # bytes are keys

    def count(self) -> int:
        with self._named():
            client = self._reader()
            return int(client.hlen(self.name)) - int(client.hexists(self.name, SENTINEL))  # type: ignore[arg-type]

    def stored_keys(self) -> Iterator[Sequence[bytes]]:
        cursor: bytes = b"0"
        while True:
            with self._named():
                answer: Any = self._writer().eval(_KEYS, 1, self.name, cursor)
                cursor, found = answer
            yield [key for key in found if key != SENTINEL]
            if cursor == b"0":
                return

    def _reader(self) -> redis.Redis:
        if self._reading is None:
            self._reading = self._client(READ_SECONDS)
        return self._safe(self._reading)

    # -- writing -------------------------------------------------------------------------------------------------

    def create(self) -> None:
        """A hash is made by its first row; this looks whether Redis may be used."""
        with self._named():
            self._writer()

    def drop(self) -> None:
        with self._named():
            self._writer().unlink(self.name)

    def put(self, rows: Sequence[Row], *, replace: bool = False) -> int:
        written = 0
        with self._named():
            client = self._writer()
            guarded = client.register_script(_PUT)
            for start in range(0, len(rows), MOST_ROWS):
                arguments = [part for key, _, row in rows[start : start + MOST_ROWS] for part in (key, row)]
                if replace or rows[start][0] == SENTINEL:  # which stands alone, and holds text, not a packed row
                    client.hset(self.name, items=arguments)
                    written += len(arguments) // 2
                else:
                    written += int(guarded(keys=[self.name], args=arguments))
        return written

    def remove(self, keys: Sequence[bytes]) -> None:
        with self._named():
            client = self._writer()
            for start in range(0, len(keys), MOST_ROWS):
                client.hdel(self.name, *keys[start : start + MOST_ROWS])  # type: ignore[arg-type]

    def _writer(self) -> redis.Redis:
        if self._writing is None:
            self._writing = self._client(WRITE_SECONDS)
        return self._safe(self._writing)

    # -- the client ----------------------------------------------------------------------------------------------

    def _client(self, seconds: float) -> redis.Redis:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise NotReady(
                "Redis is chosen as online store, but the package redis is not installed",
                hint="uv sync --frozen --inexact --extra redis (or: pip install redis)",
            ) from error
        options = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": seconds, **parse_address(self.address)}
        try:
            return redis.Redis(**options, retry=Retry(NoBackoff(), 0))
        except TypeError as error:
            raise BadInput(f"CHURN_REDIS_ADDRESS: {error}", hint="host:port[,option=value…]") from error

    def _safe(self, client: redis.Redis) -> redis.Redis:
        """The client, once it is known that this Redis evicts nothing: a lost row reads like an unknown user.

        Looked at before the first command, and again after each fault: another Redis may be behind the address.
        """
        if not self._checked:
            policy = client.info("memory").get("maxmemory_policy", "noeviction")  # type: ignore[union-attr]
            if policy != "noeviction":
                raise not_ready(
                    "redis_evicts",
                    f"this Redis may evict users: its maxmemory-policy is {policy}",
                    "redis-cli CONFIG SET maxmemory-policy noeviction, and the same in its configuration file.",
                )
            self._checked = True
        return client

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Redis's faults as Unavailable with a reason."""
        try:
            yield
        except Exception as error:
            self._checked = False
            if not (isinstance(error, OSError) or type(error).__module__.startswith("redis.")):
                raise
            raise unavailable(*_reason(error)) from error

    def close(self) -> None:
        for client in (self._reading, self._writing):
            if client is not None:
                client.close()
        self._reading = self._writing = None


def _reason(error: Exception) -> tuple[str, str, str]:
    """(reason, what was found, the way out)."""
    kind = type(error).__name__
    for word, reason in _REASONS.items():
        if word in str(error).split(" ", 1)[0] or kind == _CLASSES.get(word):
            return reason
    if kind == "TimeoutError":
        return (
            "redis_timeout",
            "Redis does not answer in time",
            "Look whether it runs, and is not paused or overloaded.",
        )
    if isinstance(error, OSError) or kind == "ConnectionError":
        return "redis_down", "Redis cannot be reached", "Start it, or correct CHURN_REDIS_ADDRESS."
    return "redis_failed", f"Redis says {kind}", "See Redis's log."


# redis-py takes the first word off some messages and makes a class of it.
_CLASSES = {
    "OOM": "OutOfMemoryError",
    "LOADING": "BusyLoadingError",
    "READONLY": "ReadOnlyError",
    "NOAUTH": "AuthenticationError",
    "NOPERM": "NoPermissionError",
}


def parse_address(address: str) -> dict[str, Any]:
    """`host:port[,option=value…]` as redis-py's arguments; values are read as JSON, as Feast reads them.

    Raises BadInput.
    """
    where, *options = address.split(",")
    host, _, port = where.rpartition(":")
    if not host or not port.isdigit() or not all("=" in option for option in options):
        raise BadInput("CHURN_REDIS_ADDRESS is not host:port[,option=value…]", hint="For example 127.0.0.1:6379,db=1")
    pairs = (option.split("=", 1) for option in options)
    return {"host": host, "port": int(port), **{name: _value(name, text) for name, text in pairs}}


def _value(name: str, text: str) -> Any:
    if name in _TEXTS:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
