"""A version's lineage, read back: what it names, and where this checkout differs from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from hashlib import sha256
from typing import Any, Literal, NoReturn

import pandas as pd
from pydantic import TypeAdapter, ValidationError

from churn.core.artifact import Card
from churn.core.model import ForestParameters
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.domain.versions import TAG_LINEAGE, Lineage, ModelVersion
from churn.domain.windows import Split, parse_instant
from churn.errors import Mismatch, NotReady

State = Literal["ok", "differs", "missing", "not recorded"]
SHORT = 12
DIRTY = "+dirty"
FOLDER_BACK = "Put the snapshot's folder back from a backup: nothing else has those rows."
_LINEAGE = TypeAdapter(Lineage)
_PARAMETERS = TypeAdapter(ForestParameters)


@dataclass(frozen=True)
class Link:
    """One link of the chain that made a version. `needed`: unless it is ok there is no use in rebuilding."""

    name: str
    state: State
    found: str
    way_out: str = ""
    needed: bool = False


@dataclass(frozen=True)
class Checkout:
    """The code that would rebuild a version; "" = not known."""

    commit: str
    lock_sha256: str
    dbt_sha256: str
    packages: Mapping[str, str] = field(default_factory=dict)
    feast_sha256: str = ""


# -- reading ---------------------------------------------------------------------------------------------------------


def parse_lineage(version: ModelVersion) -> Lineage:
    """The lineage that the version carries; raises NotReady when it carries none, Mismatch when it is not one."""
    text = version.tags.get(TAG_LINEAGE)
    if text is None:
        raise NotReady(
            f"version {version.version} carries no lineage, so nobody knows what it was made of",
            hint="Versions that `churn train` registers carry one.",
        )
    try:
        _refuse_unknown(Lineage, json.loads(text))
        return _LINEAGE.validate_json(text, strict=True)
    except ValidationError as error:
        _not_a_lineage(version, _problems(error))
    except ValueError as error:
        _not_a_lineage(version, str(error))


def parse_parameters(found: Mapping[str, Any]) -> ForestParameters:
    """The forest's parameters out of a lineage.

    Raises Mismatch on a parameter that this release does not know, or that the lineage lacks: a default of today in
    its place might be another model.
    """
    names = {each.name for each in fields(ForestParameters)}
    for which, odd in (("lacks", names - found.keys()), ("has, unknown to this release,", found.keys() - names)):
        if odd:
            _other_forest(f"its lineage {which} {', '.join(sorted(odd))}")
    try:
        return _PARAMETERS.validate_json(json.dumps(dict(found)), strict=True)
    except ValidationError as error:
        _other_forest(_problems(error))


def split_of(lineage: Lineage) -> Split:
    """The cutoffs by role, as they were split then."""
    return Split(
        train=tuple(parse_instant(text) for text in lineage.train_cutoffs),
        test=tuple(parse_instant(text) for text in lineage.test_cutoffs),
    )


def _refuse_unknown(kind: type, found: Any) -> None:
    unknown = set(found) - {each.name for each in fields(kind)} if isinstance(found, dict) else set()
    if unknown:
        raise ValueError(f"unknown to this release: {', '.join(sorted(unknown))}")


def _problems(error: ValidationError) -> str:
    return "; ".join(": ".join([*map(str, problem["loc"]), problem["msg"]]) for problem in error.errors())


def _not_a_lineage(version: ModelVersion, why: str) -> NoReturn:
    raise Mismatch(
        f"the tag {TAG_LINEAGE} of version {version.version} is no lineage: {why}",
        hint="It was written by another release, or by hand: read it in the MLflow UI.",
    )


def _other_forest(why: str) -> NoReturn:
    raise Mismatch(
        f"the version's forest is not one of this release: {why}",
        hint="Check out the commit that trained it: `churn lineage` names it.",
    )


# -- digests ---------------------------------------------------------------------------------------------------------


def frame_sha256(frame: pd.DataFrame) -> str:
    """sha256 over the values of all rows, in order."""
    return sha256(pd.util.hash_pandas_object(frame, index=False).to_numpy().tobytes()).hexdigest()


def table_digests(manifest: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of each raw table as a snapshot's manifest has them."""
    return {name: facts["sha256"] for name, facts in manifest["tables"].items()}


# -- comparing -------------------------------------------------------------------------------------------------------


def compared(name: str, recorded: Mapping[str, str], here: Mapping[str, str], *, way_out: str) -> Link:
    """The link of several named digests or versions; it names those that are not as recorded."""
    if not recorded:
        return Link(name, "not recorded", "the version does not say")
    other = [key for key in sorted(recorded) if here.get(key) != recorded[key]]
    if other:
        found = ", ".join(f"{key} {_apart(here.get(key, ''), recorded[key])}" for key in other)
        return Link(name, "differs", found, way_out)
    return Link(name, "ok", f"{len(recorded)} as recorded")


