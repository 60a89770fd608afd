"""A report in sections, written once and rendered twice: as Markdown and as one HTML page that opens offline.

All texts are plain: whatever would be markup, in either form, is escaped.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from churn.core.pages import NOTHING_FROM_OUTSIDE, banner, document

PICTURES_INSIDE = f"{NOTHING_FROM_OUTSIDE}; img-src data:"


@dataclass(frozen=True)
class Bullets:
    """Lines that stand by themselves."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """Rows of cells, the first of each naming its row. Without `head` it is a list of named facts."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """One of the run's pictures, by name."""

    name: str
    caption: str


Part: TypeAlias = str | Bullets | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a text is a paragraph."""

    title: str
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Report:
    """`facts` are named and stand on top, `over` says above the title what it is about."""

    over: str
    title: str
    sentence: str
    facts: tuple[tuple[str, str], ...]
    sections: tuple[Section, ...]

    @property
    def pictures(self) -> tuple[str, ...]:
        """The names of the pictures that it shows."""
        parts = (part for section in self.sections for part in section.parts)
        return tuple(part.name for part in parts if isinstance(part, Picture))


# -- Markdown --------------------------------------------------------------------------------------------------------


def as_markdown(report: Report, pictures: str) -> str:
    """The report in GitHub's Markdown; `pictures` is the folder of the run's pictures, seen from the file's."""
    head = (f"# {_plain(report.title)}", _plain(report.sentence), _md_table(Table((), report.facts)))
    body = (block for section in report.sections for block in _md_section(section, pictures))
    return "\n\n".join((*head, *body)) + "\n"


def _md_section(section: Section, pictures: str) -> list[str]:
    return [f"## {_plain(section.title)}", *(_md_part(part, pictures) for part in section.parts)]


def _md_part(part: Part, pictures: str) -> str:
    if isinstance(part, Bullets):
        return "\n".join(f"- {_plain(line)}" for line in part.lines)
    if isinstance(part, Table):
        return _md_table(part)
    if isinstance(part, Picture):
        return f"![{_plain(part.caption)}]({pictures}/{part.name}.png)"
    return _plain(part)


def _md_table(table: Table) -> str:
    width = len(table.head or table.rows[0])
    cells = [tuple(map(_plain, row)) for row in (table.head or ("",) * width, *table.rows)]
    rows = [cells[0], ("---",) * width, *cells[1:]]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _plain(text: str) -> str:
    """One line in which nothing is markup. An underscore inside a word is none, nor brackets that no link follows."""
    line = " ".join(text.split())
    return re.sub(r"(?<!\w)_|_(?!\w)|[\\`*<|~]|\](?=[(\[])|&(?=#?\w+;)", r"\\\g<0>", line)


# -- HTML ------------------------------------------------------------------------------------------------------------


def as_html(report: Report, pictures: Mapping[str, bytes]) -> str:
    """The report as a page that holds its pictures, which are PNG files by name."""
    top = banner("plain", report.over, (report.title, report.sentence), report.facts)
    body = "\n".join(_html_section(section, pictures) for section in report.sections)
    return document(report.title, policy=PICTURES_INSIDE, style=_STYLE, body=f"{top}\n<main>\n{body}\n</main>")


def _html_section(section: Section, pictures: Mapping[str, bytes]) -> str:
    parts = "".join(_html_part(part, pictures) for part in section.parts)
    return f"<section><h2>{escape(section.title)}</h2>{parts}</section>"


def _html_part(part: Part, pictures: Mapping[str, bytes]) -> str:
    if isinstance(part, Bullets):
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in part.lines)}</ul>"
    if isinstance(part, Table):
        return _html_table(part)
    if isinstance(part, Picture):
        source = f"data:image/png;base64,{b64encode(pictures[part.name]).decode('ascii')}"
        shown = f'<img src="{source}" alt="{escape(part.caption)}">'
        return f"<figure>{shown}<figcaption class=note>{escape(part.caption)}</figcaption></figure>"
    return f"<p>{escape(part)}</p>"


def _html_table(table: Table) -> str:
    head = f"<thead><tr>{_cells(table.head, 'th')}</tr></thead>" if table.head else ""
    rows = "".join(f"<tr><th>{escape(row[0])}</th>{_cells(row[1:], 'td')}</tr>" for row in table.rows)
    kind = "figures" if table.head else "named"
    return f"<div class=wide><table class={kind}>{head}<tbody>{rows}</tbody></table></div>"


def _cells(cells: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)


_STYLE = """
header.plain { background: #23395b; } h1 { font-size: 40px; }
section > p { margin: 0 0 12px; max-width: 92ch; } ul { margin: 0 0 12px; padding-left: 22px; max-width: 92ch; }
.wide { overflow-x: auto; margin: 0 0 14px; } section > :last-child { margin-bottom: 0; }
th { font-weight: 600; } thead th { font-size: 12px; color: var(--soft); font-weight: 500; vertical-align: bottom; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } .figures td { min-width: 76px; }
th, td { padding: 5px 14px 5px 0; } thead + tbody tr:first-child > * { border-top: 1px solid var(--line); }
.named th { width: 250px; font-weight: 500; color: var(--soft); } .named tr:first-child > * { border-top: 0; }
figure { margin: 6px 0 14px; } figure img { display: block; max-width: 100%; height: auto; }
figcaption.note { margin: 4px 0 0; }
"""
