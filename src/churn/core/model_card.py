"""The model card of a training, under the headings of Mitchell et al. 2019, "Model Cards for Model Reporting".

Every statement is made of the run's figures: a baseline counts as behind or ahead only where the interval of the
difference leaves zero out, and what was not measured is told as such.
"""

from __future__ import annotations

from collections.abc import Sequence

from churn.core.bootstrap import Resampling
from churn.core.card_analyses import AS_FAR, analyses, in_the_large, losses, retrain, shipped
from churn.core.card_facts import CardFacts, CutoffRows
from churn.core.card_words import NO_VALUE, NOT_MEASURED, around, in_words, listed, plain, side_of, signed, span
from churn.core.plots import SHIPPED
from churn.core.sections import Bullets, Report, Section, Table
from churn.core.slices import SLICE_DRAWS, Enough, Slice
from churn.domain.schema import FEATURES

MARKDOWN_FILE, PAGE_FILE = "card/model_card.md", "card/model_card.html"
PLOTS_FROM_CARD = "../plots"  # where the run keeps its pictures, seen from MARKDOWN_FILE
BASELINES = {
    "recency": "logistic regression on the days since the last activity alone",
    "logistic_seed": "logistic regression on the 11 plain features",
    "logistic_rich": "logistic regression on all features",
    "hist_gradient_boosting": "gradient boosting on all features",
    "bg_nbd": "BG/NBD on the rhythm of active days, its probability of no activity in the horizon",
}
BETWEEN = "Rows that did neither are the gap: their horizons reach beyond the cutoff that calibrates."
RISK = {1: "raise the risk only", -1: "lower the risk only", 0: "do either"}


def model_card(facts: CardFacts) -> Report:
    """The whole card. Its pictures are those of the run: reliability, lift, slices, reason_codes, profit, staleness."""
    return Report(
        over="Churn model card",
        title=f"Silence within {facts.lineage.horizon_days} days",
        sentence=_answer(facts),
        facts=_on_top(facts),
        sections=(
            _details(facts),
            _intended(facts),
            _factors(),
            _metrics(facts),
            _evaluation_data(facts),
            _training_data(facts),
            *analyses(facts),
            _ethics(),
            _caveats(facts),
            _lineage(facts),
            _features(),
        ),
    )


def summary(facts: CardFacts) -> str:
    """A few sentences for the version's description in the registry, and where the card is."""
    ours, lost = facts.comparison[SHIPPED], losses(facts)
    days = ", ".join(facts.by_cutoff)
    told = f"Behind {'; '.join(lost)}." if lost else f"Behind no baseline, {AS_FAR}."
    return (
        f"{_answer(facts)} ROC-AUC {around(shipped(facts, 'auc_score'))}, expected calibration error"
        f" {plain(ours['ece'])}, on {ours['n']:,.0f} test rows ({days}). {told} {retrain(facts)}"
        f" The whole card: {PAGE_FILE} among the artifacts of the run."
    )


def _answer(facts: CardFacts) -> str:
    return (
        f"The probability that an eligible user has neither order nor session in the {facts.lineage.horizon_days} days"
        " from a cutoff on."
    )


def _on_top(facts: CardFacts) -> tuple[tuple[str, str], ...]:
    cutoffs, ours = facts.data.cutoffs, facts.comparison[SHIPPED]
    return (
        ("Trained on", f"{sum(each.rows for each in cutoffs):,} rows, {span([each.day for each in cutoffs])}"),
        ("Tested on", f"{ours['n']:,.0f} rows, {span(list(facts.by_cutoff))}"),
        ("Churn rate there", f"{ours['base_rate']:.1%}"),
        ("ROC-AUC", around(shipped(facts, "auc_score"))),
        ("Calibration error", plain(ours["ece"])),
        ("Behind", _behind_whom(facts)),
    )


def _behind_whom(facts: CardFacts) -> str:
    return ", ".join(dict.fromkeys(each.split(" on ")[0] for each in losses(facts))) or "no baseline"


# -- what it is, and for whom ------------------------------------------------------------------------------------------


