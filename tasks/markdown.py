"""Text for the tables of the Prefect UI, which reads every cell as markdown and markdown as HTML.

In: text that may come from the data, such as a file name or the message of an error.
Out: markdown that shows exactly this text, on one line.
Never: lets such text become a link, a picture or an element of the page.
"""

import re

from cpt_core.printable import printable
from tasks.cells import Emphasis, Link, Place

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[&<>]|[\\`*\[\]~|]|(?<!\w)_|_(?!\w)|^[#+=-]")
"""An underscore within a word, as in a reason code, means nothing in markdown."""


def escaped(cell: str) -> str:
    """A cell as markdown that shows it."""
    if isinstance(cell, Place):
        return _copyable(cell)
    text = _SPECIAL.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), printable(cell))
    if isinstance(cell, Link):
        return f"[{text}]({cell.address})"
    return f"**{text}**" if isinstance(cell, Emphasis) else text


def _copyable(uri: str) -> str:
    fence = "``" if "`" in uri else "`"
    text = printable(uri).replace("|", "\\|")
    return f"{fence}{text}{fence}"
