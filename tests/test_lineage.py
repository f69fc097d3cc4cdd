"""The tree of a session: its ancestors, its siblings, and what was forked from it."""

import re
from collections.abc import Callable

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from agents import lineage
from agents.lineage import ABOVE, BELOW, WIDE, Node
from agents.models import Agent, Run, Session

pytestmark = pytest.mark.django_db
MakeAgent = Callable[..., Agent]


@pytest.fixture
def fork(make_agent: MakeAgent) -> Callable[..., Session]:
    """Makes sessions by their titles, forked from others."""
    agent = make_agent()

    def make(title: str, parent: Session | None = None) -> Session:
        return Session.objects.create(
            agent=agent, runtime="echo", home=title, working_directory="/", title=title, forked_from=parent
        )

    return make


def outline(node: Node) -> str:
    """A tree in one line: `*` is the present one, `…` where more was forked than is shown."""
    marks = ("*" if node.is_present else "") + ("…" if node.is_cut else "")
    inside = " ".join(outline(fork) for fork in node.forks)
    return f"{node.session.title}{marks}" + (f"({inside})" if inside else "")


def test_ancestors_siblings_and_forks_are_a_tree(fork: Callable[..., Session]) -> None:
    root = fork("root")
    left, right = fork("left", root), fork("right", root)
    child = fork("child", left)
    fork("cousin", right)
    fork("grandchild", child)
    assert outline(lineage.tree(left).root) == "root(left*(child(grandchild)) right)"
    assert outline(lineage.tree(grandparent := root).root) == "root*(left(child(grandchild)) right(cousin))"
    assert not lineage.tree(grandparent).is_lonely
    assert outline(lineage.tree(child).root) == "root(left(child*(grandchild)))"


def test_a_session_without_relations_has_no_tree(fork: Callable[..., Session]) -> None:
    assert lineage.tree(fork("alone")).is_lonely


def test_a_long_line_is_cut_on_both_sides_and_says_so(fork: Callable[..., Session]) -> None:
    line = [fork("0")]
    for number in range(1, 40):
        line.append(fork(str(number), line[-1]))
    tree = lineage.tree(Session.objects.get(pk=line[20].pk))
    assert tree.is_cut
    assert outline(tree.root).startswith(f"{20 - ABOVE}(")
    assert f"{20 + BELOW}…" in outline(tree.root)
    assert f"{20 + BELOW + 1}" not in outline(tree.root)


def test_many_siblings_and_many_forks_are_cut_and_the_present_one_is_there(
    fork: Callable[..., Session],
) -> None:
    root = fork("root")
    forks = [fork(f"f{number}", root) for number in range(WIDE * 2)]
    tree = lineage.tree(forks[-1]).root
    assert tree.is_cut
    assert tree.forks[-1].is_present
    assert len(tree.forks) == WIDE + 1
    tree = lineage.tree(root).root
    assert (len(tree.forks), tree.is_cut) == (WIDE, True)


def test_a_circle_ends(fork: Callable[..., Session]) -> None:
    first = fork("first")
    second = fork("second", first)
    Session.objects.filter(pk=first.pk).update(forked_from=second)
    assert "second*" in outline(lineage.tree(Session.objects.get(pk=second.pk)).root)


def test_a_level_costs_a_query(fork: Callable[..., Session]) -> None:
    root = fork("root")
    for _ in range(10):
        child = fork("child", root)
        for _ in range(3):
            fork("grandchild", child)
    with CaptureQueriesContext(connection) as captured:
        lineage.tree(root)
    # The session itself, each level below, and whether there is one more.
    assert len(captured.captured_queries) <= 1 + BELOW + 1


def test_the_page_marks_the_present_one_and_says_how_the_others_ended(
    client: Client, admin: User, fork: Callable[..., Session]
) -> None:
    client.force_login(admin)
    root = fork("<b>root")
    child = fork("child", root)
    Run.objects.create(
        agent=root.agent, config=root.agent.freeze(), prompt="x", session=root, state="timed_out"
    )
    html = client.get(child.get_absolute_url()).content.decode()
    tree = html[html.index('class="own-tree"') :]
    assert tree.index("&lt;b&gt;root") < tree.index("timed out") < tree.index("<strong>child</strong>")
    assert len(re.findall(r'aria-current="true"', tree)) == 1
    assert root.get_absolute_url() in tree
