"""Line charts as SVG, written by hand: small panels in two columns, x logarithmic, y from zero."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from html import escape

Line = list[tuple[float, float]]

COLOURS = {"go": "#2563eb", "ours": "#d9480f", "kernel": "#868e96"}
NAMES = {"go": "runsc gofer (Go)", "ours": "gofer (Python)", "kernel": "the system call alone"}
BARS = {"ours": "#d9480f", "plain": "#f4a261", "far": "#9d4edd", "bindfs": "#495057", "sshfs": "#2563eb", "native": "#ced4da"}
WIDTH, HEIGHT = 440, 250  # of a panel, in pixels
HEAD = 56  # above the panels: legend and caption
LEFT, RIGHT, TOP, BOTTOM = 56, 30, 40, 44  # its margins


@dataclasses.dataclass
class Panel:
    """title says what y is, with its unit; lines by server, each a list of (x, y)."""

    title: str
    x_label: str
    lines: dict[str, Line] = dataclasses.field(default_factory=dict)

    def add(self, kind: str, x: float, y: float) -> None:
        self.lines.setdefault(kind, []).append((x, y))


def svg(panels: Sequence[Panel], caption: str) -> str:
    width, height = 2 * WIDTH, HEAD + (len(panels) + 1) // 2 * HEIGHT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, panel in enumerate(panels):
        x, y = number % 2 * WIDTH, number // 2 * HEIGHT + HEAD
        parts.append(f'<g transform="translate({x} {y})">{"".join(draw(panel))}</g>')
    at = 16
    for kind, name in NAMES.items():
        parts.append(f'<rect x="{at}" y="15" width="18" height="4" fill="{COLOURS[kind]}"/>')
        parts.append(f'<text x="{at + 24}" y="21">{name}</text>')
        at += 170
    parts.append(f'<text x="16" y="42" fill="#666">{escape(caption)}</text></svg>')
    return "\n".join(parts) + "\n"


def draw(panel: Panel) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    if not points:
        return []
    low, high = (math.log10(f(x for x, _ in points)) for f in (min, max))
    low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    step = nice(max(y for _, y in points) / 4)
    top = step * math.ceil(max(y for _, y in points) * 1.02 / step)

    def px(x: float) -> float:
        return LEFT + (math.log10(x) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - y / top * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{LEFT}" y="22" font-size="14" font-weight="600">{escape(panel.title)}</text>']
    for number in range(round(top / step) + 1):
        y = number * step
        parts.append(f'<path d="M{LEFT} {py(y):.1f}H{WIDTH - RIGHT}" stroke="#{"999" if y == 0 else "ddd"}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for power in range(low, high + 1):
        parts.append(
            f'<text x="{px(10**power):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{10**power:,}</text>'
        )
    parts.append(
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end" fill="#666">{escape(panel.x_label)}</text>'
    )
    for kind, line in panel.lines.items():
        path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in line)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[kind]}" stroke-width="2"/>')
        for x, y in line:
            mark = f"{NAMES[kind]}: {y:.4g} at {x:,.0f}"
            parts.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3" fill="{COLOURS[kind]}"><title>{mark}</title></circle>'
            )
    return parts


def bars(rows: dict[str, dict[str, float]], one: str, caption: str, most: float = 8.0) -> str:
    """A group of bars a row, one for each kind, in multiples of what the kind `one` has there; those above `most` are cut."""
    kinds = [kind for kind in BARS if any(kind in row for row in rows.values())]
    left, right, thick = 190, 60, 13
    height = HEAD + sum((len(kinds) * thick + 10) for _ in rows) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{height}" '
        f'viewBox="0 0 {2 * WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="16" y="42" fill="#666">{escape(caption)}</text>',
    ]
    for number, kind in enumerate(kinds):
        parts.append(f'<rect x="{16 + 140 * number}" y="12" width="14" height="10" fill="{BARS[kind]}"/>')
        parts.append(f'<text x="{36 + 140 * number}" y="21">{escape(kind)}</text>')
    unit, y = (2 * WIDTH - left - right) / most, HEAD
    for name, row in rows.items():
        parts.append(f'<text x="{left - 8}" y="{y + len(kinds) * thick / 2 + 4:.0f}" text-anchor="end">{escape(name)}</text>')
        for kind in kinds:
            if kind in row:
                ratio = row[kind] / row[one]
                width = min(ratio, most) * unit
                parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{thick - 2}" fill="{BARS[kind]}"/>')
                parts.append(f'<text x="{left + width + 4:.1f}" y="{y + thick - 3}" font-size="10">{ratio:.2f}</text>')
            y += thick
        y += 10
    parts.append(f'<path d="M{left + unit:.1f} {HEAD - 4}V{height - 16}" stroke="#222" stroke-dasharray="3 3"/></svg>')
    return "\n".join(parts) + "\n"


def nice(step: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= step)
