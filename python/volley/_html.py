"""Tables and clusters as HTML, for notebooks. Names and values come from anybody: all of them are escaped."""

from __future__ import annotations

import html
import unicodedata
from typing import Any, Iterable, Sequence

#: Nodes that a picture has at most, and in one row.
_MOST_NODES = 128
_PER_ROW = 8
#: Pixels of a box, and between boxes.
_WIDTH, _HEIGHT, _GAP = 132, 52, 10
_COLOURS = {"good": ("#e8f5ee", "#2e7d4f"), "warning": ("#fff4e0", "#b26a00"), "bad": ("#fdeaea", "#b3261e")}


def visible(text: object) -> str:
    """A text of one line in which nothing is hidden: controls, line ends, zero-width and bidirectional characters are escaped."""
    return "".join(_escape(sign) for sign in str(text))


def _escape(sign: str) -> str:
    if unicodedata.category(sign) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"):
        return f"\\u{{{ord(sign):x}}}"
    return sign


def escaped(text: object) -> str:
    """A text of one line for HTML."""
    return html.escape(visible(text))


def block(text: str) -> str:
    """Lines of text as they are."""
    return f"<pre>{chr(10).join(escaped(line) for line in text.split(chr(10)))}</pre>"


def size(count: int | None) -> str:
    """Bytes in a unit that people read."""
    if count is None:
        return "?"
    value, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"


def schema_table(fields: Iterable[tuple[str, str, bool]]) -> str:
    """The columns of a table."""
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td>{escaped(kind)}</td><td>{'' if nullable else 'not null'}</td></tr>"
        for name, kind, nullable in fields
    )
    return f"<table><tr><th>column</th><th>type</th><th></th></tr>{rows}</table>"


def table_html(title: str, facts: Sequence[str], fields: Sequence[tuple[str, str, bool]], preview: str) -> str:
    """A table: its facts, its columns, which are folded if they are many, and its first rows."""
    heading = f"<b>{escaped(title)}</b>: " if title else ""
    opened = " open" if len(fields) <= 8 else ""
    columns = f"<details{opened}><summary>{len(fields)} columns</summary>{schema_table(fields)}</details>"
    return f"<div><p>{heading}{', '.join(map(escaped, facts))}</p>{columns}{block(preview)}</div>"


def cluster_svg(status: dict[str, Any]) -> str:
    """The members of a cluster as boxes: coordinators above, the nodes of each zone below; the fill is the use of their disks."""
    parts: list[str] = []
    y = 24
    health = str(status.get("health", "?"))
    parts.append(_text(0, 14, f"health: {health}", "bold"))
    y = _row(parts, y, "coordinators", [_coordinator(one) for one in status.get("coordinators", [])])
    nodes = status.get("nodes", [])
    zones: dict[str, list[Any]] = {}
    for node in nodes[:_MOST_NODES]:
        zones.setdefault(str(node.get("zone") or ""), []).append(_node(node))
    for zone in sorted(zones):
        y = _row(parts, y, f"nodes in zone {zone}" if zone else "nodes", zones[zone])
    if len(nodes) > _MOST_NODES:
        parts.append(_text(0, y + 12, f"and {len(nodes) - _MOST_NODES} more nodes", ""))
        y += 24
    width = _PER_ROW * (_WIDTH + _GAP)
    style = 'style="max-width:100%;font-family:sans-serif"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" width="{width}" {style}>{"".join(parts)}</svg>'


def _coordinator(one: dict[str, Any]) -> tuple[str, str, str, str, float]:
    title = f"coordinator {one.get('id', '?')}{' (leader)' if one.get('leader') else ''}"
    state = str(one.get("state", "?"))
    return title, str(one.get("peer", "")), state, "good" if state == "ok" else "bad", 0.0


def _node(node: dict[str, Any]) -> tuple[str, str, str, str, float]:
    condition, is_alive = str(node.get("condition", "?")), node.get("state") == "alive"
    look = "bad" if not is_alive else "good" if condition == "ok" else "warning"
    total, free = node.get("bytes_total"), node.get("bytes_free")
    share = 0.0 if not total or free is None else min(max(1 - free / total, 0.0), 1.0)
    shown = f"{condition if is_alive else node.get('state', '?')}, {size(node.get('bytes'))}"
    return str(node.get("id", "?")), str(node.get("flight", "")), shown, look, share


def _row(parts: list[str], y: int, title: str, boxes: Sequence[tuple[str, str, str, str, float]]) -> int:
    """A heading and its boxes, in lines. Returns where the next row begins."""
    parts.append(_text(0, y + 12, title, ""))
    y += 20
    for at, (name, address, state, look, share) in enumerate(boxes):
        x, top = at % _PER_ROW * (_WIDTH + _GAP), y + at // _PER_ROW * (_HEIGHT + _GAP)
        fill, line = _COLOURS[look]
        parts.append(f'<g><title>{escaped(f"{name} {address} {state}")}</title>')
        parts.append(
            f'<rect x="{x}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{fill}" stroke="{line}"/>'
            f'<rect x="{x}" y="{top + _HEIGHT - 4}" width="{_WIDTH * share:.0f}" height="4" fill="{line}"/>'
        )
        for line_at, (text, weight) in enumerate(((name, "bold"), (address, ""), (state, ""))):
            parts.append(_text(x + 6, top + 14 + 14 * line_at, text, weight))
        parts.append("</g>")
    lines = -(-len(boxes) // _PER_ROW)
    return y + lines * (_HEIGHT + _GAP) + 6


def _text(x: int, y: int, text: str, weight: str) -> str:
    # As many signs as a box has room for.
    shown = text if len(text) <= 24 else f"{text[:23]}…"
    bold = ' font-weight="bold"' if weight else ""
    return f'<text x="{x}" y="{y}" font-size="10" fill="#202124"{bold}>{escaped(shown)}</text>'
