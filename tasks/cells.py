"""What a cell of a table is, beside plain text; how it looks is up to the page that shows it."""


class Emphasis(str):
    """Text that stands out, such as the name of a sum."""

    __slots__ = ()


class Place(str):
    """A path or URI: to copy, because a browser opens no file, and no s3://, from a page of a server."""

    __slots__ = ()
