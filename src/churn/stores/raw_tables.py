"""Raw tables on disk: sources as files, and snapshots, which are written once, fingerprinted and never changed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from churn.domain.ports import ENCODING_NOTE, Snapshot
from churn.domain.predictions import UserId
from churn.domain.schema import RAW_COLUMNS
from churn.domain.windows import parse_instant
from churn.errors import BadInput, Mismatch, NotReady, Unavailable

CURRENT = "CURRENT"
MANIFEST = "manifest.json"
QUARANTINE = "quarantine"
INCOMING = ".incoming-"
LOCK = ".lock"
ID_FORMAT = "%Y%m%dT%H%M%SZ"
FINGERPRINT_CHARACTERS = 12
READ_ONLY = 0o444
ENDS = ("first_event", "last_event", "log_end")
DAMAGED = "Remove the folder and ingest the same files again."

SUFFIXES = (".parquet", ".pq", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
DELIMITERS = (",", ";", "\t", "|")
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
HEAD_BYTES = 65_536


class SnapshotStore:
    """Folder `root`: one folder a snapshot, and CURRENT, which names the newest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read_source(self, path: Path) -> pa.Table:
        """A file to be ingested, as it is; see `read_table`."""
        return read_table(path)

    def current(self) -> Snapshot:
        """The newest snapshot; raises NotReady when none was ingested, Mismatch when it is damaged."""
        try:
            snapshot_id = (self._root / CURRENT).read_text().strip()
        except FileNotFoundError as error:
            raise NotReady("no raw tables were ingested yet", hint="Run `churn ingest --orders …` first.") from error
        return self.get(snapshot_id)

    def get(self, snapshot_id: str) -> Snapshot:
        """The snapshot of that id; raises NotReady for an unknown one, Mismatch for a damaged one."""
        folder = self._root / snapshot_id
        named = snapshot_id == Path(snapshot_id).name and not snapshot_id.startswith(".")
        if not (snapshot_id and named and folder.is_dir()):
            raise NotReady(f"there is no snapshot {snapshot_id!r}", hint=f"Snapshots are the folders of {self._root}.")
        return _snapshot(folder)

    def read(self, snapshot: Snapshot) -> dict[str, pa.Table]:
        """The three raw tables; raises Mismatch when a file is not what the manifest says."""
        for name in RAW_COLUMNS:
            _check_unchanged(snapshot, name)
        return {name: pq.read_table(_table_path(snapshot.folder, name)) for name in RAW_COLUMNS}

    def digests(self, snapshot: Snapshot) -> dict[str, str]:
        """sha256 of each raw table as its file is now; a file that is gone has none."""
        paths = {name: _table_path(snapshot.folder, name) for name in RAW_COLUMNS}
        return {name: _sha256(path) for name, path in paths.items() if path.is_file()}

    def user_labels(self, snapshot: Snapshot, column: str) -> dict[UserId, str]:
        """Each user's value of a text column of `users`; users without one are left out. Raises Mismatch."""
        _check_unchanged(snapshot, "users")
        table = pq.read_table(_table_path(snapshot.folder, "users"), columns=["user_id", column])
        pairs = zip(table["user_id"].to_pylist(), table[column].to_pylist(), strict=True)
        return {user: str(value) for user, value in pairs if value is not None}

    def write(
        self, tables: Mapping[str, pa.Table], quarantine: Mapping[str, pa.Table], manifest: Mapping[str, Any]
    ) -> Snapshot:
        """A new snapshot, made CURRENT in one step; identical content returns the snapshot that has it already.

        `manifest` carries at least created_at, user_id_type, tables {name: {…}}, first_event, last_event, log_end;
        the store adds snapshot_id, fingerprint and the sha256 of each table. Raises Unavailable when the disk refuses.
        """
        try:
            with self._only_writer():
                folder = self._write_folder(tables, quarantine, manifest)
                self._point_to(folder.name)
        except OSError as error:
            message = f"{self._root} cannot be written: {error.strerror or error}"
            raise Unavailable(message, hint="Is the disk full, the folder writable?") from error
        return self.get(folder.name)

    @contextmanager
    def _only_writer(self) -> Iterator[None]:
        """One writer at a time; what a killed one has left is removed."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in self._root.glob(f"{INCOMING}*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    def _write_folder(
        self, tables: Mapping[str, pa.Table], quarantine: Mapping[str, pa.Table], manifest: Mapping[str, Any]
    ) -> Path:
        incoming = Path(tempfile.mkdtemp(prefix=INCOMING, dir=self._root))
        try:
            digests = _write_tables(incoming, tables, quarantine)
            # The end of the log belongs to the content: the same rows a day later close one more day.
            content = {**digests, "log_end": str(manifest["log_end"])}
            fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
            existing = self._having(fingerprint)
            return existing or self._publish(incoming, _completed(manifest, digests, fingerprint))
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _having(self, fingerprint: str) -> Path | None:
        folders = sorted(self._root.glob(f"*-{fingerprint[:FINGERPRINT_CHARACTERS]}"))
        return next((folder for folder in folders if _intact(folder, fingerprint)), None)

    def _publish(self, incoming: Path, manifest: Mapping[str, Any]) -> Path:
        """Files become read-only; the folder stays its owner's alone, as mkdtemp made it: it holds personal data."""
        folder = self._root / str(manifest["snapshot_id"])
        if folder.exists():
            raise Mismatch(f"snapshot {folder.name} exists, but not with the content it had", hint=DAMAGED)
        _write_durably(incoming / MANIFEST, json.dumps(manifest, indent=2).encode())
        for path in incoming.rglob("*.*"):
            path.chmod(READ_ONLY)
        _sync_folder(incoming / QUARANTINE)
        _sync_folder(incoming)
        incoming.rename(folder)
        _sync_folder(self._root)
        return folder

    def _point_to(self, snapshot_id: str) -> None:
        incoming = self._root / f"{INCOMING}{CURRENT}"
        _write_durably(incoming, f"{snapshot_id}\n".encode())
        incoming.replace(self._root / CURRENT)
        _sync_folder(self._root)


