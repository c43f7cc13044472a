"""Text as markdown that shows it."""

import pytest

from tasks.cells import Emphasis, Link, Place
from tasks.markdown import escaped


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("1,234 json_syntax, 12.5%", "1,234 json_syntax, 12.5%"),
        ("<b>&amp;", "&lt;b&gt;&amp;amp;"),
        ("![x](y) `z` **b** ~s~ |", r"!\[x\](y) \`z\` \*\*b\*\* \~s\~ \|"),
        ("_a_ a_b C:\\d", r"\_a\_ a_b C:\\d"),
        ("# head", r"\# head"),
        ("a\n# b", r"a\\n# b"),
        (Emphasis("all *"), r"**all \***"),
        (Link("a](x)", "/artifacts/artifact/1"), r"[a\](x)](/artifacts/artifact/1)"),
    ],
)
def test_nothing_in_a_text_means_anything_in_markdown(text, markdown):
    """Not even a line end."""
    assert escaped(text) == markdown


def test_a_place_is_shown_to_be_copied():
    """Whatever characters the path has; no link, which a browser would not follow."""
    assert escaped(Place("/store/a ](x)<b>")) == "`/store/a ](x)<b>`"
    assert escaped(Place("s3://bucket/a`b|c")) == r"``s3://bucket/a`b\|c``"