def digest_link(name: str, recorded: str, here: str, *, way_out: str) -> Link:
    """The link of one digest."""
    if not recorded:
        return Link(name, "not recorded", "the version does not say")
    if here != recorded:
        return Link(name, "differs", _apart(here, recorded), way_out)
    return Link(name, "ok", _short(recorded))


def definition_links(lineage: Lineage, card: Card, here: Checkout) -> list[Link]:
    """Whether the rows mean the same: without that a rebuild cannot be equal, and is not tried."""
    checkout = _checkout(lineage.commit)
    of_dbt = digest_link("dbt definitions", lineage.dbt_sha256, here.dbt_sha256, way_out=checkout)
    of_feast = digest_link("feature definitions", lineage.feast_sha256, here.feast_sha256, way_out=checkout)
    of_service = Link("feature service", "ok", f"{FEATURE_SERVICE}, {len(FEATURE_NAMES)} features")
    if other := _other_service(lineage, card):
        of_service = Link("feature service", "differs", other, checkout)
    # A version of an earlier release does not say: then the names and the order of its features must do.
    of_feast = _needed(of_feast) if lineage.feast_sha256 else of_feast
    return [_needed(of_dbt), of_feast, _needed(of_service)]


def code_links(lineage: Lineage, here: Checkout) -> list[Link]:
    """Whether the same code would work on them. Told only: other code may give the very same model."""
    lock = digest_link("lock file", lineage.lock_sha256, here.lock_sha256, way_out=_checkout(lineage.commit))
    packages = compared("packages", lineage.packages, here.packages, way_out="uv sync --frozen, at the commit above")
    return [_commit_link(lineage.commit, here.commit), lock, packages]


def artifact_link(recorded: str, found: str) -> Link:
    """Whether the version's own files, which hold the golden rows, are those that were registered."""
    return _needed(digest_link("model files", recorded, found, way_out="Restore the artifact store, or train again."))


def snapshot_link(recorded: Mapping[str, str], here: Mapping[str, str]) -> Link:
    """Whether the raw tables are those that the version was made of."""
    return _needed(compared("raw snapshot", recorded, here, way_out=FOLDER_BACK))


def missing_snapshot(why: str) -> Link:
    """The link when the raw tables are not there, or cannot be read."""
    return Link("raw snapshot", "missing", why, FOLDER_BACK, needed=True)


def require(version: ModelVersion, links: Sequence[Link]) -> None:
    """Raises NotReady for a missing needed link and Mismatch for one that differs; facts["links"] has them all."""
    broken = next((link for link in links if link.needed and link.state != "ok"), None)
    if broken is not None:
        kind = Mismatch if broken.state == "differs" else NotReady
        raise kind(
            f"version {version.version} cannot be rebuilt here: {broken.name} {broken.state}: {broken.found}",
            hint=broken.way_out,
            facts={"links": tuple(links)},
        )


def _commit_link(recorded: str, here: str) -> Link:
    if not recorded:
        return Link("commit", "not recorded", "trained by an installed package, or outside of git")
    if recorded.endswith(DIRTY):
        found = f"trained with changes to {_short(recorded)} that nobody committed"
        return Link("commit", "differs", found, "Nothing can bring those changes back: train on a committed state.")
    if here != recorded:
        changed = " and changes that are not committed" if here.endswith(DIRTY) else ""
        return Link("commit", "differs", f"{_apart(here, recorded)}{changed}", _checkout(recorded))
    return Link("commit", "ok", _short(recorded))


def _checkout(commit: str) -> str:
    clean = commit.removesuffix(DIRTY)
    return f"git checkout {clean}" if clean else "The version names no commit: find the code that trained it."


def _other_service(lineage: Lineage, card: Card) -> str:
    """What is another feature service about the version's, "" when nothing is."""
    names = sorted({lineage.feature_service, card.feature_service} - {FEATURE_SERVICE})
    if names:
        return _apart(FEATURE_SERVICE, ", ".join(names))
    odd = sorted(set(FEATURE_NAMES) ^ set(card.features))
    return "" if card.features == FEATURE_NAMES else f"other features: {', '.join(odd) or 'the same in another order'}"


def _needed(link: Link) -> Link:
    return Link(link.name, link.state, link.found, link.way_out, needed=True)


def _apart(here: str, recorded: str) -> str:
    return f"{_short(recorded)} then, {_short(here)} here"


def _short(text: str) -> str:
    """A digest or commit, shortened; anything else as it is."""
    return text[:SHORT] if len(text) >= 40 else text or "nothing"
