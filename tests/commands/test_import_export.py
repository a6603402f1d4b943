"""A model of another project in and out again: the same bytes, and a run like any other in between."""

import dataclasses
import importlib.util
import json
import shutil

import numpy as np
import pytest
from command_line import call
from made_checkpoints import BART, WHISPER, arrays, write

from seq2seq_jax.pretrained.checkpoint import Checkpoint
from seq2seq_jax.pretrained.safetensors_files import TensorFiles
from seq2seq_jax.pretrained.tokenizers import read_tokenizer
from seq2seq_jax.run.exports import _by_architecture
from seq2seq_jax.run.inference import Inference
from seq2seq_jax.run.kept_logits import CHECK_FILE, check_copy

# A run has to be made first.
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    """A directory as transformers writes it, with a tensor that is no parameter of the model's."""
    directory = tmp_path_factory.mktemp("bart") / "model"
    tensors = arrays(BART)
    tensors["model.decoder.embed_tokens.weight"] = tensors["model.shared.weight"]
    write(directory, tensors, BART, dtype="BF16")
    (directory / "special_tokens_map.json").write_text("{}")
    return directory


@pytest.fixture(scope="module")
def imported(bart):
    output = bart.parent / "run"
    assert call("import", bart, "--output", output) == 0
    return output


def same_tensors(first, second):
    a, b = (TensorFiles.open(directory).tensors for directory in (first, second))
    return {name: (t.dtype, t.shape, t.open().tobytes()) for name, t in a.items()} == {
        name: (t.dtype, t.shape, t.open().tobytes()) for name, t in b.items()
    }


def test_an_imported_run_is_a_run_and_comes_out_as_it_went_in(bart, imported, capsys):
    run = Inference.open(imported)
    assert run.experiment.model == Checkpoint.open(bart).model()
    assert run.experiment.tokenizer.kind == "imported"
    tokenizer = run.tokenizer
    assert tokenizer.encode_source(["ab z"]) == [[1, 4, 5, 12, 3, 2]]
    [ids] = tokenizer.encode_target(["A B"])
    assert ids == [1, 4, 12, 5, 2] and tokenizer.decode_target(ids) == "A B"
    assert all(set(text) <= set("ABCDEFGH '") for text in run.generate(["ab", "hg"]))
    assert call("export", imported, "--output", imported.parent / "out") == 0
    assert same_tensors(bart, imported.parent / "out")
    for name in ("config.json", "special_tokens_map.json"):
        assert (imported.parent / "out" / name).read_bytes() == (bart / name).read_bytes()
    assert "# run" in (imported.parent / "out" / "README.md").read_text()


@pytest.mark.skipif(importlib.util.find_spec("tokenizers") is None, reason="needs the extra `pretrained`")
def test_a_model_of_frames_goes_in_and_out_with_the_tokens_that_begin_its_targets(tmp_path):
    import tokenizers
    from tokenizers import models, pre_tokenizers, processors

    write(tmp_path / "whisper", arrays(WHISPER), WHISPER, dtype="F16")
    words = ["<start>", "<end>", "<plain>", "?", "a", "b", "<de>"]
    made = tokenizers.Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["<start>", "<end>", "<plain>", "<de>"])
    special = [("<start>", 0), ("<plain>", 2), ("<end>", 1)]
    made.post_processor = processors.TemplateProcessing(single="<start> <plain> $A <end>", special_tokens=special)
    made.save(str(tmp_path / "whisper" / "tokenizer.json"))
    config = "--config", "own_sounds/features"
    assert call("import", tmp_path / "whisper", "--output", tmp_path / "run", *config) == 0
    run = Inference.open(tmp_path / "run")
    assert run.tokenizer.encode_target(["a b"]) == [[2, 4, 5, 1]]
    assert (run.tokenizer.vocabulary.bos_id, run.tokenizer.vocabulary.first_ids) == (0, (2,))
    assert run.experiment.max_source_length == 12
    assert call("export", tmp_path / "run", "--output", tmp_path / "out") == 0
    assert same_tensors(tmp_path / "whisper", tmp_path / "out")
    checkpoint = Checkpoint.open(tmp_path / "whisper")
    assert read_tokenizer(checkpoint, target_language="<de>").encode_target(["b"]) == [[6, 2, 5, 1]]


