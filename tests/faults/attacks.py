"""Model files that an attacker could plant. Whatever code they carry makes a canary file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import skops.io

from tests.models import artifact_files, calibrated_forest

Node = dict[str, Any]
MODEL = artifact_files()["model.skops"]


class Payload:
    """Makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.canary), "w")


def joblib_file(canary: Path) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(Payload(canary), buffer)
    return buffer.getvalue()


# -- taking a good file apart and putting it together again --------------------------------------------------------


def members_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members: Mapping[str, bytes], packed: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def saying(schema: Any, **members: bytes) -> bytes:
    """A file with this schema."""
    root = {"protocol": 2, "_skops_version": "0.16.0", **schema}
    return zipped({**members, "schema.json": json.dumps(root).encode()})


def node(loader: str, module: str, name: str, number: int = 1, **rest: Any) -> Node:
    return {"__loader__": loader, "__module__": module, "__class__": name, "__id__": number, **rest}


def plain(value: Any, number: int) -> Node:
    return node("JsonNode", "builtins", "str", number, content=json.dumps(value), is_json=True)


def row(*content: Node, number: int, kind: str = "tuple") -> Node:
    return node(f"{kind.title()}Node", "builtins", kind, number, content=list(content))


def nodes(part: Any, loader: str) -> list[Node]:
    """All nodes of one kind, wherever in a schema they stand."""
    if isinstance(part, list):
        return [found for each in part for found in nodes(each, loader)]
    if not isinstance(part, dict):
        return []
    mine = [part] if part.get("__loader__") == loader else []
    return mine + [found for each in part.values() for found in nodes(each, loader)]


def altered(edit: Callable[[dict[str, bytes], Any], None], model: bytes = MODEL) -> bytes:
    members = members_of(model)
    schema = json.loads(members["schema.json"])
    edit(members, schema)
    return zipped({**members, "schema.json": json.dumps(schema).encode()})


