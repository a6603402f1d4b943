"""Prefixes and phrases of lines, from files and fields."""

import json

import pytest

import seq2seq_jax
from seq2seq_jax.commands.generate import GenerateArguments
from seq2seq_jax.commands.line_controls import open_line_controls
from seq2seq_jax.commands.sources import Source
from seq2seq_jax.generation.controls import LineControls

NOTHING = {"prefixes": None, "phrases": None, "prefix_field": None, "phrases_field": None, "max_bytes": 1000}


def attached(sources, **given):
    with open_line_controls(**NOTHING | given) as asked:
        return [each.controls for each in asked.attach(iter(sources))]


def test_files_have_a_line_for_each_source(tmp_path):
    (tmp_path / "prefixes").write_text("Ein\n\nZwei rote\n", encoding="utf-8")
    (tmp_path / "phrases").write_text("rote Kühe\tHaus\n\nim\n", encoding="utf-8")
    sources = [Source("a"), Source("b"), Source("c")]
    files = {"prefixes": str(tmp_path / "prefixes"), "phrases": str(tmp_path / "phrases")}
    assert attached(sources, **files) == [
        LineControls(prefix="Ein", phrases=("rote Kühe", "Haus")),
        LineControls(),
        LineControls(prefix="Zwei rote", phrases=("im",)),
    ]
    with open_line_controls(**NOTHING) as asked:
        assert asked is None


def test_fields_hold_texts_or_lists():
    fields = [{"p": "Ein", "w": ["rote Kühe", "Haus"]}, {"p": None, "w": []}, {"p": "", "w": "im"}]
    sources = [Source("a", fields=each) for each in fields]
    assert attached(sources, prefix_field="p", phrases_field="w") == [
        LineControls(prefix="Ein", phrases=("rote Kühe", "Haus")),
        LineControls(),
        LineControls(phrases=("im",)),
    ]
    assert attached([Source("a", fields={"w": ["Haus", " ", "Haus", "im"]})], phrases_field="w") == [
        LineControls(phrases=("Haus", "im"))
    ]
    with pytest.raises(
        ValueError, match=r"^'w' \(--phrases-field\) in line 1: expected a text or a list[^\n]*got \[3\]"
    ):
        attached([Source("a", fields={"w": [3]})], phrases_field="w")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("one\n", "--phrases .*phrases has 1 lines, and there are more sources: give a line for each"),
        ("one\n\nthree\n", "--phrases .*phrases has more lines than there are sources, 2"),
        ("one\na\t\tb\n", "line 2: phrase 2 of 3 is blank: leave it out"),
    ],
)
def test_a_file_that_does_not_fit_the_sources_is_refused(tmp_path, text, said):
    (tmp_path / "phrases").write_text(text)
    with pytest.raises(ValueError, match=said):
        attached([Source("a"), Source("b")], phrases=str(tmp_path / "phrases"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"q": "x"}, r"expected the field 'p' \(--prefix-field\) in line 1; it has q"),
        ({"p": ["x"]}, r"^'p' \(--prefix-field\) in line 1: expected a text, and got \['x'\]. Correct it.$"),
    ],
)
def test_a_field_that_holds_something_else_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        attached([Source("a", fields=fields)], prefix_field="p")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prefix_field": "p"}, "--prefix-field has no effect without --field"),
        ({"phrases_field": "p", "field": "s", "prefixes": "x"}, "as files .* or as fields, not as both"),
        ({"prefixes": "-"}, "standard input is read once"),
        ({"interactive": True, "phrases": "x"}, "no effect with --input, --field, --prefixes or --phrases"),
    ],
)
def test_options_that_exclude_each_other_are_refused(values, said):
    with pytest.raises(ValueError, match=said):
        GenerateArguments(**values)


def test_outputs_begin_with_their_prefix_and_contain_their_phrases(seq2seq, trained, tmp_path):
    sources = ["two red cows", "seven black birds", "three white cats"]
    prefixes, phrases = ["drei", "", "es"], [[], ["rote", "Kühe"], ["schwarze Vögel"]]
    (tmp_path / "sources").write_text("".join(f"{line}\n" for line in sources))
    (tmp_path / "prefixes").write_text("".join(f"{line}\n" for line in prefixes))
    (tmp_path / "phrases").write_text("".join("\t".join(line) + "\n" for line in phrases), encoding="utf-8")
    files = ["--input", tmp_path / "sources", "--prefixes", tmp_path / "prefixes", "--phrases", tmp_path / "phrases"]
    outcome = seq2seq("generate", trained, *files)
    assert outcome.status == 0, outcome.errors
    texts = outcome.output.splitlines()
    assert all(text.startswith(prefix) for text, prefix in zip(texts, prefixes, strict=True))
    assert all(phrase in text for text, each in zip(texts, phrases, strict=True) for phrase in each)
    # Fields of JSON lines, and Python's door, give the same.
    records = (
        {"s": source, "p": prefix, "w": each} for source, prefix, each in zip(sources, prefixes, phrases, strict=True)
    )
    (tmp_path / "sources.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    fields = ["--field", "s", "--prefix-field", "p", "--phrases-field", "w"]
    assert seq2seq("generate", trained, "--input", tmp_path / "sources.jsonl", *fields).output.splitlines() == texts
    assert seq2seq_jax.load(str(trained)).generate(sources, prefixes=prefixes, phrases=phrases) == texts
    # A mistake in any line is known before anything is generated.
    (tmp_path / "phrases").write_text("\n\n" + "es " * 40 + "\n")
    outcome = seq2seq("generate", trained, *files)
    assert outcome.status == 2 and outcome.output == ""
    assert "prefix and phrases of line 3 may take" in outcome.errors and "Nothing was generated" in outcome.errors


def test_controls_are_options_of_the_method(seq2seq, trained):
    """Of any method, with those that it does not have refused in a line."""
    controls = ["--generation.controls.first_text", "es sind", "--generation.controls.maximum_length", "9"]
    outcome = seq2seq(
        "generate", trained, *controls, "--generation.controls.forbidden_ids", "1", stdin=b"two red cows\n"
    )
    assert outcome.status == 0, outcome.errors
    assert outcome.output.startswith("es sind")
    refused = seq2seq(
        "generate", trained, "--generation", "greedy", "--generation.controls.coverage_penalty", "0.2", stdin=b"two\n"
    )
    assert refused.status == 2
    assert "coverage_penalty has no effect with Greedy" in refused.error_line
