"""The catalogue: real datasets of it, with only their download replaced."""

import importlib.util
import zipfile

import pytest
import tensorflow_datasets as tfds

from seq2seq_jax.data.catalogue import Catalogue, CatalogueDocuments

TALKS = {
    split: [(f"olá {split} {n}", f"hello {split} {n}") for n in range(20)] for split in ("train", "validation", "test")
}


@pytest.fixture
def talks(tmp_path, monkeypatch):
    """A source of ted_hrlr_translate, whose builder writes TALKS instead of what it would download."""
    importlib.import_module("tensorflow_datasets.translate")

    def examples(pairs):
        for number, (source, target) in enumerate(pairs):
            yield number, {"pt": source, "en": target}

    monkeypatch.setattr(
        tfds.builder_cls("ted_hrlr_translate"),
        "_split_generators",
        lambda self, dl_manager: {split: examples(pairs) for split, pairs in TALKS.items()},
    )

    def source(**fields):
        fields = {
            "name": "ted_hrlr_translate/pt_to_en",
            "source": "pt",
            "target": "en",
            "directory": str(tmp_path / "tfds"),
            **fields,
        }
        return Catalogue(**fields)

    return source


def test_a_dataset_is_prepared_once_and_read(talks, monkeypatch, capfd):
    corpus = talks().open()
    assert corpus.splits == {"train": 20, "validation": 20, "test": 20}
    for split, pairs in TALKS.items():
        assert sorted(corpus.examples(split)) == sorted(pairs)
    assert capfd.readouterr() == ("", "")
    builder = tfds.builder_cls("ted_hrlr_translate")
    monkeypatch.setattr(builder, "download_and_prepare", lambda *arguments, **keywords: pytest.fail("prepared again"))
    again = talks().open()
    assert again.fingerprint == corpus.fingerprint
    assert list(again.examples("train")) == list(corpus.examples("train"))


def test_slices_and_absent_splits(talks):
    whole = list(talks().open().examples("train"))
    corpus = talks(train="train[5:]", validation="train[:5]", test=None).open()
    assert corpus.splits == {"train": 15, "validation": 5}
    assert list(corpus.examples("train")) == whole[5:]
    assert list(corpus.examples("validation")) == whole[:5]
    with pytest.raises(ValueError, match="got 'test'"):
        corpus.examples("test")


def test_fingerprints_tell_fields_and_slices_apart(talks):
    sources = [talks(), talks(source="en", target="pt"), talks(train="train[5:]"), talks(test=None)]
    assert len({source.open().fingerprint for source in sources}) == 4


def test_a_dataset_without_its_code_is_read_from_its_directory(talks, monkeypatch):
    expected = list(talks().open().examples("test"))
    monkeypatch.delitem(tfds.core.registered._DATASET_REGISTRY, "ted_hrlr_translate")
    assert list(talks().open().examples("test")) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"name": "no_such_dataset"}, ["'no_such_dataset'"]),
        ({"name": "wmt14_translate/xx-en"}, ["xx-en", "configuration", "cs-en, de-en"]),
        ({"name": "ted_hrlr_translate/pt_to_en:9.9.9"}, ["9.9.9", "version"]),
        ({"source": "fr"}, ["'fr'", "en, pt"]),
        ({"validation": "dev"}, ["'dev'", "train, validation, test"]),
        ({"train": "train[5:"}, ["'train[5:'"]),
        ({"train": "train[30:]"}, ["'train[30:]'"]),
    ],
)
def test_a_mistake_is_named(talks, fields, named):
    with pytest.raises(ValueError) as error:
        talks(**fields).open()
    message = str(error.value)
    assert "\n" not in message
    assert all(part in message for part in named)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dataset_info.json", lambda data: data[:-1]),
        ("dataset_info.json", lambda data: b""),
        ("dataset_info.json", lambda data: data.replace(b'"', b"\xff", 1)),
        ("dataset_info.json", lambda data: data.replace(b'"20"', b'"10"', 1)),
        ("*train.array_record*", lambda data: data[: len(data) // 2]),
        ("*train.array_record*", lambda data: b""),
        ("*train.array_record*", lambda data: data[:200] + bytes(64) + data[264:]),
    ],
    ids=["info cut", "info emptied", "info not UTF-8", "info miscounts", "records cut", "records emptied", "records 0"],
)
def test_damage_is_one_line_that_names_the_place(talks, tmp_path, name, change):
    talks().open()
    (path,) = (tmp_path / "tfds").rglob(name)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError) as error:
        list(talks().open().examples("train"))
    message = str(error.value)
    assert "\n" not in message and str(tmp_path / "tfds") in message and "prepared again" in message


