"""Write the colours of highlighted code, for light and dark, into the stylesheet that is committed."""

import re
from pathlib import Path

from pygments.formatters import HtmlFormatter

TARGET = Path(__file__).resolve().parent.parent / "agents" / "static" / "agents" / "code.css"
STYLES = {"light": "vs", "dark": "github-dark"}
HEAD = "/* Written by scripts/colours.py. */\n"


def rules(theme: str, style: str) -> str:
    """The rules for tokens alone, below the theme's attribute."""
    formatter = HtmlFormatter(style=style, classprefix="hl-")
    lines = formatter.get_style_defs(f'[data-bs-theme="{theme}"]').splitlines()
    tokens = [line.partition(" /*")[0] for line in lines if re.search(r"\] \.hl-\w+ \{", line)]
    # What an agent abbreviates is no error.
    return "\n".join(line for line in tokens if ".hl-err " not in line)


if __name__ == "__main__":
    TARGET.write_text(HEAD + "\n".join(rules(*pair) for pair in STYLES.items()) + "\n")
