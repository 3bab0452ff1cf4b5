"""The small parts of a page: safe text, tables, tiles, pictures in the page's own colours."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from training.pictures import COLOURS, FAINT, INK, PAPER, RULE

#: What a picture's colours are called in the page, which has them for day and for night.
_NAMES = {
    PAPER: "paper", INK: "ink", FAINT: "faint", RULE: "rule",
    **{colour: f"c{number}" for number, colour in enumerate(COLOURS)},
}  # fmt: skip
_COLOUR = re.compile("|".join(_NAMES))
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_NOTES = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def put(value: object) -> str:
    """Return HTML as it is, and anything else as text."""
    return value if isinstance(value, Markup) else escape(str(value))


def element(name: str, *children: object, css: str = "") -> Markup:
    """Return an element around its children."""
    given = f' class="{css}"' if css else ""
    return Markup(f"<{name}{given}>{''.join(map(put, children))}</{name}>")


def code(text: str) -> Markup:
    """Return text as code."""
    return element("code", text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> Markup:
    """Return a table; its last ``numbers`` columns stand to the right."""
    first = len(head) - numbers

    def line(kind: str, cells: Sequence[object]) -> Markup:
        sides = ["" if at < first else "number" for at in range(len(cells))]
        parts = (element(kind, one, css=side) for one, side in zip(cells, sides, strict=True))
        return element("tr", *parts)

    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", element("thead", line("th", head)), body), css="wide")


def tiles(facts: Iterable[tuple[str, str]]) -> Markup:
    """Return numbers, each with what it is."""
    made = [element("div", element("b", value), element("span", what), css="tile")
            for value, what in facts]  # fmt: skip
    return element("div", *made, css="tiles") if made else Markup("")


def pictures(shown: Iterable[tuple[Path, str]]) -> Markup:
    """Return SVG files side by side, each with its caption."""
    made = [element("figure", inline(file), element("figcaption", caption))
            for file, caption in shown]  # fmt: skip
    return element("div", *made, css="pictures") if made else Markup("")


def unfold(title: str, *children: object) -> Markup:
    """Return what is shown when its title is clicked."""
    return element("details", element("summary", title), *children)


def inline(file: Path) -> Markup:
    """Return an SVG file as a part of a page: its own names, the page's colours, no notes."""
    text = file.read_text(encoding="utf-8")
    text = _NOTES.sub("", text[text.index("<svg") :])
    own = re.sub(r"\W", "-", file.stem)
    text = _ID.sub(rf"\1{own}--", text)
    return Markup(_COLOUR.sub(lambda found: f"var(--{_NAMES[found[0]]})", text))