# ---- snapshots, in pieces -------------------------------------------------------------------------------------


def _check_unchanged(snapshot: Snapshot, name: str) -> None:
    if _sha256(_table_path(snapshot.folder, name)) != snapshot.manifest["tables"][name]["sha256"]:
        raise Mismatch(f"{name} of {snapshot.snapshot_id} was changed after it was written", hint=DAMAGED)


def _table_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.parquet"


def _write_tables(folder: Path, tables: Mapping[str, pa.Table], quarantine: Mapping[str, pa.Table]) -> dict[str, str]:
    """Digests by relative path; every file is on the disk when this returns."""
    (folder / QUARANTINE).mkdir()
    paths = {_table_path(folder, name): tables[name] for name in RAW_COLUMNS}
    paths |= {_table_path(folder / QUARANTINE, name): quarantine[name] for name in RAW_COLUMNS}
    for path, table in paths.items():
        pq.write_table(table.replace_schema_metadata(None), path, compression="zstd")
        _sync(path)
    return {str(path.relative_to(folder)): _sha256(path) for path in paths}


def _completed(manifest: Mapping[str, Any], digests: Mapping[str, str], fingerprint: str) -> dict[str, Any]:
    created_at = parse_instant(str(manifest["created_at"]))
    snapshot_id = f"{created_at:{ID_FORMAT}}-{fingerprint[:FINGERPRINT_CHARACTERS]}"
    tables = {name: {**about, "sha256": digests[f"{name}.parquet"]} for name, about in manifest["tables"].items()}
    return {"snapshot_id": snapshot_id, "fingerprint": fingerprint, **manifest, "tables": tables}


