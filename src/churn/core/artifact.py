"""What a model artifact must be before it may answer: digest, card, expectations, golden rows - in this order.

The card (`churn_model.json`) is written by training and travels with the model; the digest covers both, and is kept
apart from them, as a tag in the registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, TypeAdapter, ValidationError

from churn.core.forest import Predict, forest_members, forest_predictor, reference_predictor
from churn.core.reasons import Explainer, margins
from churn.core.scoring import ServedModel
from churn.core.value import ContactPlan
from churn.domain.artifacts import SERVED_FILES, Artifact, refused
from churn.domain.schema import FEATURE_NAMES, FEATURE_SERVICE
from churn.domain.versions import CARD_FILE, MODEL_FILE

CARD_FORMAT = 2  # 2: carries the plan of contacts
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Golden:
    """Rows (null = None) and the probabilities training saw for them."""

    vectors: tuple[tuple[float | None, ...], ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Card:
    """What training says about its model. A change of meaning raises `CARD_FORMAT`.

    `newest_label` is the end (UTC) of the newest horizon that it was trained or tested on; None on older cards.
    """

    features: tuple[str, ...]
    feature_service: str
    horizon_days: int
    sklearn_version: str
    golden: Golden
    contact: ContactPlan
    reference_sha256: str = ""
    newest_label: AwareDatetime | None = None
    format: int = CARD_FORMAT


@dataclass(frozen=True)
class Expected:
    """What this process can serve."""

    sklearn_version: str
    features: tuple[str, ...] = FEATURE_NAMES
    feature_service: str = FEATURE_SERVICE


@dataclass(frozen=True)
class _Header:
    """What every card has had since the first format."""

    format: int


_CARD, _HEADER = TypeAdapter(Card), TypeAdapter(_Header)


def digest_of(files: Mapping[str, bytes]) -> str:
    """sha256 over the sorted lines `<name> <sha256 of the content>` of the served files; other files do not count.

    Raises Refused when one of them is missing.
    """
    missing = [name for name in SERVED_FILES if name not in files]
    if missing:
        raise refused("missing_file", f"{', '.join(missing)} is missing")
    lines = sorted(f"{name} {sha256(files[name]).hexdigest()}\n" for name in SERVED_FILES)
    return sha256("".join(lines).encode()).hexdigest()


def card_bytes(card: Card) -> bytes:
    """The card as training writes it."""
    return json.dumps(asdict(card), indent=1, sort_keys=True, allow_nan=False, default=datetime.isoformat).encode()


def golden_rows(vectors: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Golden:
    """(n, f) vectors and their n probabilities in the card's form."""
    rows = tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in vectors)
    return Golden(rows, tuple(float(value) for value in probabilities))


def parse_card(data: bytes) -> Card:
    """The card in `data`; raises Refused when it is none."""
    try:
        _check_format(_HEADER.validate_json(data).format)
        return _CARD.validate_json(data)
    except ValidationError as error:
        raise refused("card", f"{CARD_FILE} is not a card ({error.error_count()} problems)") from error


def _check_format(found: int) -> None:
    if found != CARD_FORMAT:
        raise refused("card", f"{CARD_FILE} has format {found}, this release reads {CARD_FORMAT}")


def open_artifact(artifact: Artifact, load_estimator: Callable[[bytes], Any], expected: Expected) -> ServedModel:
    """The artifact as a model that may answer; raises Refused (with a reason) when anything is not as promised.

    `load_estimator` turns the bytes of `model.skops` into an estimator. It is called only once digest and card
    are right.
    """
    if digest_of(artifact.files) != artifact.digest:
        raise refused("digest", "its files are not those that were registered (digest differs)")
    card = parse_card(artifact.files[CARD_FILE])
    check_expectations(card, expected)
    estimator = load_estimator(artifact.files[MODEL_FILE])
    predict = _checked_predictor(estimator, card.golden)
    return ServedModel(
        version=artifact.version,
        digest=artifact.digest,
        feature_service=card.feature_service,
        features=card.features,
        horizon_days=card.horizon_days,
        predict=predict,
        contact=card.contact,
        explain=_checked_explainer(estimator, predict, card.golden),
        size_bytes=sum(len(artifact.files[name]) for name in SERVED_FILES),
        newest_label=card.newest_label,
    )


def check_expectations(card: Card, expected: Expected) -> None:
    """Raises Refused when the model was made for other features, another feature service or other code."""
    if card.feature_service != expected.feature_service:
        raise refused(
            "feature_service", f"it needs feature service {card.feature_service}, not {expected.feature_service}"
        )
    if card.features != expected.features:
        raise refused("features", "its features are not those of the feature service, in that order")
    if card.sklearn_version != expected.sklearn_version:
        raise refused(
            "sklearn_version",
            f"it was trained with scikit-learn {card.sklearn_version}, not {expected.sklearn_version}",
        )


def _checked_predictor(estimator: Any, golden: Golden) -> Predict:
    # Whatever a strange estimator raises on its golden rows, it must not serve: so every exception is a refusal.
    try:
        predict, reference = forest_predictor(estimator), reference_predictor(estimator)
        vectors = np.array(golden.vectors, dtype=np.float64)
        together, wanted = predict(vectors), reference(vectors)
        alone = np.concatenate([predict(vectors[row : row + 1]) for row in range(len(vectors))])
    except Exception as error:
        raise refused("golden", f"it fails on its golden rows ({type(error).__name__})") from error
    for found in (together, alone):
        _check_golden(found, wanted, np.array(golden.probabilities))
    return predict


def _check_golden(found: NDArray[np.float64], wanted: NDArray[np.float64], promised: NDArray[np.float64]) -> None:
    if len(promised) == 0 or found.shape != promised.shape:
        raise refused("golden", f"{len(promised)} golden rows give an answer of shape {found.shape}")
    if not (np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()):
        raise refused("golden", "a golden row's probability is outside [0, 1]")
    for name, other in (("scikit-learn's", wanted), ("the training's", promised)):
        if not (np.abs(found - other) <= TOLERANCE).all():
            raise refused("golden", f"a golden row's probability is not {name} within {TOLERANCE:g}")


def _checked_explainer(estimator: Any, predict: Predict, golden: Golden) -> Explainer:
    """Its contributions add up on the golden rows."""
    vectors = np.array(golden.vectors, dtype=np.float64)
    try:
        explain = Explainer(forest_members(estimator))
        found = explain(vectors)
    except Exception as error:  # as above
        raise refused("golden", f"its golden rows cannot be explained ({type(error).__name__})") from error
    sums = found.base_margin + found.features.sum(axis=1)
    if not (np.abs(sums - margins(predict(vectors))) <= TOLERANCE).all():
        raise refused("golden", f"a golden row's reasons do not add up to its log-odds within {TOLERANCE:g}")
    return explain
