"""What a cell of a table is, beside plain text; how it looks is up to the page that shows it."""

from typing import Self


class Emphasis(str):
    """Text that stands out, such as the name of a sum."""

    __slots__ = ()


class Place(str):
    """A path or URI: to copy, because a browser opens no file, and no s3://, from a page of a server."""

    __slots__ = ()


class Link(str):
    """Text that leads to another page of the same server, at ``address``."""

    __slots__ = ("address",)
    address: str

    def __new__(cls, text: str, address: str) -> Self:
        """A link of this text."""
        link = super().__new__(cls, text)
        link.address = address
        return link
