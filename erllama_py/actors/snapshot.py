"""What a supervision tree looks like at one moment, as data that prints as a tree.

Owns nothing: a snapshot holds no reference to what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class TreeNode:
    """One supervisor or child.

    `state` is `"starting"`, `"running"`, `"backoff"` (it waits to be restarted), `"stopping"`, `"stopped"`, `"failed"`
    (it is not restarted any more) or `"finished"`. `uptime` is in seconds since it was last ready, None while it is not
    running; `restarts` counts since it was first started; `last_failure` is one line, None while there was none;
    `detail` is what the child itself reports.
    """

    name: str
    kind: str
    state: str
    restarts: int
    uptime: float | None
    last_failure: str | None
    detail: str | None = None
    children: tuple[TreeNode, ...] = ()

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(node: TreeNode) -> Iterator[str]:
    yield _line(node)
    for number, child in enumerate(node.children, 1):
        last = number == len(node.children)
        branch, trunk = ("└── ", "    ") if last else ("├── ", "│   ")
        first, *rest = _lines(child)
        yield branch + first
        for line in rest:
            yield trunk + line


def _line(node: TreeNode) -> str:
    facts = [f"{node.name} ({node.kind}) {node.state}"]
    if node.uptime is not None:
        facts.append(f"up {node.uptime:.1f} s")
    if node.restarts:
        facts.append(f"{node.restarts} restart{'s' if node.restarts > 1 else ''}")
    if node.detail is not None:
        facts.append(node.detail)
    if node.last_failure is not None:
        facts.append(f"last failure {node.last_failure}")
    return ", ".join(facts)