def test_what_was_kept_of_logits_finds_a_changed_copy(imported, bart, tmp_path):
    output = tmp_path / "out"
    assert call("export", imported, "--output", output) == 0
    checkpoint = Checkpoint.open(output)
    assert check_copy(checkpoint) < 1e-3
    facts = json.loads((output / CHECK_FILE).read_text())
    facts["logits"][0][0] += 1
    (output / CHECK_FILE).write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"^[^\n]*does not give the logits of[^\n]*$"):
        check_copy(checkpoint)


def test_mistakes_are_one_line_and_nothing_is_written(bart, imported, tmp_path, capsys):
    for arguments, message in (
        (("import", bart), "--output is required"),
        (("import", tmp_path / "none", "--output", tmp_path / "x"), "there is no directory"),
        (("import", tmp_path, "--output", tmp_path / "x"), "has no config.json"),
        (("import", bart, "--output", imported), "exists. Give a new directory"),
        (("export", imported, "--output", bart), "exists. Give a new directory"),
        (("export", imported, "--output", tmp_path / "x", "--quantization", "int8"), "--quantization has no effect"),
        (("import", bart, "--output", tmp_path / "x", "--decoder", bart), "has one of its own (bart)"),
        (("import", bart, "--output", tmp_path / "x", "--pad_vocabulary", "0"), "must be at least 1"),
    ):
        assert call(*arguments) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and message in lines[0], lines
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(importlib.util.find_spec("ctranslate2") is None, reason="ctranslate2 is not installed")
def test_a_run_for_ctranslate2_generates_what_it_generates_here(imported, tmp_path, capsys):
    import ctranslate2

    output = tmp_path / "out"
    assert call("export", imported, "--output", output, "--format", "ctranslate2") == 0
    run = Inference.open(imported)
    tokenizer = run.tokenizer
    source = tokenizer.source_pieces(tokenizer.encode_source(["bad egg"])[0])
    prefix = tokenizer.target_pieces(tokenizer.vocabulary.first_ids)
    translator = ctranslate2.Translator(str(output), compute_type="float32")
    suppressed = [tokenizer.target_pieces([token]) for token in tokenizer.vocabulary.suppressed_ids]
    [result] = translator.translate_batch(
        [source], target_prefix=[prefix], beam_size=1, max_decoding_length=12, suppress_sequences=suppressed
    )
    pieces = result.hypotheses[0][len(prefix) :]
    expected = run.generate(["bad egg"], beam_size=1)[0]
    # Here a text may be as long as its source allows.
    assert pieces and "".join(pieces).replace("▁", " ").startswith(expected[: len(pieces)])
    assert "nats per token" in capsys.readouterr().out


def test_a_tokenizer_that_was_changed_is_refused(imported, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(imported, copy)
    path = copy / "tokenizer.imported.json"
    path.write_text(path.read_text().replace("abcdefgh", "bacdefgh"))
    with pytest.raises(ValueError, match=r"^tokenizer.imported.json [^\n]*was changed or damaged[^\n]*$"):
        Inference.open(copy).tokenizer.vocabulary  # noqa: B018


def test_a_model_that_copies_is_not_exported(imported, tmp_path):
    run = Inference.open(imported)
    run = run.with_parts(model=dataclasses.replace(run.experiment.model, copying=True))
    with pytest.raises(ValueError, match=r"model.copying.*no architecture of transformers does"):
        _by_architecture(run)


def test_a_run_that_was_trained_here_goes_out_and_comes_back(trained, tmp_path):
    """With the table of positions that transformers reads, and the epsilon of the run in its config."""
    output = tmp_path / "out"
    assert call("export", trained, "--output", output) == 0
    checkpoint, run = Checkpoint.open(output), Inference.open(trained)
    assert checkpoint.family.model_type == "pegasus"
    params, _ = run.parameters()
    for path, values in checkpoint.load().items():
        there = params
        for part in path.split("/"):
            there = there[part]
        np.testing.assert_array_equal(values, there, err_msg=path)
    assert checkpoint.model() == run.experiment.model
    again = tmp_path / "again"
    assert call("import", output, "--output", again) == 0
    text = ["one cat"]
    assert Inference.open(again).generate(text, beam_size=2) == run.generate(text, beam_size=2)
