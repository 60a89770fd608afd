"""The seal of a verdict: what is claimed of a version, and an HMAC over it that only a holder of the key can write.

Tags of a version can be edited by everyone who may use the registry. So a verdict counts only together with its
signature, and only for the version, files and feature service that it names.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

KEY_ID_LENGTH = 8


class Claim(BaseModel):
    """What a verdict says. The text that is signed is made of these fields alone: a change of meaning needs a new
    `format`, and then every version in service must be judged again."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    model_name: str
    version: str
    digest: str
    feature_service: str
    passed: bool
    verdict_sha256: str
    policy_sha256: str
    decided_at: str
    override: str = ""


@dataclass(frozen=True)
class Seal:
    """A claim and its signature, as the texts of two tags."""

    claim: str
    signature: str


def seal(claim: Claim, key: str) -> Seal:
    """The claim in its canonical text, signed with `key`."""
    text = _canonical(claim)
    return Seal(text, f"{key_id(key)}:{_hmac(text, key)}")


def read_claim(text: str) -> Claim | None:
    """The claim in a tag's text, None when it is none."""
    try:
        return Claim.model_validate_json(text)
    except ValidationError:
        return None


def is_signed(claim: Claim, signature: str, key: str) -> bool:
    """Whether `signature` is the one that `key` gives this claim. Takes the same time for every wrong one."""
    return hmac.compare_digest(seal(claim, key).signature.encode(), signature.encode())


def key_id(key: str) -> str:
    """A short name of a key, to tell keys apart without showing them."""
    return sha256(key.encode()).hexdigest()[:KEY_ID_LENGTH]


def _canonical(claim: Claim) -> str:
    return json.dumps(claim.model_dump(), sort_keys=True, separators=(",", ":"))


def _hmac(text: str, key: str) -> str:
    return hmac.new(key.encode(), text.encode(), sha256).hexdigest()
