"""The drift report as one HTML page that opens offline: verdict and what to do on top, then why, then what moved.

Everything shown is escaped, and the page's own policy forbids the browser to load anything from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from churn.core.drift import Findings, Shift
from churn.core.drift_rules import PREDICTION, REPORT_DRAWN, RULES, WORST_FIRST
from churn.core.pages import NOTHING_FROM_OUTSIDE, banner, document, listed
from churn.domain.ports import Pictures, Window
from churn.domain.schema import FEATURES
from churn.domain.verdicts import DriftStatus, DriftVerdict, Reason

# Evidently's report, shown in a frame, draws itself by scripts.
_POLICY = f"{NOTHING_FROM_OUTSIDE}; script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; font-src data:"
_WORDS: dict[DriftStatus, tuple[str, str]] = {
    DriftStatus.OK: ("No drift", "The champion sees the kind of users it was trained on."),
    DriftStatus.WARN: ("Warning", "Some features have moved, but not those the champion leans on."),
    DriftStatus.DRIFT: ("Drift", "The champion no longer sees what it was trained on."),
    DriftStatus.INSUFFICIENT: ("Too little data", "Nothing can be said about drift in this window."),
    DriftStatus.FAILED: ("Broken", "The window itself is wrong. Repair that first: what moved may be its effect."),
}
_MEANINGS = {feature.name: feature.meaning for feature in FEATURES} | {PREDICTION: "what the champion answered"}
_QUIET_SHOWN = 3


def advice(verdict: DriftVerdict) -> list[str]:
    """What to do about what is worst; one line when there is nothing."""
    broken = [reason.rule for reason in verdict.reasons if reason.passed is False]
    statuses = {RULES[rule].status for rule in broken if rule != REPORT_DRAWN}
    worst = next((status for status in WORST_FIRST if status in statuses), None)
    lines = [RULES[rule].advice for rule in broken if rule == REPORT_DRAWN or RULES[rule].status is worst]
    return [*dict.fromkeys(lines)] or ["Nothing to do."]


def page(window: Window, version: str, findings: Findings, pictures: Pictures) -> str:
    """The whole document. `version` is the champion's."""
    verdict = findings.verdict
    word, sentence = _WORDS[verdict.status]
    parts = (
        banner(
            verdict.status.value, "Churn champion, drift report", (word, sentence), _facts(window, version, verdict)
        ),
        f"<main>{_why(verdict.reasons)}",
        f"<section><h2>What to do</h2>{listed(advice(verdict))}</section>",
        _moved(findings.shifts),
        _evidently(pictures),
        "</main>",
    )
    return document(f"{word}: {window.name}", policy=_POLICY, style=_STYLE, body="\n".join(parts))


def _facts(window: Window, version: str, verdict: DriftVerdict) -> tuple[tuple[str, str], ...]:
    return (
        ("Window", f"{window.since:%Y-%m-%d %H:%M} to {window.until:%Y-%m-%d %H:%M} UTC"),
        ("Champion", f"version {version}"),
        ("Users compared", f"{verdict.rows:,}"),
        ("Reference", f"{verdict.reference_rows:,} rows"),
    )


# --- why


def _why(reasons: Sequence[Reason]) -> str:
    broken = [reason for reason in reasons if reason.passed is False]
    ranked = sorted(broken, key=lambda reason: WORST_FIRST.index(RULES[reason.rule].status))
    passed = [reason for reason in reasons if reason.passed]
    told = [reason for reason in reasons if reason.passed is None]
    wrong = (
        f"<table class=why>{_rows(ranked)}</table>" if ranked else f"<p class=lead>All {len(passed)} checks passed.</p>"
    )
    return (
        f"<section><h2>{'What is wrong' if ranked else 'What was checked'}</h2>{wrong}"
        f"<details><summary>{len(passed)} checks passed: show them, and what else was seen</summary>"
        f"<table class=why>{_rows(passed)}{_rows(told)}</table></details></section>"
    )


def _rows(reasons: Iterable[Reason]) -> str:
    return "".join(
        f"<tr><td>{_mark(reason)}</td><th>{escape(_said(reason))}</th><td>{escape(reason.found)}</td></tr>"
        for reason in reasons
    )


def _said(reason: Reason) -> str:
    told = RULES[reason.rule].broken if reason.passed is False else reason.rule
    return told[:1].upper() + told[1:]


def _mark(reason: Reason) -> str:
    if reason.passed is None:
        return "<span class=told>i</span>"
    if reason.passed:
        return "<span class=ok>✓</span>"
    status = RULES[reason.rule].status
    return f'<span class="{status.value}">{"!" if status is DriftStatus.WARN else "✕"}</span>'


# --- what moved


def _moved(shifts: Sequence[Shift]) -> str:
    if not shifts:
        return "<section><h2>What moved</h2><p class=lead>Distributions were not compared.</p></section>"
    quiet = [shift for shift in shifts if not shift.drifted and shift.name != PREDICTION]
    loud = [shift for shift in shifts if shift not in quiet]
    shown = _table([*loud, *quiet[:_QUIET_SHOWN]])
    rest = quiet[_QUIET_SHOWN:]
    hidden = f"<details><summary>{len(rest)} more that have not moved</summary>{_table(rest)}</details>" if rest else ""
    return f"<section><h2>What moved</h2>{_LEGEND}{shown}{hidden}</section>"


