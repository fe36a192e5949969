"""A picture of which part of the package imports which: read off the sources, implied arrows left out."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path

PARTS = (
    *("cli", "training", "benchmarks", "metrics", "convert", "swap", "data", "inference", "sampling"),
    *("networks", "models", "nn", "ops", "backends", "kernels", "reference"),
)
BOX, LANE, HIGH, ACROSS, DOWN, EDGE = 150, 10, 28, 20, 24, 12
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


Node = tuple[str, ...]


def _ranks(arrows: Mapping[Node, set[Node]]) -> dict[Node, int]:
    """0: imports nothing; else one more than the highest that it imports."""
    rank: dict[Node, int] = {}

    def of(node: Node) -> int:
        if node not in rank:
            rank[node] = 1 + max(map(of, arrows[node]), default=-1)
        return rank[node]

    for node in arrows:
        of(node)
    return rank


def _ways(arrows: Mapping[Node, set[Node]], rank: dict[Node, int]) -> list[list[Node]]:
    """Each arrow as the nodes that it goes through: one more in every row between, so that no box is in its way."""
    ways = []
    for a, below in arrows.items():
        for b in sorted(below):
            between = [(f"{a} to {b} at {at}",) for at in range(rank[a] - 1, rank[b], -1)]
            rank |= {node: rank[a] - 1 - number for number, node in enumerate(between)}
            ways.append([a, *between, b])
    return ways


def _placed(ways: list[list[Node]], rank: Mapping[Node, int], boxes: Mapping[Node, set[Node]]) -> dict[Node, float]:
    """The left edge of every node, each row in the order of what points at it."""
    rows: dict[int, list[Node]] = {}
    for node, at in rank.items():
        rows.setdefault(at, []).append(node)
    middle: dict[Node, float] = {}
    left: dict[Node, float] = {}
    for at in sorted(rows, reverse=True):
        above = {node: [middle[a] for way in ways for a, b in pairwise(way) if b == node] for node in rows[at]}
        row = sorted(rows[at], key=lambda node: (sum(above[node]) / len(above[node]) if above[node] else 0.0, node))
        widths = [BOX if node in boxes else LANE for node in row]
        x = -(sum(widths) + ACROSS * (len(row) - 1)) / 2
        for node, width in zip(row, widths, strict=True):
            left[node], middle[node] = x, x + width / 2
            x += width + ACROSS
    return left


def svg(root: Path) -> str:
    arrows = condensed(imports(root))
    rank = _ranks(arrows)
    ways = _ways(arrows, rank)
    left = _placed(ways, rank, arrows)
    shift, top = EDGE - min(left.values()), max(rank.values())
    right = max(x + (BOX if node in arrows else LANE) for node, x in left.items()) + shift + EDGE
    place = {
        node: (x + shift, EDGE + (top - rank[node]) * (HIGH + DOWN), BOX if node in arrows else LANE)
        for node, x in left.items()
    }
    height = (top + 1) * (HIGH + DOWN) - DOWN + 2 * EDGE
    lines = [_arrow([place[node] for node in way]) for way in ways]
    boxes = [_box(*place[node][:2], ", ".join(node)) for node in arrows]
    return "\n".join([_HEAD.format(width=round(right), height=height), *lines, *boxes, "</svg>"])


_HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"
font-family="sans-serif" font-size="13">
<title>which part imports which</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
<path d="M0 0 L8 4 L0 8 z" fill="#5c6bc0"/></marker></defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>"""


def _box(x: float, y: float, text: str) -> str:
    return (
        f'<rect x="{x:.0f}" y="{y}" width="{BOX}" height="{HIGH}" rx="5" fill="#e8eaf6" stroke="#5c6bc0"/>'
        f'<text x="{x + BOX / 2:.0f}" y="{y + HIGH / 2 + 4.5}" text-anchor="middle" fill="#1a237e">{text}</text>'
    )


def _arrow(places: list[tuple[float, float, float]]) -> str:
    """Down through the middles of these."""
    x, y, width = places[0]
    path, x, y = "", x + width / 2, y + HIGH
    for at, (left, top, width) in enumerate(places[1:], 2):
        x2, bend = left + width / 2, (top - y) / 2
        path += f" C{x:.0f} {y + bend} {x2:.0f} {top - bend} {x2:.0f} {top}"
        x, y = x2, top
        if at < len(places):
            path, y = path + f" V{top + HIGH}", top + HIGH
    first = places[0]
    start = f"M{first[0] + first[2] / 2:.0f} {first[1] + HIGH}"
    return f'<path d="{start}{path}" fill="none" stroke="#9fa8da" marker-end="url(#tip)"/>'


if __name__ == "__main__":
    sys.stdout.write(svg(Path(__file__).resolve().parents[2]))
