"""Who may serve: each way to get a version into service without a passed verdict is refused by its own name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from churn.core.admission import Admission, admit
from churn.core.seal import is_signed, key_id, read_claim, seal
from churn.domain.schema import FEATURE_SERVICE
from churn.domain.versions import (
    MODEL_NAME,
    TAG_DIGEST,
    TAG_FEATURE_SERVICE,
    TAG_OVERRIDE,
    TAG_SIGNATURE,
    TAG_VERDICT,
    ModelVersion,
)
from tests.models import KEY, claim_of, judged

OTHER_KEY = "the key of another deployment, as long"
PLAIN = ModelVersion(
    MODEL_NAME, "8", "run-8", "models:/m-8", {TAG_DIGEST: "d" * 64, TAG_FEATURE_SERVICE: FEATURE_SERVICE}
)
GOOD = judged(PLAIN)


def admission(version: ModelVersion, *, key: str = KEY, allow_override: bool = False) -> Admission:
    return admit(version, key, model_name=MODEL_NAME, feature_service=FEATURE_SERVICE, allow_override=allow_override)


def tagged(version: ModelVersion, **tags: str) -> ModelVersion:
    """The version with some tags edited, as anybody may do in the MLflow UI."""
    names = {"verdict": TAG_VERDICT, "signature": TAG_SIGNATURE, "digest": TAG_DIGEST, "override": TAG_OVERRIDE}
    given = {names.get(name, TAG_FEATURE_SERVICE): value for name, value in tags.items()}
    return replace(version, tags={**version.tags, **given})


def edited(version: ModelVersion, /, **claim: Any) -> str:
    """The verdict's tag with some of its facts changed by hand."""
    facts: Mapping[str, Any] = json.loads(version.tags[TAG_VERDICT])
    return json.dumps({**facts, **claim})


def test_a_passed_verdict_of_ours_for_these_files_admits() -> None:
    assert admission(GOOD) == Admission(True, "ok", "its verdict of 2026-11-20T10:00:00+00:00 passed")


FAILED = judged(PLAIN, passed=False)
REFUSED = {
    "no verdict at all": (PLAIN, "no_verdict"),
    "an empty tag": (tagged(GOOD, verdict=""), "no_verdict"),
    "a word": (tagged(GOOD, verdict="passed"), "verdict_unreadable"),
    "a verdict of the time before signatures": (tagged(GOOD, verdict='{"passed": true}'), "verdict_unreadable"),
    "a fact too many": (tagged(GOOD, verdict=edited(GOOD, note="x")), "verdict_unreadable"),
    "a format of tomorrow": (tagged(GOOD, verdict=edited(GOOD, format=2)), "verdict_unreadable"),
    "a truth that is a number": (tagged(GOOD, verdict=edited(GOOD, passed=1)), "verdict_unreadable"),
    "a refusal": (FAILED, "verdict_failed"),
    "a refusal turned into a pass by hand": (tagged(FAILED, verdict=edited(FAILED, passed=True)), "verdict_forged"),
    "no signature": (tagged(GOOD, signature=""), "verdict_forged"),
    "a signature of nothing": (tagged(GOOD, signature="ÿ" * 73), "verdict_forged"),
    "one letter of the signature": (tagged(GOOD, signature=GOOD.tags[TAG_SIGNATURE][:-1]), "verdict_forged"),
    "another key": (judged(PLAIN, key=OTHER_KEY), "verdict_forged"),
    "our key's name on another key's signature": (
        tagged(GOOD, signature=f"{key_id(KEY)}:{judged(PLAIN, key=OTHER_KEY).tags[TAG_SIGNATURE][9:]}"),
        "verdict_forged",
    ),
    "the verdict of another version, copied": (judged(PLAIN, version="7"), "verdict_for_other_version"),
    "the verdict of another model, copied": (judged(PLAIN, model_name="other"), "verdict_for_other_version"),
    "other files": (tagged(GOOD, digest="e" * 64), "verdict_for_other_digest"),
    "another feature service": (tagged(GOOD, feature_service="churn_v0"), "feature_service"),
    "no feature service": (tagged(GOOD, feature_service=""), "feature_service"),
    "a verdict for another feature service": (judged(PLAIN, feature_service="churn_v0"), "feature_service"),
}


