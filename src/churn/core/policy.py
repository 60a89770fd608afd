"""The promotion policy: what policy.yaml may say. Every key is required and unknown ones are refused, so that the file
that a team commits is the whole of what a challenger is held to.
"""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from churn.errors import BadInput

Figure = Literal["log_loss", "pr_auc", "expected_value"]
COMPARED: tuple[Figure, ...] = ("log_loss", "pr_auc", "expected_value")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RowLimits(_Part):
    """How much evidence a verdict needs."""

    minimum: int = Field(ge=1, description="Test rows, one an eligible user and cutoff")
    minimum_users_of_each_outcome: int = Field(ge=1, description="Distinct users who churned, and who stayed")


class Intervals(_Part):
    """The paired bootstrap by user."""

    confidence: float = Field(ge=0.5, lt=1, description="Of every two-sided interval; one bound errs half of the rest")
    replicates: int = Field(ge=100, le=100_000, description="How often users are drawn again")
    seed: int = Field(ge=0, description="Of the draws: the same rows give the same verdict")


class RecencyLimits(_Part):
    """Against the simplest baseline, days since the last activity."""

    minimum_auc_ahead: float = Field(ge=0, description="ROC-AUC must exceed that of recency alone by more than this")


class CalibrationLimits(_Part):
    """Whether probabilities are what they say, over all test rows."""

    maximum_ece: float = Field(gt=0, le=1, description="Expected calibration error over groups of equal size")
    maximum_in_the_large: float = Field(gt=0, le=1, description="|mean probability less churn rate|")


class Margin(_Part):
    """One figure against the champion's."""

    non_inferiority_margin: float = Field(
        ge=0, description="The whole interval of the difference must lie within this much worse than the champion"
    )


class ChampionLimits(_Part):
    """Against the champion on the same rows."""

    superior_in: tuple[Figure, ...] = Field(
        description="In one of these the whole interval must lie on the better side; none: non-inferiority is enough"
    )
    log_loss: Margin
    pr_auc: Margin
    expected_value: Margin

    def margin(self, figure: Figure) -> float:
        part: Margin = getattr(self, figure)
        return part.non_inferiority_margin


class SliceLimits(_Part):
    """The worst part of the users. A slice breaks a limit when its whole interval lies beyond it."""

    minimum_rows: int = Field(ge=1, description="Smaller slices are told, not judged")
    minimum_of_each_outcome: int = Field(ge=1, description="Slices with fewer rows of an outcome are not judged")
    maximum_auc_shortfall: float = Field(ge=0, description="ROC-AUC below that of all rows")
    maximum_calibration_gap: float = Field(gt=0, le=1, description="|mean probability less churn rate|")
    maximum_log_loss_increase: float = Field(ge=0, description="Log loss above the champion's on the same slice")


class ServingLimits(_Part):
    """What serving can bear."""

    maximum_latency_ms: float = Field(gt=0, description="Median of scoring one row by the served predictor")
    maximum_size_bytes: int = Field(gt=0, description="Of the served files together")


class Policy(_Part):
    """The limits of policy.yaml."""

    rows: RowLimits
    intervals: Intervals
    recency: RecencyLimits
    calibration: CalibrationLimits
    champion: ChampionLimits
    slices: SliceLimits
    serving: ServingLimits
    allow_override: bool = Field(description="Whether a version with the tag churn.override may be served unjudged")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return self.model_dump(mode="json")


def parse_policy(text: str) -> Policy:
    """The policy in YAML `text`; raises BadInput that names every bad key."""
    try:
        return Policy.model_validate(yaml.safe_load(text))
    except (ValidationError, yaml.YAMLError) as error:
        raise BadInput(f"the promotion policy cannot be used: {error}", hint="Compare it with policy.yaml.") from error
