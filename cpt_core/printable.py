"""Text that comes from the data, such as a file name or a line, made safe to print.

In: any text.
Out: the same on one line, with everything that could drive a terminal or begin a line written as an escape.
Never: changes a character that is seen as it is.
"""


def printable(text: str, *, keep: str = "") -> str:
    """The text with unprintable characters escaped, but for those to be kept."""
    return "".join(
        character if character.isprintable() or character in keep else f"{character!a}"[1:-1] for character in text
    )
