"""The model card: every statement from a figure, the same in both forms, and nothing that it shows is markup."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from churn.core.bootstrap import Interval
from churn.core.card_facts import CardFacts, CutoffRows, TrainingData, training_data
from churn.core.evaluation import metrics
from churn.core.model_card import model_card, summary
from churn.core.sections import Bullets, Picture, Report, Section, Table, as_html, as_markdown
from churn.core.slices import Fairness, Slice, SliceReport
from churn.core.staleness import Aged, Staleness
from churn.core.training_set import Rows, SplitRows
from churn.core.value import NOBODY, ContactPlan, Economics
from churn.domain.schema import FEATURE_NAMES, FEATURES
from churn.domain.versions import Lineage
from churn.domain.windows import Split
from tests.exports import HORIZON, at

Y = np.array([0, 0, 0, 1])
OURS, THEIRS = metrics(Y, np.array([0.1, 0.2, 0.6, 0.5])), metrics(Y, np.array([0.1, 0.2, 0.3, 0.6]))
LINEAGE = Lineage(
    snapshot_id="snapshot-1",
    snapshot_sha256={"orders": "a" * 64},
    feature_service="churn_v1",
    feature_sha256={},
    dbt_sha256="d" * 64,
    train_cutoffs=(),
    test_cutoffs=(),
    horizon_days=60,
    parameters={"n_estimators": 8, "calibration": "temperature"},
    commit="",
    lock_sha256="",
    packages={"numpy": "2.4.6"},
)
DATA = TrainingData(
    cutoffs=(CutoffRows("2011-01-01", 1200, 0.25, 1200, 0), CutoffRows("2011-03-15", 800, 0.3, 0, 800)),
    dropped=(),
    eligible=800,
    known=1100,
    calibrated_on="newest training cutoff",
    calibration_churn_rate=0.3,
)
SMALL = Slice("newest_users", 12, 0.5)
TOO_HIGH = Slice(
    "tenure.under_90_days",
    150,
    0.4,
    {
        "auc_score": Interval(0.7, 0.6, 0.8),
        "brier": Interval(0.2, 0.1, 0.3),
        "calibration_in_the_large": Interval(0.05, 0.01, 0.09),
    },
)
AGES = (
    Aged(0.0, "2011-03-15", 2000, 0.8, 0.4, 0.13, 0.0, 0.0),
    Aged(10.7, "2011-01-01", 1200, 0.79, 0.41, 0.14, 0.01, 0.002),
)


def told(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


def same_for_all(found: dict[str, float]) -> dict[str, dict[str, float]]:
    return dict.fromkeys(("auc_score", "pr_auc", "log_loss", "brier", "calibration_in_the_large"), found)


LESS = {
    "auc_score": told(-0.0128, -0.0189, -0.0055),  # behind: higher is better
    "pr_auc": told(0.01, -0.01, 0.03),
    "log_loss": told(-0.02, -0.03, -0.01),  # ahead: lower is better
    "brier": told(0.004, 0.001, 0.007),  # behind
}
FACTS = CardFacts(
    lineage=LINEAGE,
    data=DATA,
    comparison={"shipped": OURS, "recency": THEIRS},
    by_cutoff={"2011-06-01": OURS},
    intervals={"confidence": 0.95, "shipped": same_for_all(told(0.8, 0.75, 0.85)), "less": {"recency": LESS}},
    slices=SliceReport((TOO_HIGH, SMALL)),
    plan=ContactPlan(Economics(1.0, 10.0), 0.125, 1.5, 1.25),
    contacted=0.4,
    staleness=Staleness(AGES, 5, "log loss rises by more than 0.005 from an age of 5.3 weeks on"),
)
PICTURES = dict.fromkeys(("lift", "reliability", "slices", "reason_codes", "profit", "staleness"), b"png")


def markdown(**changes: Any) -> str:
    """The card of these facts with some changed, no-break spaces as plain ones."""
    return as_markdown(model_card(replace(FACTS, **changes)), "../plots").replace("\u00a0", " ")


def section(title: str, **changes: Any) -> str:
    """What stands below one heading, empty lines left out."""
    found = markdown(**changes).split(f"## {title}\n")[1].split("\n## ")[0]
    return "\n".join(filter(None, found.splitlines()))


# -- what it says ------------------------------------------------------------------------------------------------------


def test_the_headings_are_those_of_model_cards_for_model_reporting_and_the_lineage() -> None:
    titles = re.findall(r"^## (.*)$", markdown(), re.MULTILINE)
    assert [title for title in titles if not title.startswith("Quantitative")] == [
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Ethical considerations",
        "Caveats and recommendations",
        "Lineage",
        "Features",
    ]
    assert titles[6] == "Quantitative analyses: quality beside baselines"


def test_the_data_stand_by_cutoff() -> None:
    assert section("Evaluation data").splitlines()[1:] == [
        "| Test cutoff | Rows | Churn rate |",
        "| --- | --- | --- |",
        "| 2011-06-01 | 4 | 25.0% |",
    ]
    assert section("Training data").splitlines() == [
        "One row per eligible user and cutoff: order or session in the 60 days before it. At the newest training cutoff"
        " 800 of 1,100 known users are eligible.",
        "Features know events before the cutoff only; the label is made of those in the horizon from it on.",
        "| Training cutoff | Rows | Churn rate | Grew the forest | Calibrated |",
        "| --- | --- | --- | --- | --- |",
        "| 2011-01-01 | 1,200 | 25.0% | 1,200 | 0 |",
        "| 2011-03-15 | 800 | 30.0% | 0 | 800 |",
    ]


def test_cutoffs_that_were_not_used_are_named() -> None:
    gap = replace(DATA, cutoffs=(replace(DATA.cutoffs[0], forest=0), DATA.cutoffs[1]), dropped=("2011-05-01",))
    assert section("Training data", data=gap).splitlines()[-2:] == [
        "Rows that did neither are the gap: their horizons reach beyond the cutoff that calibrates.",
        "Not used, as their horizons reach into the test's: 2011-05-01.",
    ]


def test_a_loss_to_a_baseline_is_told_wherever_quality_is_told() -> None:
    lost = "recency on ROC-AUC by 0.0128 [0.0055, 0.0189]"
    quality = section("Quantitative analyses: quality beside baselines")
    assert f"The model is behind {lost}; recency on Brier by 0.0040 [0.0010, 0.0070]." in quality
    assert (
        "| recency | behind by 0.0128 [0.0055, 0.0189] | not told apart: +0.0100 [-0.0100, +0.0300]"
        " | ahead by 0.0200 [0.0100, 0.0300] | behind by 0.0040 [0.0010, 0.0070] |"
    ) in quality
    assert f"- Behind {lost}." in section("Caveats and recommendations")
    assert "| Behind | recency |" in markdown()
    assert f"Behind {lost}; recency on Brier" in summary(FACTS).replace("\u00a0", " ")


def test_without_a_loss_it_says_so_and_no_more_than_the_intervals_can_tell() -> None:
    intervals = {**FACTS.intervals, "less": {"recency": same_for_all(told(0.0, -0.1, 0.1))}}
    quality = section("Quantitative analyses: quality beside baselines", intervals=intervals)
    assert "The model is behind no baseline, as far as the intervals of the differences can tell." in quality
    assert "ahead" not in quality
    assert "- Behind" not in section("Caveats and recommendations", intervals=intervals)
    assert "| Behind | no baseline |" in markdown(intervals=intervals)


def test_a_difference_without_an_interval_is_not_measured() -> None:
    intervals = {**FACTS.intervals, "less": {"recency": same_for_all(told(0.1, np.nan, np.nan))}}
    quality = section("Quantitative analyses: quality beside baselines", intervals=intervals)
    assert "| recency | not measured | not measured | not measured | not measured |" in quality


def test_baselines_that_could_not_be_fitted_are_named() -> None:
    metrics_told = section("Metrics").splitlines()
    assert "- recency: logistic regression on the days since the last activity alone" in metrics_told
    assert "- bg_nbd: not measured, as it could not be fitted to these rows" in metrics_told


@pytest.mark.parametrize(
    ("apart", "sentence"),
    [
        (told(0.02, 0.01, 0.03), "The mean probability lies above the churn rate by 0.0200 [0.0100, 0.0300]."),
        (told(-0.02, -0.03, -0.01), "The mean probability lies below the churn rate by 0.0200 [0.0100, 0.0300]."),
        (told(0.0, -0.01, 0.02), "Mean probability and churn rate are not told apart: +0.0000 [-0.0100, +0.0200]."),
        (told(0.0, np.nan, np.nan), "Mean probability against churn rate: not measured."),
    ],
    ids=["above", "below", "not told apart", "not measured"],
)
def test_calibration_in_the_large_is_judged_by_its_interval(apart: dict[str, float], sentence: str) -> None:
    shipped = {**FACTS.intervals["shipped"], "calibration_in_the_large": apart}
    intervals = {**FACTS.intervals, "shipped": shipped}
    assert section("Quantitative analyses: calibration", intervals=intervals).startswith(sentence)
    inside = apart["low"] <= 0 <= apart["high"]
    assert (sentence in section("Caveats and recommendations", intervals=intervals)) is not inside


def test_figures_by_cutoff_hold_the_parts_of_the_brier_score() -> None:
    lines = section("Quantitative analyses: calibration").splitlines()
    assert lines[1].startswith("| Test cutoff | ROC-AUC | Brier | = reliability | - resolution | + uncertainty |")
    # ROC-AUC 2/3; Brier (.01 + .04 + .36 + .25) / 4; uncertainty .25 * .75; four groups of one row: all reliability.
    assert lines[3].startswith("| 2011-06-01 | 0.6667 | 0.1650 | 0.1650 | 0.1875 | 0.1875 | 0.3500 | 0.1000 |")


def test_two_test_cutoffs_have_a_line_for_all_rows_and_no_caveat_of_one() -> None:
    both = {"2011-05-01": OURS, "2011-06-01": OURS}
    assert "\n| all | 0.6667 |" in section("Quantitative analyses: calibration", by_cutoff=both)
    once = "- Tested at one cutoff only"
    assert once in section("Caveats and recommendations")
    assert once not in section("Caveats and recommendations", by_cutoff=both)


def test_slices_are_shown_the_small_ones_named_and_those_that_are_off_are_caveats() -> None:
    slices = section("Quantitative analyses: slices")
    assert (
        "| tenure: under 90 days | 150 | 40.0% | 0.7000 [0.6000, 0.8000] | 0.2000 [0.1000, 0.3000]"
        " | +0.0500 [+0.0100, +0.0900] |"
    ) in slices
    assert "Too small to be judged: newest users (12 rows)." in slices
    off = "Probabilities are too high for tenure: under 90 days: mean probability less churn rate +0.0500"
    assert off in section("Caveats and recommendations")


def test_what_was_not_measured_is_told_and_has_no_picture() -> None:
    nothing = replace(
        FACTS,
        slices=SliceReport((SMALL,)),
        staleness=Staleness((), None, "not measured: of 2 training cutoffs only the newest can be calibrated"),
    )
    report = model_card(nothing)
    text = as_markdown(report, "../plots")
    assert "Retraining interval: not measured: of 2 training cutoffs only the newest can be calibrated." in text
    assert "Figures of slices: not measured, as none is large enough." in text
    assert "Gaps between groups of users: not measured, as no column is named for it." in text
    assert set(report.pictures) == {"lift", "reliability", "reason_codes", "profit"}


def test_fairness_stands_by_group_with_its_gaps() -> None:
    groups = {"free": {"n": 200.0, "selection_rate": 0.5}, "pro": {"n": 100.0, "selection_rate": 0.2}}
    named = Fairness("subscription_tier", 0.7, groups, {"selection_rate": 0.3})
    found = section("Quantitative analyses: fairness", slices=SliceReport((), named))
    assert found.splitlines()[1:] == [
        "| Group | Rows | selection rate |",
        "| --- | --- | --- |",
        "| free | 200 | 0.5000 |",
        "| pro | 100 | 0.2000 |",
        "| largest gap |  | 0.3000 |",
    ]
    one = replace(named, groups={"free": groups["free"]}, gaps={})
    assert section("Quantitative analyses: fairness", slices=SliceReport((), one)) == (
        "Gaps between groups by subscription_tier: not measured, as fewer than two are large enough."
    )


def test_the_plan_of_contacts_is_told_with_its_money() -> None:
    value = section("Quantitative analyses: value of contacts")
    assert "| Cost of a contact, margin | 1, 10 |" in value
    assert "| Budget | no bound |" in value
    assert "| Contact | users with a probability of 0.125 or more |" in value
    nobody = ContactPlan(Economics(1.0, 0.0, 50.0), NOBODY, 0.0, 0.0)
    found = section("Quantitative analyses: value of contacts", plan=nobody)
    assert "| Contact | nobody |" in found
    assert "| Budget | 50 at each cutoff |" in found


def test_the_retraining_interval_stands_with_its_curve() -> None:
    found = section("Quantitative analyses: cost of staleness").splitlines()
    advice = "Train again every 5 weeks: log loss rises by more than 0.005 from an age of 5.3 weeks on."
    assert found[0] == advice
    assert found[4] == "| 10.7 | 2011-01-01 | 1,200 | 0.7900 | +0.0100 | 0.0020 |"
    assert f"- {advice}" in section("Caveats and recommendations")


def test_the_lineage_is_told_and_what_is_not_known_is_a_dash() -> None:
    lineage = section("Lineage")
    assert f"| Raw table orders, SHA-256 | {'a' * 64} |" in lineage
    assert "| Commit | – |" in lineage
    assert "| Packages | numpy 2.4.6 |" in lineage


def test_every_feature_is_listed_with_its_meaning_and_direction() -> None:
    lines = section("Features").splitlines()
    assert len(lines) == len(FEATURES) + 2
    assert "| total_sessions | sessions | never | lower the risk only |" in lines


def test_the_summary_has_the_figures_and_points_at_the_card() -> None:
    found = summary(FACTS).replace("\u00a0", " ")
    assert "ROC-AUC 0.8000 [0.7500, 0.8500], expected calibration error 0.3500, on 4 test rows (2011-06-01)." in found
    assert found.endswith("The whole card: card/model_card.html among the artifacts of the run.")


def test_the_training_data_are_counted_as_the_fit_divides_them() -> None:
    moments = np.repeat(np.array(["2011-01-01", "2011-02-15", "2011-03-15"], dtype="datetime64[us]"), 200)
    y = np.tile([0, 0, 0, 1], 150)
    train = Rows(np.zeros((600, len(FEATURE_NAMES))), y, moments, np.arange(600).astype(object))
    split = Split((at("2011-01-01"), at("2011-02-15"), at("2011-03-15")), (at("2011-06-01"),), (at("2011-05-01"),))
    found = training_data(SplitRows(train, train, split, np.zeros((300, 2))), HORIZON)
    assert [(each.day, each.forest, each.calibration) for each in found.cutoffs] == [
        ("2011-01-01", 200, 0),
        ("2011-02-15", 0, 0),
        ("2011-03-15", 0, 200),
    ]
    assert (found.eligible, found.known, found.dropped, found.calibration_churn_rate) == (
        200,
        300,
        ("2011-05-01",),
        0.25,
    )


# -- its two forms -----------------------------------------------------------------------------------------------------

TINY = Report(
    "over",
    "A title",
    "A sentence.",
    (("Rows", "4"),),
    (Section("First", ("Words.", Bullets(("one", "two")), Table(("a", "b"), (("1", "2"),)), Picture("lift", "Lift"))),),
)


def test_the_markdown_of_a_small_report() -> None:
    assert as_markdown(TINY, "../plots") == (
        "# A title\n\nA sentence.\n\n|  |  |\n| --- | --- |\n| Rows | 4 |\n\n## First\n\nWords.\n\n- one\n- two\n\n"
        "| a | b |\n| --- | --- |\n| 1 | 2 |\n\n![Lift](../plots/lift.png)\n"
    )


def test_the_page_of_a_small_report() -> None:
    html = as_html(TINY, {"lift": b"png"})
    assert "<h1>A title</h1><p class=sentence>A sentence.</p>" in html
    assert "<h2>First</h2><p>Words.</p><ul><li>one</li><li>two</li></ul>" in html
    assert "<thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><th>1</th><td>2</td></tr></tbody>" in html
    assert '<img src="data:image/png;base64,cG5n" alt="Lift">' in html


@pytest.mark.fault("S16")
def test_nothing_that_is_shown_is_markup() -> None:
    rude = '<script>alert(1)</script> | *bold* [a](https://x.example) _em_ `code` &lt; a_b "q"'
    slices = SliceReport((replace(TOO_HIGH, name=rude), replace(SMALL, name=rude)))
    report = model_card(replace(FACTS, slices=slices, lineage=replace(LINEAGE, commit=rude)))
    html = as_html(report, PICTURES)
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    text = as_markdown(report, "../plots")
    assert (
        r'| \<script>alert(1)\</script> \| \*bold\* [a\](https://x.example) \_em\_ \`code\` \&lt; a_b "q" |'
    ) in text


def test_the_page_opens_offline_and_runs_nothing() -> None:
    html = as_html(model_card(FACTS), PICTURES)
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\"" in html
    assert set(re.findall(r"(?:src|href)\s*=\s*\"([^,\"]*)", html)) == {"data:image/png;base64"}
    assert not re.search(r"https?:|url\(|<script| on\w+=", html)
