"""The verdict's page: says what the verdict says, escapes it, and asks for nothing from outside."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from churn.core.promotion import refusal
from churn.core.verdict_page import page
from churn.domain.verdicts import PromotionVerdict
from tests.unit.test_promotion import BETTER, DULL, PROBABILITY, judged

PASSED = judged(BETTER)
REFUSED = judged(replace(BETTER, challenger=DULL, champion=PROBABILITY))
FIRST = judged(replace(BETTER, champion=None))
FAILED = refusal("8", "7", "the comparison can be made", "version <script>alert(1)</script> & more")


@pytest.mark.parametrize(
    ("verdict", "word", "sentence"),
    [
        (PASSED, "Passed", "Version 8 may become champion in place of version 7."),
        (FIRST, "Passed", "Version 8 may become the first champion."),
        (REFUSED, "Refused", "Version 8 does not become champion. 4 rules are broken."),
        (replace(FAILED, reasons=(replace(FAILED.reasons[0], found="it is gone"),)), "Refused",
         "Version 8 does not become champion. Broken: “the comparison can be made” (it is gone)."),
    ],
    ids=["passed", "first", "refused", "failed"],
)  # fmt: skip
def test_the_answer_and_its_sentence_stand_on_top(verdict: PromotionVerdict, word: str, sentence: str) -> None:
    html = page(verdict)
    assert f"<h1>{word}</h1><p class=sentence>{sentence}</p>" in html
    assert f"<title>{word}: version 8</title>" in html


@pytest.mark.parametrize("verdict", [PASSED, REFUSED, FIRST], ids=["passed", "refused", "first"])
def test_every_rule_is_shown_and_the_broken_ones_first(verdict: PromotionVerdict) -> None:
    html = page(verdict)
    marks = re.findall(r"<span class=(ok|drift|told)>", html)
    assert len(marks) == len(verdict.reasons)
    assert marks == sorted(marks, key=["drift", "ok", "told"].index)
    assert "2,000 rows" in html


@pytest.mark.fault("S16")
def test_what_is_shown_is_escaped_and_nothing_can_run_or_be_loaded() -> None:
    html = page(FAILED)
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in html
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'\"" in html
    for document in (html, page(PASSED)):
        assert not re.search(r"(src|href)\s*=|https?:|url\(", document)


def test_the_differences_are_drawn_with_the_better_side_on_the_right() -> None:
    html = page(PASSED)
    log_loss = html[html.index("<th>Log loss</th>") : html.index("<th>PR-AUC</th>")]
    reach = re.search(r'class=reach x1="([\d.]+)" x2="([\d.]+)"', log_loss)
    assert reach is not None
    assert min(map(float, reach.groups())) > 160  # a lower log loss is better: right of zero
    assert "class=beyond" in log_loss
    brier = html[html.index("<th>Brier score</th>") :].split("</tr>")[0]
    assert "class=beyond" not in brier  # told, not judged


def test_slices_and_the_policy_are_shown_and_a_first_champion_is_set_against_nobody() -> None:
    html = page(FIRST)
    assert "<th>tenure: 90 to 365 days</th>" in html
    assert "Against the champion" not in html
    assert "Log loss less the champion's" not in html
    assert "Log loss less the champion's" in page(PASSED)
    assert "<th>champion.log_loss.non_inferiority_margin</th><td>0.005</td>" in html
    assert html.count("<polyline") == 1
    assert page(PASSED).count("<polyline") == 2


def test_figures_without_a_value_are_told_as_such() -> None:
    one_probability = judged(replace(BETTER, challenger=np.full(len(PROBABILITY), 0.5), champion=None))
    assert one_probability.facts["challenger"]["figures"]["calibration_slope"] is None
    assert "<th>Calibration slope</th><td>–</td>" in page(one_probability)


@pytest.mark.fault("S16")
def test_a_label_of_a_user_cannot_break_out_of_the_page() -> None:
    tiers = np.where(np.arange(len(PROBABILITY)) % 2 == 0, '"><img onerror=x>', "free").astype(object)
    html = page(judged(replace(BETTER, labels={"subscription_tier": tiers})))
    assert "<img" not in html
