"""The judge of promotions: evidence and a written policy in, a verdict with reasons out. Missing evidence fails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sklearn.metrics import roc_auc_score

from churn.core.evaluation import metrics
from churn.domain.verdicts import PromotionVerdict, Reason
from churn.errors import BadInput

Array = NDArray[np.float64]


class Policy(BaseModel):
    """The limits of policy.yaml; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    minimum_test_rows: int = Field(ge=1)
    minimum_auc_over_recency: float = Field(ge=0)
    maximum_auc_loss: float = Field(ge=0)
    maximum_log_loss_increase: float = Field(ge=0)
    maximum_ece: float = Field(gt=0, le=1)
    allow_override: bool


@dataclass(frozen=True)
class Evidence:
    """Outcomes and probabilities on the same n test rows. `champion` None: there is none to compare with.

    `champion_saw_rows`: the champion was trained on some of them, which favours it.
    """

    y: NDArray[np.int64]
    challenger: Array
    recency: Array
    champion: Array | None
    champion_saw_rows: bool = False


def parse_policy(text: str) -> Policy:
    """The policy in YAML `text`; raises BadInput that names every bad key."""
    try:
        return Policy.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise BadInput(f"the promotion policy cannot be used: {error}", hint="Compare it with policy.yaml.") from error


def judge(challenger: str, champion: str | None, evidence: Evidence, policy: Policy) -> PromotionVerdict:
    """Every rule of the policy, judged on the same rows."""
    if len(np.unique(evidence.y)) < 2:
        return refusal(challenger, champion, "test rows", "all test rows have the same outcome")
    found = metrics(evidence.y, evidence.challenger)
    against = None if evidence.champion is None else metrics(evidence.y, evidence.champion)
    reasons = [*_alone(found, evidence, policy), *_against(found, against, policy), *_told(evidence)]
    facts = {"challenger": found, "champion": against}
    return PromotionVerdict(challenger, champion, tuple(reasons), facts)


def refusal(challenger: str, champion: str | None, rule: str, found: str) -> PromotionVerdict:
    """A verdict that fails because the comparison itself could not be made."""
    return PromotionVerdict(challenger, champion, (Reason(rule, False, found),))


def _alone(found: dict[str, float], evidence: Evidence, policy: Policy) -> list[Reason]:
    recency = float(roc_auc_score(evidence.y, evidence.recency))
    ahead = found["auc_score"] - recency
    return [
        Reason(
            f"at least {policy.minimum_test_rows} test rows",
            len(evidence.y) >= policy.minimum_test_rows,
            f"{len(evidence.y)} rows",
        ),
        Reason(
            f"ROC-AUC beats recency alone by more than {policy.minimum_auc_over_recency:g}",
            ahead > policy.minimum_auc_over_recency,
            f"{found['auc_score']:.4f} against {recency:.4f}",
        ),
        Reason(
            f"expected calibration error at most {policy.maximum_ece:g}",
            found["ece"] <= policy.maximum_ece,
            f"{found['ece']:.4f}",
        ),
    ]


def _told(evidence: Evidence) -> list[Reason]:
    if not evidence.champion_saw_rows:
        return []
    return [Reason("the champion never saw the test rows", None, "it was trained on some of them, which favours it")]


def _against(found: dict[str, float], champion: dict[str, float] | None, policy: Policy) -> list[Reason]:
    if champion is None:
        return [Reason("no worse than the champion", None, "there is no champion yet")]
    lost = champion["auc_score"] - found["auc_score"]
    worse = found["log_loss"] - champion["log_loss"]
    return [
        Reason(
            f"loses at most {policy.maximum_auc_loss:g} ROC-AUC to the champion",
            lost <= policy.maximum_auc_loss,
            f"{found['auc_score']:.4f} against {champion['auc_score']:.4f}",
        ),
        Reason(
            f"log loss at most {policy.maximum_log_loss_increase:g} above the champion's",
            worse <= policy.maximum_log_loss_increase,
            f"{found['log_loss']:.4f} against {champion['log_loss']:.4f}",
        ),
    ]
