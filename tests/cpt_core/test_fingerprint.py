"""Canonical JSON and its digest."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.fingerprint import canonical_json, differing_fields, fingerprint, sealed_json, unsealed_json


def test_keys_are_sorted_and_white_space_is_absent():
    """Equal mappings in another order give equal bytes."""
    assert canonical_json({"b": [1, 2.5, None], "a": "ä"}) == '{"a":"ä","b":[1,2.5,null]}'.encode()


def test_a_fingerprint_is_the_sha256_of_the_canonical_form():
    """The digest of an empty object is the well-known digest of two braces."""
    assert fingerprint({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"


@pytest.mark.parametrize("value", [{1, 2}, b"x", float("nan"), {1: "a"}, object()])
def test_values_without_one_stable_form_are_refused(value):
    """A set, bytes, NaN, a non-string key and an object raise instead of getting an arbitrary form."""
    with pytest.raises(TypeError, match="has no stable JSON form"):
        canonical_json({"field": value})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=12,
)


@given(_JSON)
def test_insertion_order_does_not_matter(value):
    """Rebuilding every mapping in reverse order leaves the fingerprint as it is."""

    def reverse(item):
        if isinstance(item, dict):
            return {key: reverse(item[key]) for key in reversed(list(item))}
        return [reverse(child) for child in item] if isinstance(item, list) else item

    assert fingerprint(reverse(value)) == fingerprint(value)


def test_differences_are_named_by_dotted_path():
    """Changed, removed and added leaves are listed in order of their path."""
    old = {"a": {"x": 1, "y": 2}, "b": [1]}
    new = {"a": {"x": 1, "y": 3}, "c": True}
    assert list(differing_fields(old, new)) == [("a.y", 2, 3), ("b", [1], None), ("c", None, True)]


def test_a_sealed_object_is_readable_json_that_ends_with_its_digest():
    """Any JSON reader can read it, and any person can check it."""
    content = sealed_json({"a": 1, "é": ["\udce9"]})
    head = b'{\n "a": 1,\n "\\u00e9": [\n  "\\udce9"\n ],\n "record_sha256": "'
    assert content == head + hashlib.sha256(head).hexdigest().encode() + b'"\n}'
    assert json.loads(content) == {"a": 1, "é": ["\udce9"], "record_sha256": hashlib.sha256(head).hexdigest()}


@pytest.mark.parametrize("indent", [None, 1])
def test_every_changed_byte_of_a_sealed_object_is_noticed(indent):
    """Also those that leave the JSON as it is, such as another white space."""
    values = {"files": {"rows": {"size_bytes": 12}}, "seconds": 0.5, "name": 'a "record_sha256": "b'}
    content = sealed_json(values, indent)
    assert unsealed_json(content) == values
    for position in range(len(content)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128):
            changed = content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :]
            with pytest.raises(ValueError, match="does not match its own record_sha256"):
                unsealed_json(changed)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"record_sha256": ""}'])
def test_what_was_never_sealed_is_refused(content):
    """An empty or foreign file is damaged."""
    with pytest.raises(ValueError, match="does not match its own record_sha256"):
        unsealed_json(content)
