"""A picture of which part of the package imports which: read off the sources, implied arrows left out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PARTS = (
    *("cli", "training", "benchmarks", "metrics", "convert", "swap", "data", "inference", "sampling"),
    *("networks", "models", "nn", "ops", "backends", "kernels", "reference"),
)
BOX, HIGH, ACROSS, DOWN, EDGE = 132, 34, 24, 44, 12
Graph = Mapping[str, set[str]]


def imports(root: Path) -> dict[str, set[str]]:
    """Part -> parts that a module of it imports, anywhere but for type checkers alone."""
    graph: dict[str, set[str]] = {part: set() for part in PARTS}
    for part in PARTS:
        folder = root / part if (root / part).is_dir() else root / "pggan_fast" / part
        for path in [*folder.rglob("*.py"), *root.glob(f"pggan_fast/{part}.py")]:
            found = {name.split(".")[1] for name in _imported(ast.parse(path.read_text()).body) if "." in name}
            graph[part] |= found & set(PARTS) - {part}
    return graph


def _imported(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pggan_fast":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("pggan_fast."))
        else:
            yield from _imported(ast.iter_child_nodes(node))


def _reached(graph: Graph) -> dict[str, set[str]]:
    reached = {part: set(below) for part, below in graph.items()}
    for middle in graph:
        for part in graph:
            if middle in reached[part]:
                reached[part] |= reached[middle]
    return reached


def condensed(graph: Graph) -> dict[tuple[str, ...], set[tuple[str, ...]]]:
    """Parts that import each other as one, and only arrows that no others imply."""
    reached = _reached(graph)
    group = {
        part: tuple(p for p in graph if p == part or (p in reached[part] and part in reached[p])) for part in graph
    }
    below = {group[p]: {group[q] for q in reached[p]} - {group[p]} for p in graph}
    return {g: {b for b in under if not any(b in below[other] for other in under)} for g, under in below.items()}


def svg(root: Path) -> str:
    arrows = condensed(imports(root))
    rank: dict[tuple[str, ...], int] = {}

    def height(group: tuple[str, ...]) -> int:
        if group not in rank:
            rank[group] = 1 + max((height(below) for below in arrows[group]), default=-1)
        return rank[group]

    rows: dict[int, list[tuple[str, ...]]] = {}
    for group in arrows:
        rows.setdefault(height(group), []).append(group)
    most, top = max(map(len, rows.values())), max(rows)
    width, total = most * (BOX + ACROSS) - ACROSS + 2 * EDGE, (top + 1) * (HIGH + DOWN) - DOWN + 2 * EDGE
    place = {}
    for at, row in rows.items():
        left = (width - len(row) * (BOX + ACROSS) + ACROSS) / 2
        for number, group in enumerate(row):
            place[group] = left + number * (BOX + ACROSS), EDGE + (top - at) * (HIGH + DOWN)
    lines = [_arrow(place[a], place[b]) for a, below in arrows.items() for b in sorted(below)]
    boxes = [_box(*place[group], ", ".join(group)) for group in arrows]
    return "\n".join([_HEAD.format(width=width, height=total), *lines, *boxes, "</svg>"])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="13">
<title>which part imports which</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#5c6bc0"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>"""


def _box(x: float, y: float, text: str) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y}" width="{BOX}" height="{HIGH}" rx="5" fill="#e8eaf6" stroke="#5c6bc0"/>'
        f'<text x="{x + BOX / 2:.0f}" y="{y + HIGH / 2 + 4.5}" text-anchor="middle" fill="#1a237e">{text}</text>'
    )


def _arrow(a: tuple[float, float], b: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = (a[0] + BOX / 2, a[1] + HIGH), (b[0] + BOX / 2, b[1])
    bend = (y2 - y1) / 2
    return (
        f'<path d="M{x1:.0f} {y1} C{x1:.0f} {y1 + bend} {x2:.0f} {y2 - bend} {x2:.0f} {y2}" '
        'fill="none" stroke="#9fa8da" marker-end="url(#tip)"/>'
    )


if __name__ == "__main__":
    sys.stdout.write(svg(Path(__file__).resolve().parents[2]))
