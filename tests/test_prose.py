"""Text of agents as HTML that does nothing."""

import time
from html.parser import HTMLParser

import pytest

from agents.prose import ATTRIBUTES, MARKDOWN_LIMIT, TAGS, markdown, plain
from tests.test_pages import HOSTILE


class Found(HTMLParser):
    """The tags of a text with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


ATTACKS = [
    *HOSTILE,
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))", "[x](JaVaScRiPt:alert(1))", "[x](java\tscript:alert(1))",
    "[x](&#106;avascript:alert(1))", "[x](data:text/html,<script>alert(1)</script>)", "[x](vbscript:x)",
    "[x](//evil.example)", "[x](/runs/)", "[x](\x01javascript:alert(1))", "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]", '[x](http://a "onmouseover=alert(1)")', '[x](http://a"onclick="y)',
    "![x](javascript:alert(1))", "![<script>](http://evil.example/a.png)", '![" onload="](http://a/b)',
    '```"><script>alert(1)</script>\nx\n```', "```html\n<script>alert(1)</script>\n```",
    "```python onload=x\nprint('<b>')\n```", "`<b>`", "| <b> | [x](javascript:x) |\n|---|---|\n| <i> | y |",
    "<svg/onload=alert(1)>", "<!-- --><style>*{}</style>", "<a href='javascript:x'>", "[![a](http://b)](http://c)",
]  # fmt: skip


@pytest.mark.parametrize("text", ATTACKS)
def test_nothing_in_markdown_does_anything(text: str) -> None:
    for tag, attributes in Found(markdown(plain(text))).found:
        assert tag in TAGS
        assert set(attributes) <= ATTRIBUTES.get(tag, set()) | {"class", "rel", "target"}
        if tag == "a" and "href" in attributes:
            assert (attributes["href"] or "").startswith(("http://", "https://", "mailto:"))
            assert (attributes["rel"], attributes["target"]) == ("noopener nofollow", "_blank")


def test_markdown_is_formatted() -> None:
    html = markdown("# Head\n\n**bold** `code`\n\n| a |\n|---|\n| b |\n\n- [x](https://example.org)")
    assert [tag for tag, _ in Found(html).found] == [
        "h1", "p", "strong", "code", "table", "thead", "tr", "th", "tbody", "tr", "td", "ul", "li", "a",
    ]  # fmt: skip


def test_code_is_coloured_by_classes_and_unknown_languages_are_not() -> None:
    assert '<span class="hl-k">def</span>' in markdown("```python\ndef f(): pass\n```")
    assert "<span" not in markdown("```nonsense\ndef f(): pass\n```")


def test_an_image_is_a_link_with_its_description() -> None:
    assert ("img" in markdown("![a cat](https://example.org/c.png)")) is False
    assert ">a cat</a>" in markdown("![a cat](https://example.org/c.png)")


def test_what_is_too_long_stays_text() -> None:
    assert markdown("*" * (MARKDOWN_LIMIT + 1)).startswith("<pre>")


LABORIOUS = [
    "[", "![", "[a](", "*a_", "`", ">", "- ", "  - a\n", "a\n---\n", "&lt;", "|a", "<a", "\\", "[a]: ",
    "**a **", "~~a", "```python\n'''\n", "```\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", LABORIOUS)
def test_no_text_takes_long(piece: str) -> None:
    begun = time.process_time()
    markdown(piece * (MARKDOWN_LIMIT // len(piece)))
    assert time.process_time() - begun < 2
