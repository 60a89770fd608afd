"""Who may serve: a version with a passed verdict of ours, for its very files and for the feature service in use.

Whoever can use the MLflow UI can move the alias and write tags. Neither makes a version serve.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from churn.core.seal import KEY_ID_LENGTH, Claim, is_signed, key_id, read_claim
from churn.domain.versions import TAG_SIGNATURE, TAG_VERDICT, ModelVersion


@dataclass(frozen=True)
class Admission:
    """Whether a version may serve. `reason` is a short word for metrics, `found` a sentence, `override` a person's."""

    admitted: bool
    reason: str
    found: str
    override: str = ""


Admit = Callable[[ModelVersion], Admission]


def admit(version: ModelVersion, key: str, *, model_name: str, feature_service: str, allow_override: bool) -> Admission:
    """Judges `version` by its tags alone. An override stands in for the verdict, never for the feature service."""
    if version.feature_service != feature_service:
        needed = version.feature_service or "none that it names"
        return Admission(
            False, "feature_service", f"it needs feature service {needed}, this release serves {feature_service}"
        )
    judged = _by_verdict(version, key, model_name)
    if judged.admitted or not version.override:
        return judged
    if allow_override:
        return Admission(True, "overridden", f"a person overrode that {judged.found}", version.override)
    return Admission(False, judged.reason, f"{judged.found}, and the policy allows no override")


def _by_verdict(version: ModelVersion, key: str, model_name: str) -> Admission:
    if not version.tags.get(TAG_VERDICT):
        return Admission(False, "no_verdict", "it carries no verdict")
    claim, signature = read_claim(version.tags[TAG_VERDICT]), version.tags.get(TAG_SIGNATURE, "")
    if claim is None:
        return Admission(False, "verdict_unreadable", f"its tag {TAG_VERDICT} is no verdict that this release reads")
    if not is_signed(claim, signature, key):
        return Admission(False, "verdict_forged", _forgery(signature, key))
    return _by_claim(claim, version, model_name)


def _by_claim(claim: Claim, version: ModelVersion, model_name: str) -> Admission:
    if (claim.model_name, claim.version) != (model_name, version.version):
        return Admission(
            False, "verdict_for_other_version", f"its verdict is that of {claim.model_name} version {claim.version}"
        )
    if claim.digest != version.digest:
        return Admission(False, "verdict_for_other_digest", "its verdict is for other files than it has now")
    if claim.feature_service != version.feature_service:
        return Admission(False, "feature_service", f"its verdict is for feature service {claim.feature_service}")
    if not claim.passed:
        return Admission(False, "verdict_failed", "its verdict is a refusal")
    return Admission(True, "ok", f"its verdict of {claim.decided_at} passed")


def _forgery(signature: str, key: str) -> str:
    signed_with, ours = signature[:KEY_ID_LENGTH], key_id(key)
    if not signature:
        return "its verdict is not signed"
    if signed_with == ours:
        return "its verdict is not the one that was signed"
    return f"its verdict is signed with another key ({signed_with}) than the one here ({ours})"
