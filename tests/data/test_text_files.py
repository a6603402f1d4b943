"""Parallel text, documents and tables: what is read is what was written, and each fault of a file is named."""

import dataclasses
import gzip
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from seq2seq_jax.data.tables import Table, read_json_lines
from seq2seq_jax.data.text_files import DocumentFiles, ParallelText, find_file


def write_files(directory, **contents):
    directory.mkdir(exist_ok=True)
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else content.encode()
        name = name.replace("_", ".")
        (directory / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


@pytest.fixture
def open_text(tmp_path):
    def open_(contents, **fields):
        write_files(tmp_path / "text", **contents)
        fields = {"source": "en", "target": "de", "validation": None, "test": None, **fields}
        return ParallelText(directory=str(tmp_path / "text"), cache_directory=str(tmp_path / "cache"), **fields).open()

    return open_


@pytest.fixture
def open_table(tmp_path):
    def open_(contents, **fields):
        write_files(tmp_path / "text", **contents)
        fields = {"source": "body", "target": "subject", "validation": None, "test": None, **fields}
        return Table(directory=str(tmp_path / "text"), cache_directory=str(tmp_path / "cache"), **fields).open()

    return open_


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def test_pairs_come_in_order_from_plain_and_gzipped_files(open_text):
    train = [(f"dog {n}", f"Hund {n}") for n in range(9000)]
    corpus = open_text(
        {
            "train_en": "".join(f"{source}\n" for source, _ in train),
            "train_de_gz": "\r\n".join(target for _, target in train),
            "val_en": "a cat\n",
            "val_de": "eine Katze\n",
        },
        validation="val",
    )
    assert corpus.splits == {"train": 9000, "validation": 1}
    assert list(corpus.examples("train")) == train
    assert list(corpus.examples("validation")) == [("a cat", "eine Katze")]
    with pytest.raises(ValueError, match="train, validation; got 'test'"):
        corpus.examples("test")


def test_only_a_newline_ends_a_line(open_text):
    source = "a\u2028b\x85c\x0bd\x0ce\x1cf\rg"
    corpus = open_text({"train_en": f"\ufeff{source}\nx\x00\n", "train_de": "\ufeffA \n B\n"})
    assert list(corpus.examples("train")) == [(source, "A "), ("x\x00", " B")]


def test_training_pairs_with_an_empty_side_are_left_out_and_counted(open_text, caplog):
    files = {
        f"{split}_{side}": text
        for split in ("train", "val")
        for side, text in (("en", "a\n\nc\n \n"), ("de", "A\nB\n\n\u3000\n"))
    }
    with caplog.at_level(logging.WARNING):
        corpus = open_text(files, validation="val")
    assert list(corpus.examples("train")) == [("a", "A")]
    assert list(corpus.examples("validation")) == [("a", "A"), ("", "B"), ("c", ""), (" ", "\u3000")]
    assert "left out 3 of 4 train pairs" in caplog.text


def test_only_empty_pairs_are_refused(open_text):
    with pytest.raises(ValueError, match="all 2 have an empty") as error:
        open_text({"train_en": "a\n\n", "train_de": "\nb\n"})
    one_line(error)


def test_fingerprint_is_that_of_the_text_alone(open_text, open_table):
    plain = open_text({"train_en": "ab\nc\n", "train_de": "x\ny\n"}).fingerprint
    assert open_text({"a_en_gz": "ab\r\nc", "a_de": "x\ny"}, train="a").fingerprint == plain
    assert open_table({"t_tsv": "subject\tbody\nx\tab\ny\tc\n"}, train="t.tsv").fingerprint == plain
    assert open_text({"b_en": "a\nc\n", "b_de": "bx\ny\n"}, train="b").fingerprint != plain
    assert open_text({"c_en": "c\nab\n", "c_de": "y\nx\n"}, train="c").fingerprint != plain
    assert open_text({"d_en": "ab\nc\n", "d_de": "x\ny\n"}, train="d", validation="d").fingerprint != plain


def test_text_that_changes_after_it_was_first_read_is_not_taken_for_it(open_text, tmp_path):
    corpus = open_text({"train_en": "a\n", "train_de": "b\n"})
    examples = corpus.examples("train")
    (tmp_path / "text" / "train.de").write_text("c\n")
    with pytest.raises(ValueError, match="the train examples to stay what they were; they have changed") as error:
        list(examples)
    one_line(error)
    assert list(open_text({}).examples("train")) == [("a", "c")]


def test_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_files(tmp_path / "text", train_en="a\n", train_de="b\n")
    corpus = ParallelText(directory="~/text", source="en", target="de", validation=None, test=None).open()
    assert list(corpus.examples("train")) == [("a", "b")]


def test_preparation_is_silent(open_text, capfd):
    open_text({"train_en": "a\n", "train_de": "b\n"})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("contents", "named"),
    [
        ({"train_en": "a\n"}, ["train.de", "train.de.gz", "no such file"]),
        ({"train_en": "", "train_de": "b\n"}, ["train.en", "empty"]),
        ({"train_en": b"a\nb\n\xe4\n", "train_de": "a\nb\nc\n"}, ["train.en", "line 3", "UTF-8"]),
        ({"train_en": "a\nb\nc\nd\n", "train_de": "a\n"}, ["train.en", "train.de", "4 and 1"]),
        ({"train_en": "a\n", "train_de": "a\nb\nc"}, ["train.en", "train.de", "1 and 3"]),
        ({"train_en": "a\rb\rc\r", "train_de": "d\re\rf\r"}, ["train.en", "2 carriage returns", "CR alone"]),
    ],
)
def test_a_fault_of_parallel_files_is_named(open_text, tmp_path, contents, named):
    with pytest.raises(ValueError) as error:
        open_text(contents)
    assert all(part in one_line(error) for part in named)
    assert not (tmp_path / "cache").exists()


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(ValueError, match="no directory .*nowhere") as error:
        ParallelText(directory=str(tmp_path / "nowhere"), source="en", target="de").open()
    one_line(error)


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-9], lambda data: b"plain text\n", lambda data: data[:12] + b"\xff\xff\xff" + data[15:]],
)
def test_a_damaged_gzip_file_is_named(open_text, tmp_path, damage):
    write_files(tmp_path / "text", train_en="a\n", train_de_gz="b\n")
    path = tmp_path / "text/train.de.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="train.de.gz") as error:
        open_text({})
    assert "gzip" in one_line(error)