def _details(facts: CardFacts) -> Section:
    lineage, data = facts.lineage, facts.data
    grown, calibrated = (sum(getattr(each, part) for each in data.cutoffs) for part in ("forest", "calibration"))
    directed = sum(feature.risk != 0 for feature in FEATURES)
    return Section(
        "Model details",
        (
            Table(
                (),
                (
                    ("Kind", f"random forest, {lineage.parameters['n_estimators']} trees, grown on {grown:,} rows"),
                    (
                        "Calibration",
                        f"{lineage.parameters['calibration']}, on {calibrated:,} other rows ({data.calibrated_on})",
                    ),
                    ("Parameters", listed(lineage.parameters)),
                    ("Features", f"{len(FEATURES)}, by feature service {lineage.feature_service}"),
                    ("Directions", f"{directed} features may move the risk one way only; the last table says which"),
                    ("Code", lineage.commit or "an installed package, whose commit is not known"),
                ),
            ),
        ),
    )


def _intended(facts: CardFacts) -> Section:
    days = facts.lineage.horizon_days
    return Section(
        "Intended use",
        (
            Bullets(
                (
                    f"To rank and to contact users who are active now and may go silent within {days} days, and to"
                    " expect how many will.",
                    "By teams that own the log the model was trained on, for users of that same shop.",
                )
            ),
            "Not for:",
            Bullets(
                (
                    f"users without order or session in the {days} days before: they are silent already, and the model"
                    " has never seen any;",
                    f"another horizon than {days} days, or another shop;",
                    "who is won back by a contact: the model says who goes silent when nothing is changed, not whom a"
                    " contact would keep;",
                    "decisions on credit, employment, housing or anything else that reaches beyond offers and contact.",
                )
            ),
        ),
    )


def _factors() -> Section:
    enough = Enough()
    return Section(
        "Factors",
        (
            "The test rows are cut by tenure, by number of orders, into users signed up less than 30 days before, into"
            " users with many nulls (at most one active day), and by subscription tier.",
            "The tier is the one that users have today: it cuts reports and is no feature.",
            f"A slice is judged from {enough.rows} rows and {enough.of_each_outcome} of each outcome on; smaller ones"
            " are named, not judged.",
        ),
    )


def _metrics(facts: CardFacts) -> Section:
    draws, share = Resampling().replicates, facts.intervals["confidence"]
    absent = f"{NOT_MEASURED}, as it could not be fitted to these rows"
    rivals = tuple(f"{name}: {told if name in facts.comparison else absent}" for name, told in BASELINES.items())
    return Section(
        "Metrics",
        (
            Bullets(
                (
                    "ROC-AUC and PR-AUC: how well users are ranked; higher is better.",
                    "Log loss and Brier score: how good probabilities are; lower is better. Brier = reliability -"
                    " resolution + uncertainty.",
                    "Calibration error: mean distance of churn rate and probability over tenths of the rows. In the"
                    " large: mean probability less churn rate. Slope 1 and intercept 0 are right; a slope below 1 says"
                    " that probabilities are too extreme.",
                    "Lift at 10 %: churn rate of the tenth with the highest probabilities over that of all.",
                    f"Brackets hold {share:.0%} intervals by user: users are drawn again with all of their rows,"
                    f" {draws:,} times ({SLICE_DRAWS:,} for slices), the same for every model. About {1 - share:.0%} of"
                    " such intervals miss by chance.",
                )
            ),
            "Baselines, fitted on the same training rows:",
            Bullets(rivals),
        ),
    )


# -- data --------------------------------------------------------------------------------------------------------------


def _evaluation_data(facts: CardFacts) -> Section:
    rows = tuple((day, f"{told['n']:,.0f}", f"{told['base_rate']:.1%}") for day, told in facts.by_cutoff.items())
    return Section(
        "Evaluation data",
        (
            "All eligible users at the newest cutoffs whose outcome is known, later than every training horizon's end.",
            Table(("Test cutoff", "Rows", "Churn rate"), rows),
        ),
    )