def _intact(folder: Path, fingerprint: str) -> bool:
    """Whether a folder of that name really holds that content; a damaged one must not be handed out again."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        same = [_sha256(_table_path(folder, name)) == manifest["tables"][name]["sha256"] for name in RAW_COLUMNS]
        return manifest["fingerprint"] == fingerprint and all(same)
    except (OSError, ValueError, KeyError):
        return False


def _snapshot(folder: Path) -> Snapshot:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        ends = {end: parse_instant(manifest[end]) for end in ENDS}
        return Snapshot(manifest["snapshot_id"], folder, manifest["user_id_type"], manifest=manifest, **ends)
    except (OSError, ValueError, KeyError, BadInput) as error:
        raise Mismatch(f"the manifest of snapshot {folder.name} cannot be read: {error}", hint=DAMAGED) from error


def _write_durably(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    _sync(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- sources -------------------------------------------------------------------------------------------------------


def read_table(path: Path) -> pa.Table:
    """The table in `path`, by suffix. Of CSV every column is text, so that no id passes through a float; an empty
    field is null. Raises BadInput, naming the file, for a missing, unreadable or unknown one.
    """
    if not path.is_file():
        raise BadInput(
            f"{path} is no file" if path.exists() else f"{path} does not exist", hint="Name one file a table."
        )
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise BadInput(f"{path} is neither Parquet nor CSV by its name", hint=f"Known endings: {', '.join(SUFFIXES)}.")
    reader = pq.read_table if name.endswith((".parquet", ".pq")) else _read_csv
    return _reading(path, reader)


def _reading(path: Path, reader: Callable[[Path], pa.Table]) -> pa.Table:
    try:
        return reader(path)
    except (OSError, pa.ArrowException, UnicodeError, EOFError) as error:
        message = f"{path} cannot be read: {_first_line(error)}"
        raise BadInput(message, hint="Is the file whole, and what its name says?") from error


def _first_line(error: Exception) -> str:
    """Readers quote the data they stumble over, which may be personal: keep what comes before it."""
    return (str(error).splitlines() or [type(error).__name__])[0].split(": '")[0][:200]


def _read_csv(path: Path) -> pa.Table:
    head = _head(path)
    if not head:
        raise BadInput(f"{path} is empty", hint="Export it again, with a header line.")
    encoding = "utf-16" if head.startswith(UTF16_MARKS) else "utf-8"
    if encoding == "utf-8" and b"\0" in head:
        raise BadInput(f"{path} is not a text file", hint="Export it as CSV or Parquet.")
    try:
        return _parse_csv(path, encoding, head)
    except (pa.ArrowInvalid, UnicodeError) as error:
        if encoding != "utf-8" or "utf8" not in str(error).lower().replace("-", ""):
            raise
        return _noted(_parse_csv(path, "latin-1", head), "latin-1")


def _head(path: Path) -> bytes:
    with pa.input_stream(str(path), compression="detect") as stream:
        return bytes(stream.read(HEAD_BYTES))


def _noted(table: pa.Table, encoding: str) -> pa.Table:
    return table.replace_schema_metadata({ENCODING_NOTE: encoding.encode()})


def _parse_csv(path: Path, encoding: str, head: bytes) -> pa.Table:
    odd_rows: list[csv.InvalidRow] = []
    header = _header(head, encoding)
    parse = csv.ParseOptions(
        delimiter=_delimiter(header),
        newlines_in_values=True,
        invalid_row_handler=lambda row: _keep(row, odd_rows),
    )
    with pa.input_stream(str(path), compression="detect") as stream:
        table = csv.read_csv(stream, csv.ReadOptions(encoding=encoding), parse, _all_text(header, parse))
    if odd_rows:
        raise BadInput(_about_rows(path, odd_rows), hint="Quote fields that hold the delimiter or a line break.")
    if any(kind != pa.string() for kind in table.schema.types):
        raise BadInput(f"{path}: the header cannot be read", hint="Write it as one line of plain column names.")
    return table.rename_columns([name.strip() for name in table.column_names])


def _keep(row: csv.InvalidRow, odd_rows: list[csv.InvalidRow]) -> str:
    odd_rows.append(row)
    return "skip"


def _about_rows(path: Path, odd_rows: list[csv.InvalidRow]) -> str:
    first = odd_rows[0]
    return (
        f"{path}: {len(odd_rows):,} rows have another number of fields than the header: "
        f"expected {first.expected_columns}, found {first.actual_columns}"
    )


def _header(head: bytes, encoding: str) -> str:
    text = head.removeprefix(UTF8_MARK).decode(encoding, errors="replace")
    return re.split(r"\r\n|\n|\r", text, maxsplit=1)[0]


def _delimiter(header: str) -> str:
    """A comma, unless the header has none and another delimiter stands in it."""
    return next((delimiter for delimiter in DELIMITERS if delimiter in header), ",")


def _all_text(header: str, parse: csv.ParseOptions) -> csv.ConvertOptions:
    names = csv.read_csv(pa.BufferReader(f"{header}\n".encode()), parse_options=parse).column_names
    return csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