def test_tables_are_read_by_field(open_table):
    rows = [{"subject": 'Re: "lunch"', "body": "at 12\tnoon\nor 1?", "n": 3}, {"body": "ä", "subject": "日本"}]
    corpus = open_table(
        {
            "train_jsonl_gz": "\n".join(json.dumps(row) for row in rows),
            "dev_tsv": 'id\tsubject\tbody\n1\t"quoted\t"so"\n2\t\tb\n',
        },
        train="train.jsonl",
        validation="dev.tsv",
    )
    assert list(corpus.examples("train")) == [("at 12\tnoon\nor 1?", 'Re: "lunch"'), ("ä", "日本")]
    assert list(corpus.examples("validation")) == [('"so"', '"quoted'), ("b", "")]


def test_blank_last_lines_of_a_table_are_no_examples(open_table):
    corpus = open_table(
        {
            "train_jsonl": GOOD + "\n  \r\n",
            "val_tsv": "body\tsubject\na\tb\n\t\n\n",
        },
        validation="val.tsv",
    )
    assert list(corpus.examples("train")) == [("a", "b")]
    assert list(corpus.examples("validation")) == [("a", "b"), ("", "")], "empty fields are an example"


def test_byte_order_marks_of_joined_files_are_no_text(open_text):
    mark = "\ufeff"
    corpus = open_text({"train_en": f"{mark}{mark}one\n{mark}two\n", "train_de": f"{mark}eins\n{mark}zwei\n"})
    assert list(corpus.examples("train")) == [("one", "eins"), ("two", "zwei")]


def test_gzip_is_known_by_its_content(open_text):
    corpus = open_text({"train_en": gzip.compress(b"one\ntwo\n"), "train_de": "eins\nzwei\n"})
    assert list(corpus.examples("train")) == [("one", "eins"), ("two", "zwei")]


@pytest.mark.parametrize("source", ["text", "table", "documents"])
def test_no_other_split_is_looked_for_than_is_asked_for(tmp_path, source):
    write_files(tmp_path / "text", test_en="a\n", test_de="b\n", test_jsonl=GOOD)
    settings = {"directory": str(tmp_path / "text"), "cache_directory": str(tmp_path / "cache")}
    data = {
        "text": ParallelText(source="en", target="de", **settings),
        "table": Table(source="body", target="subject", **settings),
        "documents": DocumentFiles(test=("test.en",), **settings),
    }[source]
    corpus = data.open(["test"])
    assert corpus.splits == {"test": 1}
    assert next(corpus.examples("test"))[0] == "a"
    for split, hint in (("train", False), ("validation", True)):
        with pytest.raises(ValueError, match="no such file") as error:
            data.open([split])
        assert ("None" in one_line(error)) == hint, "without training text there is no training"
    assert dataclasses.replace(data, validation=None).open(["validation"]).splits == {}


