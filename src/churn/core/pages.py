"""What our HTML pages share: one file that opens offline, with a banner, and everything that is shown escaped.

The page's own policy forbids the browser to load anything from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

NOTHING_FROM_OUTSIDE = "default-src 'none'; style-src 'unsafe-inline'"


def document(title: str, *, policy: str, style: str, body: str) -> str:
    """The whole page; `body` is HTML, `style` comes after what all pages share."""
    return _DOCUMENT.format(policy=policy, title=escape(title), style=_STYLE + style, body=body)


def banner(kind: str, over: str, words: tuple[str, str], facts: Iterable[tuple[str, str]]) -> str:
    """A coloured head: `kind` is its class; a large word, a sentence, and named facts below."""
    told = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    word, sentence = map(escape, words)
    return (
        f'<header class="{kind}"><div><p>{escape(over)}</p><h1>{word}</h1>'
        f"<p class=sentence>{sentence}</p><dl>{told}</dl></div></header>"
    )


def listed(lines: Sequence[str]) -> str:
    """A numbered list, or a paragraph where there is one line only; what stands between backticks is code."""
    items = "".join(f"<li>{_code(line)}</li>" for line in lines)
    return f"<ol>{items}</ol>" if len(lines) > 1 else f"<p class=lead>{_code(lines[0])}</p>"


def _code(text: str) -> str:
    pieces = [escape(piece) for piece in text.split("`")]
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))


_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
_STYLE = """
:root { --ok: #1b7f4d; --warn: #b36b00; --drift: #c4262e; --insufficient: #5b6675; --failed: #5a2a82;
  --ink: #1d2430; --soft: #66707f; --line: #e3e7ec; --was: #b9c1cc; --now: #2f6fde; }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: #f5f6f8;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
header { color: #fff; padding: 28px 0 24px; }
header.ok { background: var(--ok); } header.warn { background: var(--warn); } header.drift { background: var(--drift); }
header.insufficient { background: var(--insufficient); } header.failed { background: var(--failed); }
header > div, main { max-width: 1160px; margin: 0 auto; padding: 0 28px; }
header p { margin: 0; opacity: .85; } header p.sentence { font-size: 20px; opacity: 1; }
h1 { font-size: 52px; line-height: 1.1; margin: 4px 0 6px; letter-spacing: -.02em; }
dl { display: flex; flex-wrap: wrap; gap: 8px 40px; margin: 20px 0 0; }
dt { font-size: 12px; opacity: .8; } dd { margin: 0; font-weight: 600; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 24px 20px; margin: 18px 0; }
h2 { font-size: 17px; margin: 0 0 10px; } ol { margin: 0; padding-left: 22px; } li { margin: 4px 0; }
p.lead { margin: 0; } .note { color: var(--soft); font-size: 13px; margin: 0 0 12px; max-width: 86ch; }
code { background: #eef1f5; border-radius: 4px; padding: 1px 5px; font-size: 13px; white-space: nowrap; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 7px 10px 7px 0; }
tr + tr > * , tbody tr > * { border-top: 1px solid var(--line); } table.why tr:first-child > * { border-top: 0; }
.why td:first-child { width: 34px; } .why th { width: 250px; font-weight: 600; }
.why span { display: inline-block; width: 22px; height: 22px; border-radius: 50%; color: #fff; font-weight: 700;
  font-size: 13px; line-height: 22px; text-align: center; }
.why .ok { background: var(--ok); } .why .warn { background: var(--warn); } .why .drift { background: var(--drift); }
.why .insufficient { background: var(--insufficient); } .why .failed { background: var(--failed); }
.why .told { background: var(--was); }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--soft); }
details[open] summary { margin-bottom: 8px; }
"""
