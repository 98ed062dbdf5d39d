"""Draw the package's rooms and their imports: docs/architecture.svg, and the table of rooms in docs/architecture.md.

A room is a folder or a file directly in `fer_deploy/`. `python docs/tools/architecture.py` writes both; a test fails
when they are not current. Nothing of the package is imported.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fer_deploy"
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms -->\n", "<!-- /rooms -->\n"

Imports = Mapping[str, frozenset[str]]

BOX_HEIGHT, ROW_HEIGHT, CHARACTER, MARGIN, WIDTH, SHIFT = 30, 78, 8.2, 16, 820, 38
STYLE = """
  text { font: 14px ui-monospace, SFMono-Regular, Menlo, monospace; fill: #1f2328; text-anchor: middle; }
  rect { fill: #eef4ff; stroke: #4a74c9; rx: 6px; }
  path { fill: none; stroke: #8a94a6; stroke-width: 1.2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } rect { fill: #1c2a44; stroke: #6d95e6; } path { stroke: #7d8590; }
  }
"""


def room_of(path: Path) -> str:
    """The room that a module of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def read_rooms() -> dict[str, frozenset[str]]:
    """Each room, and the rooms that its modules import anywhere, in functions too."""
    imports: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room.startswith("__"):
            continue
        names = imports.setdefault(room, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module] if "." in node.module else [f"{node.module}.{name.name}" for name in node.names]
            elif isinstance(node, ast.Import):
                modules = [name.name for name in node.names]
            names |= {name.split(".")[1] for name in modules if name.startswith("fer_deploy.")}
    return {room: frozenset(names & imports.keys() - {room}) for room, names in imports.items()}


def layers(imports: Imports) -> list[list[str]]:
    """The rooms from the top layer down; a room lies one layer above the highest room that it imports.

    Raises:
        ValueError: rooms import each other.
    """
    heights: dict[str, int] = {}

    def height(room: str, above: tuple[str, ...] = ()) -> int:
        if room in above:
            raise ValueError(f"rooms import each other: {' -> '.join((*above, room))}")
        if room not in heights:
            heights[room] = 1 + max((height(other, (*above, room)) for other in imports[room]), default=-1)
        return heights[room]

    for room in imports:
        height(room)
    return [
        sorted(room for room in heights if heights[room] == level) for level in range(max(heights.values()), -1, -1)
    ]


def essential(imports: Imports) -> list[tuple[str, str]]:
    """The imports without those that a chain of other imports implies: what the picture needs."""

    def reaches(room: str) -> frozenset[str]:
        return imports[room].union(*(reaches(other) for other in imports[room]))

    return [
        (room, other)
        for room in sorted(imports)
        for other in sorted(imports[room])
        if not any(other in reaches(between) for between in imports[room])
    ]


def draw(imports: Imports) -> str:
    """The picture as SVG: one row per layer, one arrow per essential import; none to the bottom row."""
    centres: dict[str, tuple[float, float]] = {}
    boxes = []
    rows = layers(imports)
    for row, rooms in enumerate(rows):
        y = MARGIN + row * ROW_HEIGHT
        for place, room in enumerate(rooms, start=1):
            # Rows are shifted alternately, so that an arrow past a row does not run through a box of it.
            x = WIDTH * place / (len(rooms) + 1) + (SHIFT if row % 2 else -SHIFT)
            width = len(room) * CHARACTER + 22
            centres[room] = (x, y)
            boxes.append(
                f'<rect x="{x - width / 2:.1f}" y="{y}" width="{width:.1f}" height="{BOX_HEIGHT}"/>'
                f'<text x="{x:.1f}" y="{y + 20}">{escape(room)}</text>'
            )
    arrows = []
    for room, other in essential(imports):
        if other in rows[-1]:  # the bottom row serves everybody: its arrows would hide the others
            continue
        (x1, y1), (x2, y2) = centres[room], centres[other]
        start, end = y1 + BOX_HEIGHT, y2 - 2
        bend = (end - start) / 2
        arrows.append(
            f'<path d="M{x1:.1f},{start} C{x1:.1f},{start + bend} {x2:.1f},{end - bend} {x2:.1f},{end}" '
            'marker-end="url(#head)"/>'
        )
    height = 2 * MARGIN + (len(rows) - 1) * ROW_HEIGHT + BOX_HEIGHT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>The rooms of the package; arrows lead to what a room imports</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0,0 L8,4 L0,8" style="fill: none"/></marker></defs>',
            *arrows,
            *boxes,
            "</svg>\n",
        ]
    )


def table(imports: Imports) -> str:
    """The rooms as a Markdown table, from the top layer down."""
    lines = ["| room | what it does | imports |", "| --- | --- | --- |"]
    for rooms in layers(imports):
        for room in rooms:
            path = PACKAGE / room / "__init__.py"
            text = ast.get_docstring(ast.parse((path if path.exists() else PACKAGE / f"{room}.py").read_text("utf-8")))
            purpose = (text or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            others = ", ".join(f"`{other}`" for other in sorted(imports[room])) or "–"
            lines.append(f"| `{room}` | {purpose} | {others} |")
    return "\n".join(lines) + "\n"


def render() -> dict[Path, str]:
    """Both files as they should be."""
    imports = read_rooms()
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return {PICTURE: draw(imports), PAGE: before + BEGIN + table(imports) + END + after}


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text, encoding="utf-8")
