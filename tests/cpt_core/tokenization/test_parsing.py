"""What a line is, by strict RFC 8259."""

import json
import re

import pytest
from hypothesis import given, settings
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
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "a"),
        (b'{"text": "1e999, 2", "n": [1e999, -1e+999 ,1], "m": 1E999}', "1e999, 2"),
        (b'{"text": "a", "deep": ' + b"[" * 1023 + b"]" * 1023 + b"}", "a"),
        (b'{"text": "a\\u0022b", "x": {"y": 1, "y": 2}}', 'a"b'),
        (b'{"text": "a", "\\u0022": 1, "\\"\\"": [{"text": "b"}, "\\u0022"]}', "a"),
    ],
    ids=[
        "an object",
        "white space around and other fields",
        "escaped surrogate pair",
        "NUL",
        "U+2028 and U+0085",
        "quoted JSON in a text",
        "special tokens",
        "integer of 5,000 digits",
        "numbers beyond doubles",
        "1,024 levels deep",
        "a key twice in a nested object",
        "escaped quotes in keys",
    ],
)
def test_a_valid_line_gives_its_text(line, text):
    """Escapes are decoded, NUL and line separators are data, extra fields are ignored whatever their size."""
    assert parse_line(line, "text") == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "json_syntax"),
        (b'{"text": "a", "n": 1e999, "m": 1e5e5}', "json_syntax"),
        (b'{"text": "a", "n": 1e999, "m": 01}', "json_syntax"),
        (b'{"text": "a", "n": Infinity}', "json_syntax"),
        (b'{"text": "a", "n": -Infinity}', "json_syntax"),
        (b'{"text": "a",}', "json_syntax"),
        (b'{"text": "a"} ,', "json_syntax"),
        (b'{"text": "\\x41"}', "json_syntax"),
        (b"\x0c", "json_syntax"),
        (b"\x00", "json_syntax"),
        (b'{"text": "a"}{}', "json_syntax"),
        (b'{"text": NaN}', "json_syntax"),
        (b'{"text": "a\x01"}', "json_syntax"),
        (b"{'text': 'a'}", "json_syntax"),
        (b'\xef\xbb\xbf{"text": "a"}', "json_syntax"),
        (b'{"text": "\xff"}', "invalid_utf8"),
        (b'{"text": "\xed\xa0\x80"}', "invalid_utf8"),
        (b'{"text": "\xc0\xaf"}', "invalid_utf8"),
        (b'{"text": "\\ud800"}', "lone_surrogate"),
        (b'{"text": "\\udc00"}', "lone_surrogate"),
        (b'{"text": "a", "x": "\\ud800\\u0041"}', "lone_surrogate"),
        (b'{"text": "a", "x": ' + b"[" * 1024 + b"]" * 1024 + b"}", "too_deep"),
        (b'{"text": "a", "x": ' + b"[" * 2000 + b"]" * 2000 + b"}", "too_deep"),
        (b'["text"]', "not_object"),
        (b"null", "not_object"),
        (b'"text"', "not_object"),
        (b"9" * 5000, "not_object"),
        (b'{"text": "a", "text": "b"}', "duplicate_key"),
        (b'{"id": 1, "text": "a", "id": 2}', "duplicate_key"),
        (b'{"text": "a", "te\\u0078t": "b"}', "duplicate_key"),
        (b'{"text": "a\\u0022\\u0022", "text": "b"}', "duplicate_key"),
        (b'{"": 1, "text": "a", "": {"x": "y"}}', "duplicate_key"),
        (b'{"content": "a"}', "missing_field"),
        (b'{"text": null}', "non_string_text"),
        (b'{"text": 3}', "non_string_text"),
        (b'{"text": ["a"]}', "non_string_text"),
        (b'{"text": ""}', "empty_text"),
    ],
    ids=[
        "cut off",
        "huge numbers, one malformed exponent",
        "huge number and leading zero",
        "Infinity",
        "-Infinity",
        "comma before the end",
        "comma after the end",
        "unknown escape",
        "form feed alone",
        "NUL alone",
        "two objects",
        "NaN",
        "raw control character",
        "single quotes",
        "byte order mark",
        "byte that is no UTF-8",
        "surrogate as UTF-8",
        "overlong UTF-8",
        "lone high surrogate",
        "lone low surrogate",
        "lone surrogate in another field",
        "1,025 levels deep",
        "2,000 levels deep",
        "array",
        "null",
        "string",
        "number of 5,000 digits",
        "text twice",
        "another key twice",
        "text twice, once escaped",
        "text twice, after escaped quotes",
        "empty key twice",
        "field missing",
        "text is null",
        "text is a number",
        "text is an array",
        "empty text",
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


def strictly_loaded(line: str) -> tuple[object, list[str]]:
    """The value of a line by the standard library, made strict, and the keys of its outermost object.

    Raises:
        UnicodeEncodeError: for lone surrogates, also those under a key that stands twice.
        ValueError: for what is no JSON.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def require_characters(value: object) -> None:
        json.dumps(value, ensure_ascii=False).encode()

    outermost: list[tuple[str, object]] = []

    def keep_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
        outermost[:] = pairs  # the outermost object is the last to be built
        require_characters(pairs)
        return dict(pairs)

    value = json.loads(line, parse_constant=refuse, parse_int=len, parse_float=len, object_pairs_hook=keep_pairs)
    require_characters(value)
    return value, [key for key, _ in outermost]


def plain_judgement(line: bytes) -> str | set[str]:
    """The text of a line by the standard library alone, made strict; for a line that is no document, the reasons.

    A line that is broken twice may be rejected for either.
    """
    try:
        value, keys = strictly_loaded(line.decode())
    except UnicodeDecodeError:
        return {"invalid_utf8"}
    except UnicodeEncodeError:
        return {"lone_surrogate"}
    except ValueError:
        return {"json_syntax"} | ({"lone_surrogate"} if SURROGATE.search(line) else set())
    if not isinstance(value, dict):
        return {"not_object"}
    if len(set(keys)) < len(keys):
        return {"duplicate_key"}
    if "text" not in value:
        return {"missing_field"}
    if not isinstance(value["text"], str):
        return {"non_string_text"}
    return value["text"] or {"empty_text"}


SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
KEYS = st.sampled_from(["text", "id", "a", '"', "te", ""]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
PAIRS = st.lists(st.tuples(KEYS, VALUES) | st.tuples(st.just("text"), st.text(max_size=20)), max_size=4)
BREAKS = st.sampled_from(
    [b'"', b"\\", b"\\u0022", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\x00", b"\xff", b"\\ud800"]
)
BREAKS |= st.sampled_from(
    [b"NaN", b"1e999", b"0", b"-", b"\r", b"\t", b"\xe2\x80\xa8", b'"text":', b'"text": "b",', b"text"]
)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Objects whose keys may repeat, in several ways of writing, some of them broken at a few places."""
    ensure_ascii, separators = draw(st.booleans()), draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]))

    def write(value: object) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, separators=separators)

    pairs = [f"{write(key)}{separators[1]}{write(value)}" for key, value in draw(PAIRS)]
    line = ("{" + separators[0].join(pairs) + "}").encode()
    for _ in range(draw(st.integers(0, 3))):
        first = draw(st.integers(0, len(line)))
        end = first + draw(st.sampled_from([0, 0, 1, 3]))
        line = line[:first] + draw(BREAKS) + line[end:]
    return line


@settings(max_examples=1000)
@given(line=lines())
def test_valid_and_broken_lines_are_judged_as_by_the_standard_library(line):
    """The fast way and the plain one agree on what is a document, on its text, and on why another line is none."""
    judged, plain = parse_line(line, "text"), plain_judgement(line)
    if isinstance(judged, str):
        assert judged == plain
    else:
        assert judged.reason in plain


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
