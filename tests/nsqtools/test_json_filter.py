"""Which bodies pass nsq_to_nsq, and what of them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsqtools.nsq_to_nsq.json_filter import Dropped, Filter, Undecidable, to_json

NOT_OBJECTS = [b"", b"x", b"1", b"null", b"[]", b'"a"', b'{"a":1', b'{"a":NaN}', b'{"a":1e999}', b'{"a":1}{}']


@given(st.binary())
def test_no_rules_change_nothing(body: bytes) -> None:
    """Whatever a body is."""
    assert Filter().apply(body) == body


@pytest.mark.parametrize("body", NOT_OBJECTS)
@pytest.mark.parametrize("rules", [Filter(required_field="a"), Filter(whitelist=["a"])])
def test_bodies_that_are_no_objects_are_dropped(rules: Filter, body: bytes) -> None:
    """With a reason for the log."""
    with pytest.raises(Dropped, match=r"not (JSON|a JSON object)"):
        rules.apply(body)


def test_required_field() -> None:
    """Any value will do, and the body passes byte for byte."""
    rules = Filter(required_field="a")
    body = b' { "b" : 1.0, "a" : null , "c": "<" } '
    assert rules.apply(body) == body
    with pytest.raises(Dropped) as dropped:
        rules.apply(b'{"b":1}')
    assert str(dropped.value) == "", "it is what the rule is for: no line in the log"


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"a":"x"}', "x"),
        (b'{"a":"12"}', "12"),
        (b'{"a":12}', "12"),
        (b'{"a":12.0}', "12"),
        (b'{"a":12}', "1.2e1"),
        (b'{"a":-0.5}', "-.5"),
        (b'{"a":9007199254740993}', "9007199254740993"),
        (b'{"a":1e22}', "10000000000000000000000"),
        ('{"a":"ä"}'.encode(), "ä"),
        (b'{"a":1,"a":2}', "2"),
    ],
)
def test_required_value(body: bytes, wanted: str) -> None:
    """A string as it is, a number as a number."""
    assert Filter(required_field="a", required_value=wanted).apply(body) == body


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b'{"a":"X"}', "x"),
        (b'{"a":"12.0"}', "12"),
        (b'{"a":13}', "12"),
        (b'{"a":9007199254740993}', "9007199254740992"),
        (b'{"a":true}', "true"),
        (b'{"a":true}', "1"),
        (b'{"a":null}', "null"),
        (b'{"a":[1]}', "1"),
        (b'{"a":1}', "one"),
        (b'{"a":1}', "0_1"),
        (b'{"a":1}', "1 "),
    ],
)
def test_other_values_are_dropped(body: bytes, wanted: str) -> None:
    """Without a line; other types than these two never match."""
    with pytest.raises(Dropped, match=r"^$"):
        Filter(required_field="a", required_value=wanted).apply(body)


def test_missing_field_whose_value_matters() -> None:
    """An error, not a drop."""
    with pytest.raises(Undecidable, match="no field 'a'"):
        Filter(required_field="a", required_value="x").apply(b'{"b":1}')


@pytest.mark.parametrize(
    ("body", "published"),
    [
        ('{"b":1,"a":2,"x":3}', '{"a":2,"b":1}'),
        ('{"x":3}', "{}"),
        ('{"a":1.0}', '{"a":1}'),
        ('{"a":-0.0}', '{"a":0}'),
        ('{"a":[-0.0]}', '{"a":[-0]}'),
        ('{"a":6.458916304923773e16}', '{"a":64589163049237728}'),
        ('{"a":[6.458916304923773e16]}', '{"a":[64589163049237730]}'),
        ('{"a":1e22}', '{"a":1e+22}'),
        ('{"a":1e20}', '{"a":100000000000000000000}'),
        ('{"a":1e21}', '{"a":1e+21}'),
        ('{"a":12345678901234567890}', '{"a":12345678901234567890}'),
        ('{"a":18446744073709551615}', '{"a":18446744073709551615}'),
        ('{"a":18446744073709551616}', '{"a":18446744073709552000}'),
        ('{"a":-9223372036854775809}', '{"a":-9223372036854775808}'),
        ('{"a":9007199254740993}', '{"a":9007199254740993}'),
        ('{"a":-9223372036854775808}', '{"a":-9223372036854775808}'),
        ('{"a":0.000001}', '{"a":0.000001}'),
        ('{"a":0.0000001}', '{"a":1e-7}'),
        ('{"a":1.5e-10}', '{"a":1.5e-10}'),
        ('{"a":3.14}', '{"a":3.14}'),
        ('{"a":"<a href=\'x\'>&\\u2028\\u2029"}', '{"a":"\\u003ca href=\'x\'\\u003e\\u0026\\u2028\\u2029"}'),
        (
            '{"a":"\\u00e4\\/\\"\\\\\\n\\r\\t\\b\\f\\u0001\\u007f"}',
            '{"a":"ä/\\"\\\\\\n\\r\\t\\b\\f\\u0001\x7f"}',
        ),
        ('{"a":"\\ud800"}', '{"a":"\ufffd"}'),
        ('{"a":"\\ud83d\\ude00"}', '{"a":"😀"}'),
        (
            '{"a":{"z":[1,2.50,null,true,{"y":0,"b":"&"}],"a":false}}',
            '{"a":{"a":false,"z":[1,2.5,null,true,{"b":"\\u0026","y":0}]}}',
        ),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_whitelist_writes_as_go_does(body: str, published: str) -> None:
    """To the byte; but integers of 64 bits stay exact."""
    assert Filter(whitelist=["b", "a"]).apply(body.encode()).decode() == published


def test_bytes_that_are_no_utf8() -> None:
    """Become U+FFFD in a new body, and stay in one that passes."""
    assert Filter(whitelist=["a"]).apply(b'{"a":"x\xff"}') == '{"a":"x\ufffd"}'.encode()
    assert Filter(required_field="a").apply(b'{"a":"x\xff"}') == b'{"a":"x\xff"}'


def test_both_rules() -> None:
    """The required field need not be on the whitelist."""
    rules = Filter(required_field="a", required_value="1", whitelist=["b"])
    assert rules.apply(b'{"a":1,"b":2}') == b'{"b":2}'


def nested(levels: int, opening: str, closing: str) -> bytes:
    """An object with a field of so many levels."""
    return ('{"a":' + opening * levels + "1" + closing * levels + "}").encode()


EACH_KIND = [("[", "]"), ('{"b":', "}")]


@pytest.mark.parametrize(("opening", "closing"), EACH_KIND)
def test_nested_deeply(opening: str, closing: str) -> None:
    """What is read is written, too."""
    body = nested(900, opening, closing)
    assert Filter(required_field="a").apply(body) == body
    assert Filter(whitelist=["a"]).apply(body) == body


@pytest.mark.parametrize("rules", [Filter(required_field="a", required_value="x"), Filter(whitelist=["a"])])
@pytest.mark.parametrize(("opening", "closing"), EACH_KIND)
def test_nested_too_deeply(rules: Filter, opening: str, closing: str) -> None:
    """It is dropped as what is no JSON: it could only come again for ever."""
    with pytest.raises(Dropped, match="not JSON: nested too deeply"):
        rules.apply(nested(100_000, opening, closing))


def test_names_that_are_no_unicode() -> None:
    """They become the same name; the last one counts."""
    assert (
        Filter(whitelist=["a"]).apply(rb'{"a":{"\ud800":{"x":1},"\ud801":{}}}').decode()
        == '{"a":{"\ufffd":{}}}'
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("ab<é"), values, max_size=3),
)


@given(JSON)
def test_rewritten_bodies_mean_the_same(value: object) -> None:
    """To any other reader."""
    text = to_json(value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