GOOD = '{"body": "a", "subject": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("train.csv", "body,subject\n", ["train.csv", ".tsv or .jsonl"]),
        ("train.tsv", "id\tbody\n1\ta\n", ["'subject'", "line 1", "id, body"]),
        ("train.tsv", "subject\tbody\tbody\n1\ta\tb\n", ["'body'", "once"]),
        ("train.tsv", "subject\tbody\na\tb\nc\n", ["line 3", "2 tab-separated", "got 1"]),
        ("train.tsv", "subject\tbody\n", ["below the names"]),
        ("train.tsv", b"subject\tbody\na\t\xff\n", ["line 2", "UTF-8"]),
        ("train.jsonl", "", ["empty"]),
        ("train.jsonl", GOOD + "\n" + GOOD, ["line 2", "JSON object"]),
        ("train.jsonl", GOOD + "[" * 100_000, ["line 2", "nests too deeply"]),
        ("train.jsonl", GOOD + '{"body": ' + "1" * 5000 + "}", ["line 2", "too long a number"]),
        ("train.jsonl", GOOD + '{"body": "a", "subject": }\n', ["line 2", "character 26"]),
        ("train.jsonl", GOOD + '{"body": "a", "title": "b"}\n', ["'subject'", "line 2", "body, title"]),
        ("train.jsonl", GOOD + '{"body": "a", "subject": 3}\n', ["'subject'", "line 2", "int"]),
        ("train.jsonl", GOOD + '["a", "b"]\n', ["line 2", "list"]),
        ("train.jsonl", GOOD + '{"body": "a", "subject": "\\ud800"}\n', ["'subject'", "line 2", "surrogate"]),
        ("train.jsonl", GOOD.encode() + b"\xff\n", ["line 2", "UTF-8"]),
    ],
)
def test_a_fault_of_a_table_is_named(open_table, name, content, named):
    with pytest.raises(ValueError) as error:
        open_table({name: content}, train=name)
    assert all(part in one_line(error) for part in named)


PREPARE = textwrap.dedent("""
    import sys
    from seq2seq_jax.batch import Vocabulary
    from seq2seq_jax.data.columns import Tokens
    from seq2seq_jax.data.store import Store
    from seq2seq_jax.data.text_files import ParallelText
    from seq2seq_jax.data.tokenizer import Tokenizer
    class Numbers(Tokenizer):
        fingerprint = "numbers"
        vocabulary = Vocabulary(source_size=30_000, target_size=30_000, joint=True, pad_id=0, bos_id=2, eos_id=3)
        def __init__(self):
            pass
        def encode_source(self, texts):
            return [[4 + int(text), 3] for text in texts]
        encode_target = encode_source
    directory, cache = sys.argv[1:]
    corpus = ParallelText(directory=directory, source="en", target="de", validation=None, test=None).open()
    columns = {"source": Tokens(), "target": Tokens(side="target")}
    store = Store.open_or_build(cache, corpus, "train", columns, Numbers())
    print(len(store), store.columns["target"][len(store) - 1].tolist(), "tensorflow_datasets" in sys.modules)
""")


def start(program, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_processes_that_prepare_at_once_all_get_the_store(tmp_path):
    lines = "".join(f"{n}\n" for n in range(20_000))
    write_files(tmp_path / "text", train_en=lines, train_de=lines)
    processes = [start(PREPARE, str(tmp_path / "text"), str(tmp_path / "cache")) for _ in range(2)]
    for process in processes:
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output.strip()) == (0, "20000 [20003, 3] False"), errors
    (store,) = (tmp_path / "cache").iterdir()
    assert ".unfinished." not in store.name


def test_what_an_interrupted_preparation_leaves_is_not_used_and_is_removed(tmp_path):
    lines = "".join(f"{n}\n" for n in range(20_000))
    write_files(tmp_path / "text", train_en=lines, train_de=lines)
    # The second reading, the one that is stored, is killed in the middle of the file.
    killed = textwrap.dedent("""
        import os, signal
        from seq2seq_jax.data import text_files
        read_parallel, readings = text_files.read_parallel, []
        def read_and_die(*paths):
            readings.append(paths)
            for index, pair in enumerate(read_parallel(*paths)):
                if len(readings) == 2 and index == 10_000:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield pair
        text_files.read_parallel = read_and_die
    """)
    process = start(killed + PREPARE, str(tmp_path / "text"), str(tmp_path / "cache"))
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    (left,) = (tmp_path / "cache").iterdir()
    assert ".unfinished." in left.name and any(left.iterdir())
    output, errors = start(PREPARE, str(tmp_path / "text"), str(tmp_path / "cache")).communicate(timeout=60)
    assert output.strip() == "20000 [20003, 3] False", errors
    assert not left.exists()


