"""How often the verdict is right: challengers of known true quality under the committed policy.

A trial is a sample of a shop's users with outcomes drawn anew. The shipped forest is fitted on it and set against other
models whose expected log loss is known as well; each pair is judged in both roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binomtest

from benchmarks.graded_figures import Figure, Goal
from benchmarks.graded_shops import HORIZON, TRAINED, KnownRows, KnownShop, expected_log_loss
from churn.core.baselines import logistic_regression
from churn.core.evaluation import CLIP
from churn.core.model import ForestParameters, fit, probabilities
from churn.core.policy import parse_policy
from churn.core.promotion import Evidence, judge
from churn.core.value import Economics
from churn.domain.schema import SEED_FEATURES

Array = NDArray[np.float64]
POLICY = Path(__file__).resolve().parents[1] / "policy.yaml"
FIT_ON = (TRAINED[3], TRAINED[-1])  # horizons that do not overlap, so that outcomes may be drawn anew at both
GAPS = (0.01, 0.003)  # of expected log loss: what a team would notice, and less than the policy's margin of .005
PREDECESSOR = "logistic regression on eleven features"
MONEY = Economics(cost=1.0, margin=10.0)  # the settings' defaults
MOST_NOISE = 20.0
BETTER, WORSE, EQUAL = "truly better", "truly worse", "equal"
GOALS = {BETTER: Goal("at least", 0.9), WORSE: Goal("at most", 0.01)}


@dataclass(frozen=True)
class Trial:
    """Training rows of two cutoffs and test rows of another one, of the same users."""

    seed: int
    train: KnownRows
    test: KnownRows


@dataclass(frozen=True)
class Match:
    """A challenger against a champion. `kind`: how the worse of the two was made."""

    kind: str
    role: str
    challenger: Array
    champion: Array


@dataclass(frozen=True)
class Judged:
    """What came of a match: whether it was promoted, and the champion's true loss less the challenger's."""

    kind: str
    role: str
    promoted: bool
    gain: float
    n: int


def draw_trial(shop: KnownShop, rows: int, seed: int) -> Trial:
    """A sample of the shop's users that has about `rows` test rows, every outcome drawn anew."""
    rng = np.random.default_rng(seed)
    users = np.unique(np.concatenate([shop.train.rows.user_id, shop.test.rows.user_id]).astype(np.int64))
    kept = users[rng.random(len(users)) < rows / len(shop.test)]
    fit_on = np.isin(shop.train.rows.cutoff, [np.datetime64(each.replace(tzinfo=None), "us") for each in FIT_ON])
    parts = (shop.train.where(fit_on & _of(shop.train, kept)), shop.test.where(_of(shop.test, kept)))
    train, test = (part.with_new_outcomes(rng) for part in parts)
    return Trial(seed, train, test)


def _of(known: KnownRows, users: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.isin(known.rows.user_id.astype(np.int64), users)


def worsened(probability: Array, attainable: Array, gap: float, rng: np.random.Generator) -> Array:
    """The probability with noise in its log-odds, as much as makes its expected log loss worse by exactly `gap`."""
    odds = logit(np.clip(probability, CLIP, 1 - CLIP))
    noise = rng.standard_normal(len(odds))
    best = expected_log_loss(attainable, probability)

    def short(scale: float) -> float:
        return expected_log_loss(attainable, expit(odds + scale * noise)) - best - gap

    answer: Array = expit(odds + brentq(short, 0.0, MOST_NOISE, xtol=1e-10) * noise)
    return answer


def matches(trial: Trial) -> Iterator[Match]:
    """The pairs of a trial in both roles, and two models that are equally good and differ."""
    rng, attainable = np.random.default_rng((trial.seed, 1)), trial.test.attainable
    shipped = probabilities(fit(trial.train.rows, ForestParameters(), HORIZON).estimator, trial.test.rows.X)
    others = {f"noise worth {gap:g}": worsened(shipped, attainable, gap, rng) for gap in GAPS}
    others[PREDECESSOR] = _predecessor(trial)
    for kind, other in others.items():
        better, worse = sorted((shipped, other), key=lambda each: expected_log_loss(attainable, each))
        yield Match(kind, BETTER, better, worse)
        yield Match(kind, WORSE, worse, better)
    kind, first = next(iter(others.items()))
    yield Match(kind, EQUAL, worsened(shipped, attainable, GAPS[0], rng), first)


def _predecessor(trial: Trial) -> Array:
    """What a first version of such a project would be: its plain features, without the rhythm."""
    train, test = (part.rows.X[:, : len(SEED_FEATURES)] for part in (trial.train, trial.test))
    answer: Array = logistic_regression().fit(train, trial.train.rows.y).predict_proba(test)[:, 1]
    return answer


def judged(trial: Trial) -> list[Judged]:
    """Every match of a trial, judged as `churn promote` does."""
    policy = parse_policy(POLICY.read_text())
    found = []
    for match in matches(trial):
        evidence = Evidence(
            trial.test.rows, match.challenger, match.champion, latency_ms=1.0, size_bytes=1_000_000, money=MONEY
        )
        verdict = judge("2", "1", evidence, policy)
        loss = {name: expected_log_loss(trial.test.attainable, each) for name, each in _sides(match).items()}
        gain = loss["champion"] - loss["challenger"]
        found.append(Judged(match.kind, match.role, verdict.passed, gain, len(trial.test)))
    return found


def _sides(match: Match) -> Mapping[str, Array]:
    return {"challenger": match.challenger, "champion": match.champion}


def verdict_figures(
    shops: Sequence[KnownShop], trials: int, rows: int, pool: ProcessPoolExecutor, done: Callable[[], None]
) -> list[Figure]:
    """The share of promotions per kind and role; trial number t takes the shops in turn and has seed t."""
    drawn = (draw_trial(shops[seed % len(shops)], rows, seed) for seed in range(trials))
    found: list[Judged] = []
    for each in pool.map(judged, drawn):
        found += each
        done()
    return promotion_figures(found)


def promotion_figures(found: Sequence[Judged]) -> list[Figure]:
    """One figure per kind and role, in the order of first appearance, those of a role together."""
    kinds = list(dict.fromkeys((each.role, each.kind) for each in found))
    ordered = sorted(kinds, key=lambda key: (BETTER, WORSE, EQUAL).index(key[0]))
    return [_promotions([each for each in found if (each.role, each.kind) == key]) for key in ordered]


def _promotions(found: Sequence[Judged]) -> Figure:
    promoted, first = sum(each.promoted for each in found), found[0]
    ends = binomtest(promoted, len(found)).proportion_ci()
    gains = [each.gain for each in found]
    return Figure(
        f"promoted: {first.role}, {first.kind}",
        promoted / len(found),
        _goal(first),
        trials=len(found),
        seed=0,
        n=round(float(np.mean([each.n for each in found]))),
        note=f"{promoted} of {len(found)}, 95 % interval {ends.low:.3f} to {ends.high:.3f};"
        f" true gain in log loss {np.mean(gains):+.4f} ({min(gains):+.4f} to {max(gains):+.4f})",
    )


def _goal(judged: Judged) -> Goal | None:
    """The smaller gap is told, not graded, in the role of the better: it shows how the verdict's power falls."""
    told_only = judged.role == BETTER and judged.kind == f"noise worth {GAPS[-1]:g}"
    return None if told_only else GOALS.get(judged.role)