def test_a_directory_that_may_only_be_read_is_not_written_to(talks, tmp_path, monkeypatch):
    monkeypatch.setattr(tfds.core.constants, "DATA_DIR", str(tmp_path / "default"))
    corpus = talks().open(read_only=("directory",))
    assert corpus.splits["train"] == 20
    assert not (tmp_path / "tfds").exists() and (tmp_path / "default" / "ted_hrlr_translate").is_dir()


def test_another_format_is_refused(talks, tmp_path):
    talks().open()
    (info,) = (tmp_path / "tfds").rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="array_record files; it holds tfrecord: name another directory"):
        talks().open()


def test_a_field_that_is_no_text_is_refused(talks):
    with pytest.raises(ValueError, match="'label' to be a text field of glue/sst2; its text fields are sentence"):
        talks(name="glue/sst2", source="sentence", target="label").open()


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is not None, reason="TensorFlow is here")
def test_an_archive_without_tensorflow_is_explained(talks, tmp_path, monkeypatch):
    archive = tmp_path / "talks.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("talks.txt", "olá\n")
    monkeypatch.setattr(
        tfds.builder_cls("ted_hrlr_translate"),
        "_split_generators",
        lambda self, dl_manager: dl_manager.extract(archive),
    )
    with pytest.raises(ValueError, match="expected TensorFlow.*tfds build ted_hrlr_translate/pt_to_en") as error:
        talks().open()
    assert "\n" not in str(error.value)


def test_the_mock_of_tensorflow_datasets_stands_in_for_a_download(tmp_path):
    with tfds.testing.mock_data(num_examples=20):
        corpus = Catalogue(name="wmt14_translate/de-en", source="de", target="en", cache_directory=str(tmp_path)).open()
        pairs = list(corpus.examples("train"))
    assert corpus.splits == {"train": 20, "validation": 20, "test": 20}
    assert len(pairs) == 20
    assert all(isinstance(text, str) and text for pair in pairs for text in pair)


def test_one_field_is_read_as_documents(talks, tmp_path):
    pairs = talks().open()
    fields = {"name": "ted_hrlr_translate/pt_to_en", "directory": str(tmp_path / "tfds")}
    english = CatalogueDocuments(field="en", **fields).open()
    assert english.splits == {"train": 20, "validation": 20, "test": 20}
    assert list(english.examples("train")) == [(target,) for _, target in pairs.examples("train")]
    assert list(english.examples("test")) == [(target,) for _, target in pairs.examples("test")]
    assert english.fingerprint != pairs.fingerprint
    with pytest.raises(ValueError, match="'text' to be a text field of ted_hrlr_translate/pt_to_en.*en, pt"):
        CatalogueDocuments(**fields).open()


def test_documents_of_c4_by_the_mock_of_tensorflow_datasets():
    with tfds.testing.mock_data(num_examples=20):
        corpus = CatalogueDocuments(name="c4/en", test=None).open()
        documents = list(corpus.examples("train"))
    assert corpus.splits == {"train": 20, "validation": 20}
    assert len(documents) == 20 and all(documents)


@pytest.mark.parametrize("name", ["huggingface:squad", "someone:dataset/config", "someone:dataset/config:1.0.0"])
def test_a_dataset_that_brings_code_is_refused(name):
    """A community namespace is code from elsewhere, which tensorflow-datasets would download and run."""
    source = Catalogue(name=name, source="a", target="b")
    with pytest.raises(ValueError, match=rf"{name!r} is one of the community namespace"):
        source.open()
