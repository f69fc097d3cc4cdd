"""Text of agents made harmless: without what a terminal or a browser would obey."""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.token import STANDARD_TYPES
from pygments.util import ClassNotFound

ANSI = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # OSC: titles, links
    r"|\x1b[PX^_][^\x1b]*\x1b\\"  # DCS and other strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, movements
    r"|\x1b[ -/]*[0-~]"  # everything shorter
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# They make a line read otherwise than it is.
DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")

# In characters; what is longer stays plain text.
MARKDOWN_LIMIT, HIGHLIGHT_LIMIT = 64 * 1024, 16 * 1024
LINK = re.compile(r"(https?://|mailto:)[^\s]", re.IGNORECASE)
PREFIX = "hl-"
TAGS = set(
    "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong"
    " table tbody td th thead tr ul".split()
)
ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}}
COLOURS = {"span": {PREFIX + name for name in STANDARD_TYPES.values()}}


def plain(text: object) -> str:
    """The text without control characters, and with those spelt out that turn its direction."""
    bare = ANSI.sub("", str(text)).replace("\r\n", "\n").replace("\r", "\n")
    return DIRECTION.sub(lambda found: f"[U+{ord(found[0]):04X}]", CONTROL.sub("", bare))


def pretty(value: object) -> str:
    """JSON for people."""
    return plain(json.dumps(value, indent=2, ensure_ascii=False, default=str))


@lru_cache(maxsize=512)
def markdown(text: str) -> SafeString:
    """Markdown as HTML of few kinds: no HTML of the text's own, no images, links to the web alone.

    Two gates, each of which would do: the parser knows no HTML, and an allow-list comes after it.
    """
    if len(text) > MARKDOWN_LIMIT:
        return unformatted(text)
    try:
        html = PARSER.render(text)
    except RecursionError:
        return unformatted(text)
    return mark_safe(clean(html))  # noqa: S308


def unformatted(text: str) -> SafeString:
    """The text as it is."""
    return mark_safe(f"<pre>\n{escape(text)}</pre>")  # noqa: S308


def clean(html: str) -> str:
    """What of this HTML is on the list."""
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        allowed_classes=COLOURS,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def coloured(code: str, language: str, _: str) -> str:
    """A block of code by its language, as classes; empty leaves it as it is."""
    if len(code) > HIGHLIGHT_LIMIT:
        return ""
    try:
        lexer = get_lexer_by_name(language, stripnl=False)
    except ClassNotFound:
        return ""
    return str(highlight(code, lexer, HtmlFormatter(nowrap=True, classprefix=PREFIX)))


def image(_: RendererHTML, tokens: Sequence[Token], index: int, *__: Any) -> str:
    """A picture from elsewhere is a link: loading it would tell its owner who reads this."""
    token = tokens[index]
    label = token.content or "image"
    return f'<a href="{escape(token.attrs.get("src", ""))}">{escape(label)}</a>'


def parser() -> MarkdownIt:
    """CommonMark with tables, without HTML."""
    made = MarkdownIt("commonmark", {"html": False, "highlight": coloured})
    made.enable(["table", "strikethrough"])
    made.validateLink = lambda url: bool(LINK.match(url))  # type: ignore[method-assign]
    made.add_render_rule("image", image)
    return made


PARSER = parser()
