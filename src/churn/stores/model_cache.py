"""The local cache of verified model versions, and the safe way to read what a registry hands out.

    <root>/models/<version>-<digest12>/{model.skops,churn_model.json}
    <root>/champion.json     which of them is in service, and which was before
    <root>/stager.json       how the side process fares
    <root>/wake              touched to make it look at the registry now

A version gets its final name only after it was verified and is on disk, so a half version is never found under it.
One process stages, any number load; a rollback may come in between, so who writes champion.json locks the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from churn.domain.artifacts import SERVED_FILES, Artifact, Pointer, StagingStatus, refused
from churn.domain.versions import ModelVersion
from churn.errors import NotReady, Refused, Unavailable

Model = TypeVar("Model")
Record = TypeVar("Record", Pointer, StagingStatus)
Fetch = Callable[[ModelVersion, Path], None]
Files = Mapping[str, bytes]

SIZE_LIMIT = 512 * 2**20
_ABANDONED_AFTER_SECONDS = 3600.0
_VERSION = re.compile(r"[A-Za-z0-9_]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_POINTER: TypeAdapter[Pointer] = TypeAdapter(Pointer)
_STATUS: TypeAdapter[StagingStatus] = TypeAdapter(StagingStatus)


def fetched_files(fetch: Callable[[Path], None], folder: Path, names: Sequence[str], size_limit: int) -> Files:
    """What `fetch` brought into the empty `folder` under `names`; other files are never read.

    Raises Refused when one is missing, when anything there is no plain file or folder, or for more bytes than allowed.
    """
    fetch(folder)
    _check_kinds(folder, size_limit)
    return _read_plain_files(folder, names, size_limit)


class ModelCache(Generic[Model]):
    """Stages versions and loads them.

    `open_model` verifies an Artifact - its digest before anything else - and makes a model of it; it raises Refused.
    """

    def __init__(self, root: Path, open_model: Callable[[Artifact], Model], *, size_limit: int = SIZE_LIMIT) -> None:
        self._root = root
        self._models = root / "models"
        self._open = open_model
        self._size_limit = size_limit
        self._verified: set[tuple[str, str]] = set()

    def champion(self) -> Pointer | None:
        """The version in service, None when none was ever staged. Raises Refused (garbled), Unavailable."""
        return _read(self._root / "champion.json", _POINTER)

    def load(self, pointer: Pointer) -> Model:
        """The pointed-at version, verified again. Raises Refused, Unavailable."""
        with _disk():
            folder = self._models / _folder(pointer.version, pointer.digest)
            files = _read_plain_files(folder, SERVED_FILES, self._size_limit)
            return self._open(Artifact(pointer.version, pointer.digest, files))

    def stage(self, version: ModelVersion, fetch: Fetch) -> Pointer:
        """Brings `version` into the cache, unless it is there, and points the champion at it.

        A version that was rolled back from is held: nothing happens, and the pointer in force is returned. The hold
        ends when another version is staged.
        Raises Refused when the artifact is not what the registry's digest tag says or cannot be served, Unavailable
        when the registry or the disk fails; then the champion stays as it was.
        """
        with _disk():
            target = Pointer(
                version.version, version.digest, _folder(version.version, version.digest), datetime.now(UTC)
            )
            if held := self._holding(target):
                return held
            if not self._is_staged(target):
                self._bring(version, target, fetch)
            self._verified.add(target.key)
            with self._alone():
                # Asked again: a rollback may have come while the files were fetched.
                return self._holding(target) or self._point_at(target)

    def roll_back(self) -> tuple[Pointer, Pointer]:
        """Points the champion at its previous version, which is verified first: (left, now in service).

        The version left is held (see `stage`), and is not `previous` any more: a second rollback must never bring
        back what the first one took away. Whoever wants it again moves the alias away from it and back. Raises
        NotReady when there is no previous version, Refused when it is damaged, Unavailable.
        """
        with _disk(), self._alone():
            current = self.champion()
            if current is None or current.previous is None:
                raise _nothing_before(current)
            self.load(current.previous)
            now = replace(current.previous, held=current.key)
            self._replace_pointer(now)
            return current.alone(), now

    def status(self) -> StagingStatus | None:
        """What the side process last wrote, None before its first look. Raises Refused (garbled), Unavailable."""
        return _read(self._root / "stager.json", _STATUS)

    def record_status(self, status: StagingStatus) -> None:
        """Keeps the status for the service. Raises Unavailable."""
        with _disk():
            self._root.mkdir(parents=True, exist_ok=True)
            _write(self._root / "stager.json.new", status).replace(self._root / "stager.json")

    def wake(self) -> None:
        """Makes the side process look at the registry now. Raises Unavailable."""
        with _disk():
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / "wake").touch()
            os.utime(self._root / "wake", ns=(time.time_ns(),) * 2)  # finer than the kernel's own stamps

    def woken(self) -> int:
        """Another number after each `wake`. Raises Unavailable."""
        with _disk():
            try:
                return (self._root / "wake").stat().st_mtime_ns
            except FileNotFoundError:
                return 0

    def _holding(self, target: Pointer) -> Pointer | None:
        """The pointer in force, if it holds `target`."""
        current = self._current_or_none()
        return current if current is not None and current.held == target.key else None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes the pointer meanwhile."""
        self._root.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _is_staged(self, target: Pointer) -> bool:
        if target.key in self._verified:
            return all((self._models / target.folder / name).is_file() for name in SERVED_FILES)
        try:
            self.load(target)
        except Refused:  # absent or damaged: fetch it again
            return False
        return True

    def _bring(self, version: ModelVersion, target: Pointer, fetch: Fetch) -> None:
        self._models.mkdir(parents=True, exist_ok=True)
        self._clear_abandoned()
        incoming = Path(tempfile.mkdtemp(prefix="incoming-", dir=self._root))
        try:
            download, kept = incoming / "download", incoming / target.folder
            download.mkdir()
            files = fetched_files(partial(fetch, version), download, SERVED_FILES, self._size_limit)
            self._open(Artifact(target.version, target.digest, files))
            _write_served_files(kept, files)
            self._rename(kept, self._models / target.folder)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _rename(self, kept: Path, final: Path) -> None:
        if final.exists():  # only ever a damaged one, see _is_staged
            shutil.rmtree(final)
        kept.rename(final)
        _fsync(self._models)

    def _point_at(self, target: Pointer) -> Pointer:
        current = self._current_or_none()
        if current is not None and current.key == target.key:
            return self._released(current)
        pointer = replace(target, previous=current.alone() if current else None)
        self._replace_pointer(pointer)
        self._prune(pointer)
        return pointer

    def _released(self, current: Pointer) -> Pointer:
        """The same without a hold: the alias points here, so no longer at the version that was held."""
        if current.held is None:
            return current
        released = replace(current, held=None)
        self._replace_pointer(released)
        return released

    def _replace_pointer(self, pointer: Pointer) -> None:
        new = _write(self._root / "champion.json.new", pointer)
        _fsync(new)
        new.replace(self._root / "champion.json")
        _fsync(self._root)

    def _current_or_none(self) -> Pointer | None:
        # A garbled pointer must not keep a good version out: it is simply written anew.
        with suppress(Refused):
            return self.champion()
        return None

    def _prune(self, pointer: Pointer) -> None:
        wanted = {pointer.folder, pointer.previous.folder if pointer.previous else pointer.folder}
        for folder in self._models.iterdir():
            if folder.name not in wanted:
                shutil.rmtree(folder, ignore_errors=True)

    def _clear_abandoned(self) -> None:
        for folder in self._root.glob("incoming-*"):
            if time.time() - folder.lstat().st_mtime > _ABANDONED_AFTER_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _nothing_before(current: Pointer | None) -> NotReady:
    held = None if current is None else current.held
    found = f"version {held[0]} was rolled back already" if held else "no version was in service before"
    return NotReady(
        f"there is nothing to roll back to: {found}",
        hint="Move the alias champion to the version wanted: in the MLflow UI, or churn promote --version N.",
    )


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            f"the model cache cannot be used: {error.strerror or type(error).__name__}",
            hint="Look at free space and permissions of the cache folder.",
            facts={"reason": "disk"},
        ) from error


