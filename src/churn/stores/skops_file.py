"""Model files: the only importer of skops.

skops refuses types that are not trusted, but only after it has read the whole file, and it trusts every public
estimator of scikit-learn. So a file is looked through before skops sees it: a zip that holds no more than its own
bytes, with a schema of the nodes that our models have (domain/artifacts.py), each array read once.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from typing import Any

import sklearn
import skops.io

from churn.domain.artifacts import MODEL_NODES, TRUSTED_TYPES, refused
from churn.errors import Refused

SKLEARN_VERSION: str = sklearn.__version__
# A hundred trees take 5 MB of schema. Parsed, a schema takes some ten times its bytes.
SCHEMA_LIMIT = 64 * 2**20
_SCHEMA = "schema.json"
_ARRAY = re.compile(r"[0-9]{1,20}\.npy")
_ARRAY_MAGIC = b"\x93NUMPY"
_NODE_KEYS = frozenset({"__loader__", "__module__", "__class__", "__id__"})


def load_skops(data: bytes) -> Any:
    """The estimator in `data`, built of trusted types only; raises Refused."""
    # zipfile, json and skops raise whatever a crafted file makes them stumble over: every exception means that the
    # file is not a model.
    try:
        _check_file(data)
        return skops.io.loads(data, trusted=list(TRUSTED_TYPES))
    except Refused:
        raise
    except Exception as error:
        raise refused("not_skops", f"model.skops cannot be read ({type(error).__name__})") from error


def _check_file(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        _check_members(archive, len(data))
        _check_schema(json.loads(archive.read(_SCHEMA)), {})


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Nothing packed, nothing twice, nothing but the schema and arrays: so reading it takes no more than its bytes."""
    members = archive.infolist()
    if any(each.compress_type != zipfile.ZIP_STORED for each in members):
        raise refused("zip", "model.skops is packed, and could unpack to any size")
    if len({each.filename for each in members}) < len(members) or sum(each.file_size for each in members) > size:
        raise refused("zip", "model.skops holds the same bytes twice")
    if archive.getinfo(_SCHEMA).file_size > SCHEMA_LIMIT:
        raise refused("zip", f"the schema in model.skops is larger than {SCHEMA_LIMIT} bytes")
    if not all(each.filename == _SCHEMA or _is_array(archive, each) for each in members):
        raise refused("zip", "model.skops holds something that is neither schema nor array")


def _is_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    """Whether it is what numpy reads as an array: it takes everything else for a pickle or for another zip."""
    if not _ARRAY.fullmatch(member.filename):
        return False
    with archive.open(member) as file:
        return file.read(len(_ARRAY_MAGIC)) == _ARRAY_MAGIC


def _check_schema(part: Any, sizes: dict[int, int]) -> int:
    """Checks every node of the tree that skops would build, wherever in the schema it stands; returns their number."""
    if isinstance(part, list):
        return sum(_check_schema(each, sizes) for each in part)
    if not isinstance(part, dict):
        return 0
    size = 1 + sum(_check_schema(each, sizes) for each in part.values())
    if not _NODE_KEYS.isdisjoint(part):
        _check_node(part, size, sizes)
    return size


def _check_node(node: dict[str, Any], size: int, sizes: dict[int, int]) -> None:
    if f"{node['__module__']}.{node['__class__']}" not in MODEL_NODES.get(node["__loader__"], ()):
        raise refused("untrusted_type", "model.skops holds types that are not trusted")
    # skops builds the first node of an id, and puts it wherever the id comes again. It writes the node out again there;
    # if a short one could stand for a long one, a small file would say an endless tree.
    if not isinstance(node["__id__"], int) or node["__id__"] <= 0 or sizes.setdefault(node["__id__"], size) != size:
        raise refused("schema", "the schema in model.skops says two things of one node")
    if node["__loader__"] == "NdArrayNode" and (node["type"], node.get("file")) != ("numpy", f"{node['__id__']}.npy"):
        raise refused("schema", "an array in model.skops is not in its own file")
