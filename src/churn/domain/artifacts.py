"""A model version's files on this machine: what they are called, who points at them, how staging them went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from churn.domain.versions import CARD_FILE, MODEL_FILE

SERVED_FILES = (MODEL_FILE, CARD_FILE)

# What skops may build besides its own list of scikit-learn's public types. It is ours, never the artifact's: an
# artifact that could extend it would be code. To change it: print `skops.io.get_untrusted_types` of a model the
# training made, read the source of every new type, and add it here; tests/stores/test_model_cache.py compares.
TRUSTED_TYPES = (
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.tree._tree.Tree",
)


@dataclass(frozen=True)
class Artifact:
    """The served files of a version, and the digest the registry promised for them."""

    version: str
    digest: str
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Pointer:
    """A staged version: the folder that holds it, and the one it replaced.

    `held` is the key of a version that was rolled back from here: it is not pointed at again before another one was.
    """

    version: str
    digest: str
    folder: str
    staged_at: datetime
    previous: Pointer | None = None
    held: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What tells two staged versions apart: a version's files may differ between registries."""
        return self.version, self.digest

    def alone(self) -> Pointer:
        """The same without its history."""
        return replace(self, previous=None, held=None)


@dataclass(frozen=True)
class Refusal:
    """A version that carries the alias and must not serve: a short word for metrics, and a sentence."""

    version: str
    reason: str
    found: str


@dataclass(frozen=True)
class StagingStatus:
    """What the side process last knew: the champion it saw, and how its looks at the registry went.

    `refused` stands as long as the alias points at a version that must not serve; `held_version` as long as it points
    at one that was rolled back from here.
    """

    last_look_at: datetime
    last_success_at: datetime | None = None
    champion_version: str | None = None
    last_failure_at: datetime | None = None
    last_failure_reason: str | None = None
    failures: int = 0
    failing: bool = False
    refused: Refusal | None = None
    held_version: str | None = None