@pytest.fixture
def open_documents(tmp_path):
    def open_(contents, **fields):
        write_files(tmp_path / "text", **contents)
        fields = {"train": ("train.en", "train.de"), "validation": None, "test": None, **fields}
        return DocumentFiles(directory=str(tmp_path / "text"), **fields).open()

    return open_


def test_documents_are_the_lines_of_all_files_in_order(open_documents):
    contents = {"train_en": "a cat\n\n \u3000\na dog\u2028or two\r\n", "train_de_gz": "ein Hund", "val_en": "two\n"}
    corpus = open_documents(contents, validation=("val.en",))
    assert list(corpus.examples("train")) == [("a cat",), ("a dog\u2028or two",), ("ein Hund",)]
    assert list(corpus.examples("validation")) == [("two",)]
    assert corpus.splits == {"train": 3, "validation": 1}
    with pytest.raises(ValueError, match="train, validation; got 'test'"):
        corpus.examples("test")


def test_fingerprints_of_documents_tell_text_and_splits_apart(open_documents):
    contents = {"train_en": "a\nb\n", "train_de": "c\n", "val_en": "c\n"}
    corpora = [
        open_documents(contents),
        open_documents(contents, train=("train.de", "train.en")),
        open_documents(contents, train=("train.en",), validation=("val.en",)),
        open_documents(contents | {"train_de": "d\n"}),
    ]
    assert len({corpus.fingerprint for corpus in corpora}) == 4
    # Where a line lies makes no difference.
    assert open_documents({"train_en": "a\n", "train_de": "b\n\nc\n"}).fingerprint == corpora[0].fingerprint


@pytest.mark.parametrize(
    ("contents", "fields", "named"),
    [
        ({"train_en": "a\n"}, {}, ["train.de or train.de.gz", "no such file"]),
        ({"train_en": "a\n", "train_de": "\n \n"}, {"train": ("train.de",)}, ["train documents", "train.de has none"]),
        ({"train_en": "a\n"}, {"train": ()}, ["train documents", "no file has none"]),
        ({"train_en": b"\xff\n"}, {"train": ("train.en",)}, ["UTF-8", "line 1"]),
    ],
)
def test_a_mistake_in_documents_is_named(open_documents, contents, fields, named):
    with pytest.raises(ValueError) as error:
        open_documents(contents, **fields)
    assert all(part in one_line(error) for part in named)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000 + "]" * 100_000, "nests too deeply"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "nests too deeply"),
        ('{"a": "x", "b": "y", "id": ' + "1" * 5_000 + "}", "too long a number"),
    ],
    ids=["lists", "objects", "digits"],
)
def test_json_that_python_gives_up_on_is_one_line(line, said):
    lines = iter(['{"a": "x", "b": "y"}', line])
    with pytest.raises(ValueError, match=rf"^expected a JSON object in line 2 of x\.jsonl; [^\n]*{said}[^\n]*$"):
        list(read_json_lines(lines, "x.jsonl", ("a", "b")))


def test_a_name_too_long_for_a_file_is_one_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="there is no such file"):
        find_file(str(tmp_path), "x" * 300, split="train")
    with pytest.raises(ValueError, match="there is no directory"):
        find_file(str(tmp_path / ("x" * 300)), "train.en", split="train")


def test_a_split_alone_is_the_same_text_as_among_others(tmp_path):
    """So that what training has stored is found by who uses one split of it."""
    write_files(tmp_path / "text", train_en="a\nb\n", train_de="c\nd\n", test_en="e\n", test_de="f\n")
    data = ParallelText(
        directory=str(tmp_path / "text"), source="en", target="de", validation=None, cache_directory=str(tmp_path)
    )
    whole, alone = data.open(), data.open(("test",))
    assert list(alone.examples("test")) == list(whole.examples("test")) == [("e", "f")]
    assert alone.split_fingerprint("test") == whole.split_fingerprint("test") != whole.split_fingerprint("train")
    assert alone.fingerprint != whole.fingerprint


def test_a_split_of_documents_has_a_fingerprint_of_its_own(open_documents):
    contents = {"train_en": "a\n", "train_de": "b\n", "test_en": "c\n"}
    whole = open_documents(contents, test=("test.en",))
    alone = open_documents(contents)
    assert whole.splits == {"train": 2, "test": 1} and alone.splits == {"train": 2}
    assert alone.split_fingerprint("train") == whole.split_fingerprint("train") != whole.split_fingerprint("test")
    assert alone.fingerprint != whole.fingerprint