def _training_data(facts: CardFacts) -> Section:
    data, days = facts.data, facts.lineage.horizon_days
    dropped = ", ".join(data.dropped)
    return Section(
        "Training data",
        (
            f"One row per eligible user and cutoff: order or session in the {days} days before it. At the newest"
            f" training cutoff {data.eligible:,} of {data.known:,} known users are eligible.",
            "Features know events before the cutoff only; the label is made of those in the horizon from it on.",
            Table(
                ("Training cutoff", "Rows", "Churn rate", "Grew the forest", "Calibrated"),
                tuple(map(_cutoff_row, data.cutoffs)),
            ),
            *((BETWEEN,) if any(each.forest + each.calibration < each.rows for each in data.cutoffs) else ()),
            *((f"Not used, as their horizons reach into the test's: {dropped}.",) if dropped else ()),
        ),
    )


def _cutoff_row(told: CutoffRows) -> tuple[str, ...]:
    return told.day, f"{told.rows:,}", f"{told.churn_rate:.1%}", f"{told.forest:,}", f"{told.calibration:,}"


# -- what to mind ------------------------------------------------------------------------------------------------------


def _ethics() -> Section:
    return Section(
        "Ethical considerations",
        (
            Bullets(
                (
                    "A user is an opaque id. Names, addresses and the like stay in the raw tables; none is a feature.",
                    "Features are counts, sums and times of a user's own orders and sessions. No attribute of the"
                    " person is among them, though behaviour may stand in for one: the slices above are where to look.",
                    "Who is contacted because of a probability is no longer the user that the label was about: keep"
                    " some users out of every campaign, or the next training learns from its own deeds.",
                )
            ),
        ),
    )


def _caveats(facts: CardFacts) -> Section:
    data, days = facts.data, facts.lineage.horizon_days
    churned = facts.comparison[SHIPPED]["base_rate"]
    lines = (
        *(f"Behind {each}." for each in losses(facts)),
        *(() if side_of(shipped(facts, "calibration_in_the_large")) == 0 else (in_the_large(facts),)),
        *_slices_off(facts.slices.slices),
        f"Calibrated where {data.calibration_churn_rate:.1%} churned ({data.calibrated_on}); {churned:.1%} did on the"
        " test rows. Where the churn rate moves for reasons that no feature shows, probabilities do not follow.",
        *_few_cutoffs(facts),
        f"Valid for eligible users only, and for {days} days.",
        retrain(facts),
    )
    return Section("Caveats and recommendations", (Bullets(lines),))


def _few_cutoffs(facts: CardFacts) -> tuple[str, ...]:
    if len(facts.by_cutoff) > 1:
        return ()
    return ("Tested at one cutoff only: how much quality varies from month to month is not measured here.",)


def _slices_off(slices: Sequence[Slice]) -> tuple[str, ...]:
    """Slices whose churn rate the probabilities miss, by the interval."""
    found = [(each, each.figures["calibration_in_the_large"]) for each in slices if not each.too_small]
    sides = {1: "too high", -1: "too low"}
    return tuple(
        f"Probabilities are {told} for {in_words(each.name)}: mean probability less churn rate {signed(apart)}."
        for side, told in sides.items()
        for each, apart in found
        if side_of(apart) == side
    )


def _lineage(facts: CardFacts) -> Section:
    lineage = facts.lineage
    tables = tuple((f"Raw table {name}, SHA-256", digest) for name, digest in lineage.snapshot_sha256.items())
    return Section(
        "Lineage",
        (
            "The version that this card belongs to carries the same facts as the tag churn.lineage, with the digests of"
            " each cutoff's features and labels: “churn lineage” prints them, “churn rebuild” makes the version again.",
            Table(
                (),
                (
                    ("Raw snapshot", lineage.snapshot_id),
                    *tables,
                    ("Feature service", lineage.feature_service),
                    ("dbt definitions, SHA-256", lineage.dbt_sha256),
                    ("Feature definitions, SHA-256", lineage.feast_sha256 or NO_VALUE),
                    ("Training set, SHA-256", lineage.data_sha256 or NO_VALUE),
                    ("Commit", lineage.commit or NO_VALUE),
                    ("Lock file, SHA-256", lineage.lock_sha256 or NO_VALUE),
                    ("Packages", listed(lineage.packages, " ") or NO_VALUE),
                ),
            ),
        ),
    )


def _features() -> Section:
    rows = tuple((each.name, each.meaning, each.null_means or "never", RISK[each.risk]) for each in FEATURES)
    return Section("Features", (Table(("Feature", "Meaning", "Null when", "A larger value may"), rows),))