@pytest.mark.fault("M3", "M4")
@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_a_passed_verdict_of_ours_is_refused_by_its_name(case: str) -> None:
    version, reason = REFUSED[case]
    found = admission(version)
    assert (found.admitted, found.reason) == (False, reason)
    assert KEY not in found.found


@pytest.mark.fault("M3")
@pytest.mark.parametrize("fact", ["model_name", "version", "digest", "feature_service", "decided_at", "override"])
def test_no_fact_of_a_verdict_can_be_changed_without_the_key(fact: str) -> None:
    assert admission(tagged(GOOD, verdict=edited(GOOD, **{fact: "x"}))).reason == "verdict_forged"


def test_the_sentence_tells_a_foreign_key_from_a_forgery() -> None:
    foreign = admission(judged(PLAIN, key=OTHER_KEY)).found
    assert foreign == f"its verdict is signed with another key ({key_id(OTHER_KEY)}) than the one here ({key_id(KEY)})"
    assert admission(tagged(FAILED, verdict=edited(FAILED, passed=True))).found == (
        "its verdict is not the one that was signed"
    )


def test_a_verdict_whose_text_was_only_laid_out_anew_still_counts() -> None:
    assert admission(tagged(GOOD, verdict=json.dumps(json.loads(GOOD.tags[TAG_VERDICT]), indent=3))).admitted


# -- overrides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [case for case, (_, reason) in REFUSED.items() if reason != "feature_service"])
def test_an_override_stands_in_for_any_verdict_where_the_policy_allows_it(case: str) -> None:
    version = tagged(REFUSED[case][0], override="we must")
    allowed = admission(version, allow_override=True)
    assert (allowed.admitted, allowed.reason, allowed.override) == (True, "overridden", "we must")
    refused = admission(version)
    assert (refused.admitted, refused.reason) == (False, REFUSED[case][1])
    assert refused.found.endswith("and the policy allows no override")


@pytest.mark.fault("M4")
def test_an_override_does_not_stand_in_for_the_feature_service() -> None:
    assert not admission(tagged(GOOD, feature_service="churn_v0", override="we must"), allow_override=True).admitted


@pytest.mark.parametrize("words", ["", "  \n"])
def test_an_override_without_words_is_none(words: str) -> None:
    assert admission(tagged(FAILED, override=words), allow_override=True).reason == "verdict_failed"


def test_an_override_that_is_not_needed_is_not_told() -> None:
    assert admission(tagged(GOOD, override="we must"), allow_override=True).reason == "ok"


# -- the seal ----------------------------------------------------------------------------------------------------------


def test_a_seal_is_the_same_for_the_same_claim_and_names_its_key() -> None:
    sealed = seal(claim_of(PLAIN), KEY)
    assert sealed == seal(claim_of(PLAIN), KEY)
    assert sealed.signature.split(":")[0] == key_id(KEY)
    assert len(sealed.signature) == 8 + 1 + 64
    found = read_claim(sealed.claim)
    assert found == claim_of(PLAIN)
    assert is_signed(found, sealed.signature, KEY) and not is_signed(found, sealed.signature, OTHER_KEY)


def test_the_signature_is_an_hmac_sha256_over_the_sorted_compact_json() -> None:
    """A change here makes every verdict ever given worthless: it needs a new format number."""
    claim = (
        '{"decided_at":"2026-11-20T10:00:00+00:00","digest":"' + "d" * 64 + '","feature_service":"churn_v1","format":1,'
        '"model_name":"churn_prediction","override":"","passed":true,"policy_sha256":"' + "b" * 64 + '",'
        '"verdict_sha256":"' + "a" * 64 + '","version":"8"}'
    )
    sealed = seal(claim_of(PLAIN), KEY)
    assert sealed.claim == claim
    assert sealed.signature == "b7e0c115:01b80d086fdfe822b78779cf1bb05a9d0fe34075593c208bf622db07e6df7928"