def npy(array: Any, *, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


# -- files that are no skops file, or one that carries a pickle ----------------------------------------------------


def with_array(data: bytes) -> bytes:
    def edit(members: dict[str, bytes], schema: Any) -> None:
        members[nodes(schema, "NdArrayNode")[0]["file"]] = data

    return altered(edit)


def object_array(canary: Path) -> bytes:
    return npy(np.array([Payload(canary)], dtype=object), pickled=True)


# -- types that would run code -------------------------------------------------------------------------------------


def calling(canary: Path) -> bytes:
    """`subprocess.Popen(["touch", canary])`, as skops writes a constructor call."""
    command = row(plain("touch", 2), plain(str(canary), 3), number=4, kind="list")
    return saying(
        node("ConstructorFromReduceNode", "subprocess", "Popen", content=row(command, number=5)),
    )


def nested(inner: Node) -> bytes:
    """A good model with one more attribute."""

    def edit(members: dict[str, bytes], schema: Any) -> None:
        nodes(schema, "ObjectNode")[0]["content"]["content"]["extra"] = inner

    return altered(edit)


TYPES: dict[str, Node] = {
    "a function": node("FunctionNode", "os", "system"),
    "a function of an old protocol": node(
        "FunctionNode", "os", "system", content={"module_path": "os", "function": "system"}
    ),
    "a type": node("TypeNode", "builtins", "eval"),
    "a partial": node(
        "PartialNode",
        "functools",
        "partial",
        content={name: plain(None, 9) for name in ("func", "args", "kwds", "namespace")},
    ),
    "a method caller": node("OperatorFuncNode", "operator", "methodcaller", attrs=row(plain("x", 2), number=3)),
    "a method": node("MethodNode", "builtins", "str", content={"func": "format", "obj": plain("x", 2)}),
    "a type behind a trusted kind of node": node("JsonNode", "os", "system", content="1"),
    "a kind of node that is unknown": node("PickleNode", "builtins", "str"),
    "an estimator that we do not serve": node("ObjectNode", "sklearn.pipeline", "Pipeline"),
    "a cached node": node("CachedNode", "builtins", "str"),
    "bytes": node("BytesNode", "builtins", "bytes", file="schema.json"),
}


def own_list(canary: Path) -> bytes:
    listed = {"trusted": ["subprocess.Popen"], "skops_trusted_types": ["subprocess.Popen"]}
    return altered(lambda _, schema: schema.update(listed), calling(canary))


# -- files that would take all memory or all time ------------------------------------------------------------------


def bomb(packed: int) -> bytes:
    """32 MB of zeros, packed, that are said to be none."""
    buffer = io.BytesIO(MODEL)
    with zipfile.ZipFile(buffer, "a", packed) as archive:
        archive.writestr("1.npy", npy(np.zeros(2**22)))
        archive.getinfo("1.npy").file_size = len(npy(np.zeros(0)))
    return buffer.getvalue()


def twice() -> bytes:
    """Two names for the same bytes of the file."""
    buffer = io.BytesIO(MODEL)
    with zipfile.ZipFile(buffer, "a") as archive:
        first = archive.infolist()[0]
        other = zipfile.ZipInfo("1.npy")
        for name in ("header_offset", "file_size", "compress_size", "CRC"):
            setattr(other, name, getattr(first, name))
        archive.filelist += [other] * 5_000
        archive._didModify = True  # type: ignore[attr-defined]
    return buffer.getvalue()


def endless() -> bytes:
    """Forty lists, each of the next one twice: the second time by its id alone."""
    inner = plain(1, 100)
    for number in range(1, 41):
        inner = row(inner, row(number=inner["__id__"], kind="list"), number=number, kind="list")
    return saying(inner)


def array_read_again(*numbers: int) -> bytes:
    """Nodes that share the array of the first."""
    file = f"{numbers[0]}.npy"
    arrays = [node("NdArrayNode", "numpy", "ndarray", number, type="numpy", file=file) for number in numbers]
    return saying(row(*arrays, number=3), **{file: npy(np.zeros(1_000))})


def objects() -> bytes:
    return saying(
        node("NdArrayNode", "numpy", "ndarray", type="json", content=[], shape=row(plain(2, 2), number=3)),
    )


def deep() -> bytes:
    return zipped({"schema.json": b'{"a":' * 100_000 + b"1" + b"}" * 100_000})


# -- trees that C code would follow out of its arrays, or for ever -------------------------------------------------


def trees_without(parts: tuple[str, ...]) -> bytes:
    """The forest's trees without nodes: with arrays of no rows, or with no state at all."""

    def edit(members: dict[str, bytes], schema: Any) -> None:
        for tree in nodes(schema, "TreeNode"):
            state = tree["content"]["content"]
            for name in parts:
                members[state[name]["file"]] = npy(np.load(io.BytesIO(MEMBERS[state[name]["file"]]))[:0])
            if not parts:
                tree["content"].update(content={}, key_types=row(number=tree["content"]["__id__"] + 1, kind="list"))

    return altered(edit)


MEMBERS = members_of(MODEL)


def lone_tree() -> bytes:
    """A tree in no forest, whose first split leads far out of its nodes."""
    tree = calibrated_forest().calibrated_classifiers_[0].estimator.estimator.estimators_[0]

    def edit(members: dict[str, bytes], schema: Any) -> None:
        name = nodes(schema, "TreeNode")[0]["content"]["content"]["nodes"]["file"]
        split = np.load(io.BytesIO(members[name]))
        split["left_child"][0] = split["right_child"][0] = 2**40
        members[name] = npy(split)

    return altered(edit, skops.io.dumps(tree))


Plant = Callable[[Path], bytes]

# What is planted as model.skops, and why it is refused when even the digest tag is the attacker's.
ATTACKS: dict[str, tuple[Plant, str]] = {
    "a pickle": (lambda canary: pickle.dumps(Payload(canary)), "not_skops"),
    "a gzipped pickle": (lambda canary: gzip.compress(pickle.dumps(Payload(canary))), "not_skops"),
    "a joblib file": (joblib_file, "not_skops"),
    "nothing": (lambda _: b"", "not_skops"),
    "a truncated model": (lambda _: MODEL[:-100], "not_skops"),
    "an array that is a pickle": (lambda canary: with_array(pickle.dumps(Payload(canary))), "zip"),
    "an array of pickled objects": (lambda canary: with_array(object_array(canary)), "not_skops"),
    "an array that is a zip": (lambda canary: with_array(zipped({"a.npy": object_array(canary)})), "zip"),
    "a process to start": (calling, "untrusted_type"),
    "a list of its own trusted types": (own_list, "untrusted_type"),
    **{name: (partial(lambda each, _: nested(each), each), "untrusted_type") for name, each in TYPES.items()},
    "a name that climbs": (lambda _: zipped({**MEMBERS, "../1.npy": npy(np.zeros(1))}), "zip"),
    "an absolute name": (lambda _: zipped({**MEMBERS, "/tmp/1.npy": npy(np.zeros(1))}), "zip"),
    "a program beside the arrays": (lambda _: zipped({**MEMBERS, "sitecustomize.py": b"import os"}), "zip"),
    "a bomb": (lambda _: bomb(zipfile.ZIP_DEFLATED), "zip"),
    "a bomb of another packer": (lambda _: bomb(zipfile.ZIP_LZMA), "zip"),
    "one array under many names": (lambda _: twice(), "zip"),
    "an endless tree of nodes": (lambda _: endless(), "schema"),
    "an array that is read again under another number": (lambda _: array_read_again(1, 2), "schema"),
    "an array that is read again under the number that skops forgets": (lambda _: array_read_again(0, 0), "schema"),
    "an array of nodes": (lambda _: objects(), "schema"),
    "a schema too deep to read": (lambda _: deep(), "not_skops"),
    "trees whose arrays have no rows": (lambda _: trees_without(("nodes", "values")), "golden"),
    "trees without a state": (lambda _: trees_without(()), "golden"),
    "a tree in no forest": (lambda _: lone_tree(), "golden"),
}
