"""Text for the tables of the Prefect UI, which reads every cell as markdown and markdown as HTML.

In: text that may come from the data, such as a file name or the message of an error.
Out: markdown that shows exactly this text, on one line.
Never: lets such text become a link, a picture or an element of the page.
"""

import re

from cpt_core.printable import printable

_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[&<>]|[\\`*\[\]~|]|(?<!\w)_|_(?!\w)|^[#+=-]")
"""An underscore within a word, as in a reason code, means nothing in markdown."""


class Markdown(str):
    """Text that is markdown already: what is in it from the data is escaped."""

    __slots__ = ()


def escaped(text: str) -> Markdown:
    """Any text as markdown that shows it; markdown stays as it is."""
    if isinstance(text, Markdown):
        return text
    return Markdown(_SPECIAL.sub(lambda found: _HTML.get(found[0], f"\\{found[0]}"), printable(text)))


def copyable(uri: str) -> Markdown:
    """A path or URI as text to copy. No link: a browser opens no file, and no s3://, from a page of a server."""
    fence = "``" if "`" in uri else "`"
    text = printable(uri).replace("|", "\\|")
    return Markdown(f"{fence}{text}{fence}")
