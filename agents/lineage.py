"""Where a session comes from and what was forked from it, as a tree with a query a level."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from django.db.models import OuterRef, QuerySet, Subquery

from agents.models import Run, Session

# How many generations are shown before a session and behind it, and how many sessions of each.
ABOVE, BELOW, WIDE = 10, 4, 30


@dataclass
class Node:
    """A session in the tree, with what is known of its forks."""

    session: Any
    is_present: bool = False
    forks: list["Node"] = field(default_factory=list)
    # Whether it has forks that the tree does not show.
    is_cut: bool = False


@dataclass(frozen=True)
class Tree:
    """The oldest ancestor that is shown; `is_cut` when it was forked from an older one."""

    root: Node
    is_cut: bool

    @property
    def roots(self) -> list[Node]:
        """The first level of the tree."""
        return [self.root]

    @property
    def is_lonely(self) -> bool:
        """Whether there is nothing but the session itself."""
        return not self.is_cut and not self.root.forks


def tree(session: Session) -> Tree:
    """The line of ancestors, the forks of its parent, and what was forked from it."""
    line = [*ancestors(session), session]
    known = {row.pk: row for row in rows([row.pk for row in line])}
    nodes = [Node(known.get(row.pk, row), is_present=row == session) for row in line]
    for parent, child in pairwise(nodes):
        parent.forks = [child]
    if len(nodes) > 1:
        add_siblings(nodes[-2], nodes[-1])
    add_forks([nodes[-1]], BELOW)
    return Tree(nodes[0], is_cut=line[0].forked_from_id is not None)


def ancestors(session: Session) -> list[Session]:
    """What it was forked from, and what that was forked from, the oldest first."""
    line: list[Session] = []
    parent = session.forked_from
    while parent and len(line) < ABOVE and parent != session:
        line.insert(0, parent)
        parent = parent.forked_from
    return line


def add_siblings(parent: Node, present: Node) -> None:
    """The other forks of a parent, in the order of their making, the present one always among them."""
    found = list(forks_of([parent])[: WIDE + 1])
    parent.is_cut = len(found) > WIDE
    nodes = [Node(row) for row in found[:WIDE] if row.pk != present.session.pk]
    parent.forks = sorted([*nodes, present], key=lambda node: node.session.pk)


def add_forks(nodes: Sequence[Node], depth: int) -> None:
    """The forks of these, and of those again; below the last level it is only said that there are some."""
    for _ in range(depth):
        by_pk = {node.session.pk: node for node in nodes}
        found = list(forks_of(nodes)[: WIDE + 1]) if nodes else []
        for row in found[WIDE:]:
            by_pk[row.forked_from_id].is_cut = True
        nodes = [hang(by_pk[row.forked_from_id], row) for row in found[:WIDE]]
    parents = Session.objects.filter(forked_from__in=[node.session.pk for node in nodes])
    deeper = set(parents.values_list("forked_from", flat=True).distinct()) if nodes else set()
    for node in nodes:
        node.is_cut = node.session.pk in deeper


def hang(parent: Node, row: Session) -> Node:
    """A fork below what it was forked from."""
    node = Node(row)
    parent.forks.append(node)
    return node


def forks_of(nodes: Iterable[Node]) -> QuerySet[Session]:
    """What was forked from these, the oldest first."""
    return shown().filter(forked_from__in=[node.session.pk for node in nodes]).order_by("pk")


def rows(numbers: Sequence[int]) -> QuerySet[Session]:
    """These sessions as the tree shows them."""
    return shown().filter(pk__in=numbers)


def shown() -> QuerySet[Session]:
    """Sessions with the state of their last run."""
    last = Run.objects.filter(session=OuterRef("pk")).order_by("-pk").values("state")[:1]
    return Session.objects.annotate(last_state=Subquery(last))