def _folder(version: str, digest: str) -> str:
    """The folder's name; version and digest come from outside, so they may not shape a path."""
    if not _DIGEST.fullmatch(digest):
        raise refused("digest", "the version carries no valid digest tag")
    if not _VERSION.fullmatch(version):
        raise refused("version", "its version is not a plain name")
    return f"{version}-{digest[:12]}"


def _check_kinds(folder: Path, size_limit: int) -> None:
    """Raises Refused for links, pipes and devices anywhere below, and for more bytes than allowed."""
    total = 0
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            found = (Path(parent) / name).lstat()
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise refused("file_kind", "it holds something that is neither file nor folder")
            total += found.st_size
    if total > size_limit:
        raise refused("size", f"it takes {total} bytes, more than {size_limit}")


def _read_plain_files(folder: Path, names: Sequence[str], size_limit: int) -> Files:
    """Raises Refused when a file is missing, too large or no plain file, or when the folder is a link elsewhere."""
    if folder.is_symlink():
        raise refused("file_kind", "its folder is a link")
    return {name: _read_plain(folder / name, size_limit) for name in names}


def _read_plain(path: Path, size_limit: int) -> bytes:
    # The very file that is looked at is read, or somebody could exchange it in between. Opening follows no link and
    # does not wait for the other end of a pipe.
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise refused("missing_file", f"{path.name} is missing") from error
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # a link, a socket
            raise
        raise refused("file_kind", f"{path.name} is not a plain file") from error
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise refused("file_kind", f"{path.name} is not a plain file")
        if found.st_size > size_limit:
            raise refused("size", f"{path.name} is larger than {size_limit} bytes")
        return file.read(size_limit)


def _write_served_files(folder: Path, files: Files) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
        _fsync(folder / name)
    _fsync(folder)


def _read(path: Path, form: TypeAdapter[Record]) -> Record | None:
    with _disk():
        try:
            return form.validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise refused("pointer", f"{path.name} cannot be read") from error


def _write(path: Path, value: Pointer | StagingStatus) -> Path:
    text = json.dumps(asdict(value), default=datetime.isoformat, indent=1)
    path.write_text(text)
    return path


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
