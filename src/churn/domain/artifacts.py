"""A model version's files on this machine: what they are called, who points at them, how staging them went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from churn.domain.versions import CARD_FILE, MODEL_FILE
from churn.errors import Refused

SERVED_FILES = (MODEL_FILE, CARD_FILE)

# All that a model file may be made of: skops's kinds of node, and the types each may build. It is ours, never the
# artifact's: an artifact that could extend it would be code. It is also narrower than skops's own list, which holds
# every public estimator of scikit-learn, some with trees that nobody checks. To change it: print `nodes_of` (tests/
# models.py) for a model that the training made, read the source of every new type, and add it here.
MODEL_NODES: Mapping[str, frozenset[str]] = {
    "JsonNode": frozenset({"builtins.str"}),
    "TypeNode": frozenset({"builtins.str"}),
    "DictNode": frozenset({"builtins.dict"}),
    "ListNode": frozenset({"builtins.list"}),
    "TupleNode": frozenset({"builtins.tuple"}),
    "NdArrayNode": frozenset({"numpy.ndarray", "numpy.float64", "numpy.int64"}),
    "ObjectNode": frozenset(
        {
            "sklearn.calibration.CalibratedClassifierCV",
            "sklearn.calibration._CalibratedClassifier",
            "sklearn.calibration._SigmoidCalibration",
            "sklearn.calibration._TemperatureScaling",
            "sklearn.ensemble._forest.RandomForestClassifier",
            "sklearn.frozen._frozen.FrozenEstimator",
            "sklearn.isotonic.IsotonicRegression",
            "sklearn.tree._classes.DecisionTreeClassifier",
        }
    ),
    "TreeNode": frozenset({"sklearn.tree._tree.Tree"}),
}

# What skops has to be told, since its own list lacks some of them.
TRUSTED_TYPES = tuple(sorted(MODEL_NODES["ObjectNode"] | MODEL_NODES["TreeNode"]))


def refused(reason: str, found: str) -> Refused:
    """A refusal of a version's files; `facts["reason"]` is a short word for metrics."""
    return Refused(
        f"the model artifact is refused: {found}",
        hint="The model in service stays. Train and promote again, or move the alias back.",
        facts={"reason": reason},
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