def _table(shifts: Iterable[Shift]) -> str:
    heads = ("Column", "Drift", "Distribution", "Median", "Null", "Importance")
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<table class=moved><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, shifts))}</tbody></table>"


def _row(shift: Shift) -> str:
    note = '<b class="tag">grows with time, not judged</b>' if shift.clock and shift.drifted else ""
    kind = "clock" if shift.clock else "drifted" if shift.drifted else "quiet"
    cells = (
        f"<b>{escape(shift.name)}</b>{note}<small>{escape(_MEANINGS.get(shift.name, ''))}</small>",
        _gauge(shift),
        _histogram(shift),
        _change(_number(shift.reference.median), _number(shift.current.median)),
        _change(f"{shift.reference.nulls:.0%}", f"{shift.current.nulls:.0%}"),
        "" if shift.name == PREDICTION else f'<div class=weight><i style="width:{min(shift.weight, 1):.0%}"></i></div>',
    )
    return f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _gauge(shift: Shift) -> str:
    """A bar that ends at three times the limit, with a tick at the limit."""
    width = min(1.0, shift.psi / (3 * shift.limit))
    return f'<b>{shift.psi:.2f}</b><div class=gauge><i style="width:{width:.0%}"></i><u></u></div>'


def _histogram(shift: Shift) -> str:
    """Shares of rows by bin, the reference in grey beside the window; the last pair, set apart, is null."""
    pairs = [*zip(shift.reference.shares, shift.current.shares, strict=True)]
    shown = [(pair, place == len(pairs) - 1) for place, pair in enumerate(pairs) if max(pair) > 0]
    top = max(max(pair) for pair, _ in shown)
    bars = "".join(_bars(place, pair, (null, top)) for place, (pair, null) in enumerate(shown))
    return f'<svg viewBox="0 0 160 36" width=160 height=36 role=img aria-label="shares by bin">{bars}</svg>'


def _bars(place: int, pair: tuple[float, float], scale: tuple[bool, float]) -> str:
    null, top = scale
    left = place * 13 + (5 if null else 0)
    heights = [34 * share / top for share in pair]
    return "".join(
        f"<rect class={kind} x={left + 5 * side} y={35 - height:.1f} width=5 height={height + 1:.1f} />"
        for side, (kind, height) in enumerate(zip(("was", "now"), heights, strict=True))
    )


def _change(before: str, now: str) -> str:
    return f"<span class=was>{before}</span> → {now}" if before != now else f"<span class=was>{now}</span>"


def _number(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


# --- Evidently


def _evidently(pictures: Pictures) -> str:
    left = f" Left out, because it cannot draw them: {', '.join(pictures.left_out)}." if pictures.left_out else ""
    if not pictures.html:
        why = f"Evidently stopped: {pictures.error}." if pictures.error else "Not drawn: there is too little to draw."
        return f"<section><h2>Evidently</h2><p class=lead>{escape(why + left)}</p></section>"
    return (
        f"<section><h2>Evidently</h2><p class=note>{escape(_EVIDENTLY + left)}</p>"
        f'<iframe title="Evidently report" srcdoc="{escape(pictures.html)}"></iframe></section>'
    )


_EVIDENTLY = (
    "Each distribution at full size. Evidently cuts its bins otherwise and does not take out noise, so its figures "
    "differ a little from those above; the verdict rests on those above."
)
_LEGEND = (
    '<p class=note><span class="swatch was"></span>reference <span class="swatch now"></span>this window. '
    "Bins are the reference's deciles; a pair set apart at the right is null. Drift is the population stability index "
    "without its noise; the tick is the limit. Importance is how much of the champion's probability goes with the "
    "feature.</p>"
)
_STYLE = """
.moved th { font-size: 12px; color: var(--soft); font-weight: 500; } .moved td { font-variant-numeric: tabular-nums; }
.moved td:first-child { width: 36%; } .moved td:nth-child(2) { width: 120px; } .moved td:nth-child(4) { width: 150px; }
.moved td:nth-child(5) { width: 110px; } .moved td:nth-child(6) { width: 90px; }
.moved small { display: block; color: var(--soft); } .moved tr.quiet b, .moved tr.clock b { font-weight: 500; }
.moved tr.drifted td:first-child { border-left: 4px solid var(--drift); padding-left: 12px; }
.tag { margin-left: 8px; font-size: 12px; color: var(--soft);
  border: 1px solid var(--line); border-radius: 10px; padding: 0 8px; }
.gauge { position: relative; height: 6px; margin: 4px 12px 0 0; background: #eef1f5; border-radius: 3px; }
.gauge i { position: absolute; inset: 0 auto 0 0; background: var(--was); border-radius: 3px; }
.drifted .gauge i { background: var(--drift); } .drifted td:nth-child(2) b { color: var(--drift); }
.gauge u { position: absolute; left: 33.3%; top: -3px; height: 12px; border-left: 2px solid var(--ink); }
.weight { height: 6px; margin-top: 9px; background: #eef1f5; border-radius: 3px; }
.weight i { display: block; height: 6px; background: var(--ink); border-radius: 3px; }
rect.was, .swatch.was { fill: var(--was); background: var(--was); }
rect.now, .swatch.now { fill: var(--now); background: var(--now); }
span.was { color: var(--soft); } .swatch { display: inline-block; width: 11px; height: 11px; margin: 0 5px 0 8px; }
.note .swatch:first-child { margin-left: 0; }
iframe { width: 100%; height: 1100px; border: 1px solid var(--line); border-radius: 6px; }
"""
