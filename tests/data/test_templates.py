"""Texts of several fields: by hand, in tables of both kinds, and what is refused."""

import json

import pytest

from seq2seq_jax.data.tables import Table, read_json_lines, read_tab_separated
from seq2seq_jax.data.templates import Template

FIELDS = {"service": "Buses_1", "state": "", "turns": ["hi", "to Davis"], "{x}": "odd"}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("service", "Buses_1"),
        ("turns", ["hi", "to Davis"]),
        ("{service}", "Buses_1"),
        ("{service} [state] {state} [user] {turns}", "Buses_1 [state]  [user] hi / to Davis"),
        ("{{{service}}}: {service}!", "{Buses_1}: Buses_1!"),
        ("a 100% {service}\\n", "a 100% Buses_1\\n"),
    ],
)
def test_fields_stand_where_their_names_are(text, filled):
    assert Template.parse(text).fill(FIELDS, separator=" / ") == filled


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{service", "expected '}'"),
        ("service}", "Single '}'"),
        ("{}", "the name of a field alone"),
        ("{service!r}", "the name of a field alone"),
        ("{service:>8}", "the name of a field alone"),
        ("{{service}}", "expected a field in braces"),
    ],
)
def test_what_is_no_template_is_one_line(text, message):
    with pytest.raises(ValueError, match=message) as error:
        Template.parse(text)
    assert "\n" not in str(error.value) and repr(text) in str(error.value)
    with pytest.raises(ValueError, match="data.target: "):
        Table(directory="x", source="a", target=text)


def test_rows_of_both_kinds_of_tables_make_texts():
    fields = ("{a} [b] {b}", "{b}", "a")
    rows = [{"a": "x", "b": "y"}, {"b": "", "a": "z", "c": 3}]
    expected = [("x [b] y", "y", "x"), ("z [b] ", "", "z")]
    assert list(read_json_lines(map(json.dumps, rows), "x.jsonl", fields)) == expected
    assert list(read_tab_separated(iter(["b\ta", "y\tx", "\tz"]), "x.tsv", fields)) == expected


def test_lists_are_joined_in_templates_alone():
    lines = [json.dumps({"turns": ["hi", "to Davis"], "answer": "when?"})]
    assert list(read_json_lines(iter(lines), "x.jsonl", ("{turns} <bot>", "answer"), separator=" <user> ")) == [
        ("hi <user> to Davis <bot>", "when?")
    ]
    with pytest.raises(ValueError, match="expected a string as 'turns' in line 1 of x.jsonl; got a list"):
        list(read_json_lines(iter(lines), "x.jsonl", ("turns", "answer")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"a": "x"}, "expected the field 'b' in line 1 of x.jsonl; it has a"),
        ({"a": "x", "b": ["y", 3]}, "expected a string as 'b' in line 1 of x.jsonl; got a int"),
        ({"a": "x", "b": {"c": "y"}}, "expected a string as 'b' in line 1 of x.jsonl; got a dict"),
    ],
)
def test_a_row_that_lacks_a_field_is_named(line, message):
    with pytest.raises(ValueError, match=message):
        list(read_json_lines(iter([json.dumps(line)]), "x.jsonl", ("{a} {b}",)))


def test_a_table_that_lacks_a_field_is_named():
    with pytest.raises(
        ValueError, match="expected the field 'turn' once in line 1 of x.tsv; that line names the fields"
    ):
        list(read_tab_separated(iter(["b\ta", "y\tx"]), "x.tsv", ("{a} {turn}",)))
