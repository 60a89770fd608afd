"""A promotion's verdict as one HTML page that opens offline: the answer on top, then every rule, then the figures.

It is drawn from the verdict alone, so that the page and the JSON beside it cannot say different things.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from churn.core.pages import NOTHING_FROM_OUTSIDE, banner, document
from churn.domain.verdicts import PromotionVerdict, Reason

Told = Mapping[str, Any]
# Figure, its name, and the sign of a better one (0: neither); the first three are those that a policy judges.
COMPARED = (
    ("log_loss", "Log loss", -1),
    ("pr_auc", "PR-AUC", 1),
    ("expected_value", "Expected value per user", 1),
    ("auc_score", "ROC-AUC", 1),
    ("brier", "Brier score", -1),
)
FIGURES = (
    ("auc_score", "ROC-AUC"),
    ("pr_auc", "PR-AUC"),
    ("log_loss", "Log loss"),
    ("brier", "Brier score"),
    ("brier_reliability", "… reliability"),
    ("brier_resolution", "… resolution"),
    ("brier_uncertainty", "… uncertainty"),
    ("ece", "Expected calibration error"),
    ("calibration_in_the_large", "Mean probability less churn rate"),
    ("calibration_slope", "Calibration slope"),
    ("calibration_intercept", "Calibration intercept"),
    ("lift_10", "Lift at 10 %"),
    ("expected_value", "Expected value per user"),
)
SLICE_FIGURES = (("auc_score", "ROC-AUC"), ("calibration_in_the_large", "Calibration in the large"))
NO_VALUE = "–"


def page(verdict: PromotionVerdict) -> str:
    """The whole document."""
    word = "Passed" if verdict.passed else "Refused"
    facts = verdict.facts
    parts = (
        banner(
            "ok" if verdict.passed else "drift", "Churn promotion, verdict", (word, _sentence(verdict)), _about(verdict)
        ),
        f"<main>{_reasons(verdict.reasons)}",
        _differences(facts) if facts.get("differences") else "",
        _quality(facts) if facts else "",
        _slices(facts["slices"]) if facts.get("slices") else "",
        _policy(facts["policy"]) if facts else "",
        "</main>",
    )
    title = f"{word}: version {verdict.challenger}"
    return document(title, policy=NOTHING_FROM_OUTSIDE, style=_STYLE, body="\n".join(filter(None, parts)))


def _sentence(verdict: PromotionVerdict) -> str:
    broken = [reason for reason in verdict.reasons if reason.passed is False]
    who = f"Version {verdict.challenger}"
    if broken:
        only = f"Broken: “{broken[0].rule}” ({broken[0].found})."
        return f"{who} does not become champion. {only if len(broken) == 1 else f'{len(broken)} rules are broken.'}"
    over = "the first champion" if verdict.champion is None else f"champion in place of version {verdict.champion}"
    return f"{who} may become {over}."


def _about(verdict: PromotionVerdict) -> Iterable[tuple[str, str]]:
    yield "Challenger", f"version {verdict.challenger}"
    yield "Champion", "none yet" if verdict.champion is None else f"version {verdict.champion}"
    rows = verdict.facts.get("rows")
    if rows:
        yield "Judged on", f"{rows['n']:,} rows of {rows['users']:,} users"
        yield "Cutoffs", ", ".join(rows["cutoffs"])


# --- reasons


def _reasons(reasons: Sequence[Reason]) -> str:
    ranked = sorted(reasons, key=lambda reason: (reason.passed is not False, reason.passed is None))
    lines = "".join(
        f"<tr><td>{_mark(reason)}</td><th>{escape(reason.rule[:1].upper() + reason.rule[1:])}</th>"
        f"<td>{escape(reason.found)}</td></tr>"
        for reason in ranked
    )
    return f"<section><h2>Every rule of the policy</h2><table class=why>{lines}</table></section>"


def _mark(reason: Reason) -> str:
    kind, sign = {True: ("ok", "✓"), False: ("drift", "✕"), None: ("told", "i")}[reason.passed]
    return f"<span class={kind}>{sign}</span>"


# --- differences


def _differences(facts: Told) -> str:
    found, champion = facts["differences"], facts["policy"]["champion"]
    lines = "".join(
        _difference(name, sign, found[key], champion.get(key)) for key, name, sign in COMPARED if key in found
    )
    share = facts["policy"]["intervals"]["confidence"]
    note = (
        f"The challenger less the champion on the same rows, with {share:.0%} intervals: users are drawn again, the"
        " same for both. Right of the line the challenger is better. The shaded part is worse than the policy's"
        " margin allows; figures without one are told, not judged."
    )
    heads = "<tr><th></th><th>Difference</th><th>Interval</th><th>Worse&ensp;|&ensp;better</th></tr>"
    table = f"<table class=apart>{heads}{lines}</table>"
    return f"<section><h2>Against the champion</h2><p class=note>{note}</p>{table}</section>"


def _difference(name: str, sign: int, apart: Told, limit: Told | None) -> str:
    margin = None if limit is None else limit["non_inferiority_margin"]
    interval = f"{_signed(apart['low'])} … {_signed(apart['high'])}"
    return (
        f"<tr><th>{escape(name)}</th><td>{_signed(apart['estimate'])}</td><td>{interval}</td>"
        f"<td>{_whisker([_times(sign, apart[end]) for end in ('low', 'estimate', 'high')], margin)}</td></tr>"
    )


def _times(sign: int, value: float | None) -> float | None:
    return None if value is None else sign * value


def _whisker(values: Sequence[float | None], margin: float | None) -> str:
    """End, estimate and other end of a difference around zero, better to the right; shaded beyond the margin."""
    known = [value for value in values if value is not None]
    if len(known) < 3:
        return NO_VALUE
    scale = 1.15 * max(1e-9, *map(abs, known), 1.3 * (margin or 0))
    low, middle, high = (160 + 150 * value / scale for value in known)
    edge = None if margin is None else 160 - 150 * margin / scale
    shade = "" if edge is None else f'<rect class=beyond x=0 y=2 width="{edge:.1f}" height=24 />'
    return (
        f"<svg viewBox='0 0 320 28' width=320 height=28 role=img aria-label='interval'>{shade}"
        f'<line class=zero x1=160 x2=160 y1=1 y2=27 /><line class=reach x1="{low:.1f}" x2="{high:.1f}" y1=14 y2=14 />'
        f'<circle cx="{middle:.1f}" cy=14 r=5 /></svg>'
    )


# --- quality


def _quality(facts: Told) -> str:
    models = [(name, facts[name]) for name in ("challenger", "champion") if facts[name]]
    heads = "".join(f"<th>{name.capitalize()}</th>" for name, _ in models)
    lines = "".join(
        f"<tr><th>{escape(name)}</th>{''.join(f'<td>{_figure(told, key)}</td>' for _, told in models)}</tr>"
        for key, name in FIGURES
    )
    table = f"<table class=figures><tr><th></th>{heads}</tr>{lines}</table>"
    served = f"One row in {facts['latency_ms']:.2f} ms (median); {facts['size_bytes']:,} bytes served. "
    recency = f"Recency alone has a ROC-AUC of {facts['recency']['auc_score']:.4f}."
    return (
        f"<section><h2>Quality and calibration</h2><p class=note>{served}{recency}</p>"
        f"<div class=beside>{_reliability(models)}{table}</div></section>"
    )


def _figure(told: Told, key: str) -> str:
    interval = told["intervals"].get(key)
    value = told["figures"].get(key, interval["estimate"] if interval else None)
    if value is None:
        return NO_VALUE
    around = interval and interval["low"] is not None
    span = f"<small>{interval['low']:.4f} … {interval['high']:.4f}</small>" if around else ""
    return f"{value:.4f}{span}"


def _reliability(models: Sequence[tuple[str, Told]]) -> str:
    """Churn rate against mean probability by tenth of the rows, the diagonal beside it."""
    grid = "".join(
        f'<line class=grid x1="{40 + 68 * step}" x2="{40 + 68 * step}" y1=10 y2=350 />'
        f'<line class=grid x1=40 x2=380 y1="{350 - 68 * step}" y2="{350 - 68 * step}" />'
        f'<text x="{40 + 68 * step}" y=368 text-anchor=middle>{step / 5:g}</text>'
        f'<text x=34 y="{354 - 68 * step}" text-anchor=end>{step / 5:g}</text>'
        for step in range(6)
    )
    lines = "".join(_curve(name, told["reliability"]) for name, told in reversed(models))
    named = " ".join(f'<span class="swatch {name}"></span>{name}' for name, _ in models)
    return (
        "<figure><svg viewBox='0 0 390 390' width=390 height=390 role=img aria-label='reliability'>"
        f"{grid}<line class=zero x1=40 y1=350 x2=380 y2=10 />{lines}"
        "<text x=210 y=387 text-anchor=middle>predicted probability</text>"
        "<text transform='translate(11 180) rotate(-90)' text-anchor=middle>observed churn rate</text></svg>"
        f"<figcaption class=note>Reliability by tenth: {named}</figcaption></figure>"
    )


def _curve(name: str, groups: Told) -> str:
    places = [
        (40 + 340 * predicted, 350 - 340 * observed)
        for predicted, observed in zip(groups["predicted"], groups["observed"], strict=True)
    ]
    dots = "".join(f'<circle class={name} cx="{x:.1f}" cy="{y:.1f}" r=4 />' for x, y in places)
    return f'<polyline class={name} points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" />{dots}'


# --- slices


def _slices(slices: Sequence[Told]) -> str:
    judged = [each for each in slices if not each["too_small"]]
    small = [each for each in slices if each["too_small"]]
    compared = any(each["against"] for each in judged)
    more = "<th>Log loss less the champion's</th>" if compared else ""
    heads = "".join(f"<th>{name}</th>" for _, name in SLICE_FIGURES)
    lines = "".join(_slice(each, compared) for each in judged)
    rest = ", ".join(f"{escape(_words(each['name']))} ({each['n']:,})" for each in small)
    note = f"<p class=note>Too small to be judged: {rest}</p>" if small else ""
    return (
        f"<section><h2>Parts of the users</h2>{note}<table class=slices>"
        f"<tr><th>Slice</th><th>Rows</th><th>Churn rate</th>{heads}{more}</tr>{lines}</table></section>"
    )


def _slice(told: Told, compared: bool) -> str:
    figures = "".join(
        f"<td>{_around(told['figures'][key], signed=key != 'auc_score')}</td>" for key, _ in SLICE_FIGURES
    )
    more = f"<td>{_around(told['against']['log_loss'], signed=True)}</td>" if compared else ""
    size = f"<td>{told['n']:,}</td><td>{told['churn_rate']:.1%}</td>"
    return f"<tr><th>{escape(_words(told['name']))}</th>{size}{figures}{more}</tr>"


def _words(name: str) -> str:
    """`tenure.under_90_days` as a person would say it."""
    return name.replace(".", ": ", 1).replace("_", " ")


def _around(interval: Told, *, signed: bool) -> str:
    show = _signed if signed else _unsigned
    return f"{show(interval['estimate'])}<small>{show(interval['low'])} … {show(interval['high'])}</small>"


def _signed(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:+.4f}"


def _unsigned(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.4f}"


# --- the policy


def _policy(policy: Told) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in _flat(policy))
    return f"<section><h2>The policy</h2><table class=policy>{lines}</table></section>"


def _flat(part: Told, prefix: str = "") -> Iterable[tuple[str, str]]:
    for name, value in part.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            told = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{prefix}{name}", told or NO_VALUE


_STYLE = """
.why th { width: 520px; }
td { font-variant-numeric: tabular-nums; } td small { display: block; color: var(--soft); }
tr:first-child > th + th { font-size: 12px; color: var(--soft); font-weight: 500; }
.policy th { font-weight: 500; width: 430px; }
.apart td:last-child { width: 340px; padding: 4px 0; } .slices td { white-space: nowrap; }
.beside { display: flex; gap: 24px; align-items: flex-start; flex-wrap: wrap; } figure { margin: 0; }
.beside svg { width: 330px; height: 330px; } .beside table { flex: 1; width: auto; min-width: 380px; }
.figures td, .figures th { padding: 4px 10px 4px 0; } .figures td { white-space: nowrap; }
.figures td small { display: inline; margin-left: 8px; }
svg { display: block; } svg text { font-size: 11px; fill: var(--soft); }
.beyond { fill: #f7dcdd; } .zero { stroke: var(--soft); stroke-dasharray: 3 3; } .grid { stroke: var(--line); }
.reach { stroke: var(--now); stroke-width: 3; stroke-linecap: round; } circle { fill: var(--now); }
polyline { fill: none; stroke-width: 2; }
polyline.challenger { stroke: var(--now); } polyline.champion { stroke: var(--was); }
circle.challenger { fill: var(--now); } circle.champion { fill: var(--was); }
.swatch { display: inline-block; width: 11px; height: 11px; margin: 0 5px 0 8px; }
.swatch.challenger { background: var(--now); } .swatch.champion { background: var(--was); }
"""
