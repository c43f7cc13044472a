"""What a line is, by strict RFC 8259."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cpt_core.tokenization.parsing import Fault, parse_line


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b'{"text": "a"}', "a"),
        (b' {"id": 7, "text": "a\\u00e4\\n"} ', "aä\n"),
        (b'{"text": "\\ud83e\\uddd1"}', "🧑"),
        (b'{"text": "a\\u0000b"}', "a\x00b"),
        ('{"text": "a\u2028b\u0085c"}'.encode(), "a\u2028b\u0085c"),
        (b'{"text": "{\\"text\\": 1}: :"}', '{"text": 1}: :'),
        (b'{"text": "<s> </s>"}', "<s> </s>"),
    ],
)
def test_a_valid_line_gives_its_text(line, text):
    """Escapes are decoded, NUL and line separators are data, extra fields are ignored."""
    assert parse_line(line, "text") == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "json_syntax"),
        (b'{"text": "a"}{}', "json_syntax"),
        (b'{"text": NaN}', "json_syntax"),
        (b'{"text": "a\x01"}', "json_syntax"),
        (b"{'text': 'a'}", "json_syntax"),
        (b'\xef\xbb\xbf{"text": "a"}', "json_syntax"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b'{"text": "\\ud800"}', "lone_surrogate"),
        (b'{"text": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", "too_deep"),
        (b'["text"]', "not_object"),
        (b"null", "not_object"),
        (b'{"text": "a", "text": "b"}', "duplicate_key"),
        (b'{"id": 1, "text": "a", "id": 2}', "duplicate_key"),
        (b'{"content": "a"}', "missing_field"),
        (b'{"text": null}', "non_string_text"),
        (b'{"text": 3}', "non_string_text"),
        (b'{"text": ["a"]}', "non_string_text"),
        (b'{"text": ""}', "empty_text"),
    ],
)
def test_a_line_that_is_no_document_has_a_reason(line, reason):
    """Each kind of bad line has its own code, and a detail."""
    fault = parse_line(line, "text")
    assert isinstance(fault, Fault)
    assert fault.reason == reason
    assert fault.detail


def test_a_detail_names_keys_and_types_but_no_text():
    """Document text never reaches a log."""
    assert parse_line(b'{"body": "secret", "id": 1}', "text") == Fault(
        "missing_field", "no field 'text'; the keys are: body, id"
    )
    assert parse_line(b'{"text": {"a": "secret"}}', "text") == Fault(
        "non_string_text", "'text' is an object, expected a string"
    )


@given(text=st.text(min_size=1), others=st.dictionaries(st.text(), st.integers() | st.text(), max_size=3))
def test_whatever_the_standard_library_writes_is_read_back(text, others):
    """ASCII-escaped and raw UTF-8 forms give the same text; lone surrogates cannot be generated here."""
    record = {**others, "text": text}
    for ensure_ascii in (True, False):
        line = json.dumps(record, ensure_ascii=ensure_ascii).encode()
        assert parse_line(line, "text") == text


@given(junk=st.binary(max_size=60))
def test_no_bytes_raise(junk):
    """Any line at all is a text or a fault."""
    assert isinstance(parse_line(junk, "text"), str | Fault)
