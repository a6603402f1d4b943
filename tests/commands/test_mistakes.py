"""Every mistake of a user is one line that says what was expected, exit status 2, and nothing lost."""

import dataclasses
import shutil

import pytest
from compiling import flags_for_devices

from seq2seq_jax.commands.main import COMMANDS
from seq2seq_jax.experiment import load_config
from seq2seq_jax.run.training import TrainingRun

TRAIN = ("train", "tiny/transformer")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["trian", "tiny/transformer"],
            ["no command 'trian'", ", ".join(COMMANDS)],
        ),
        (["train", "tiny/transformr"], ["no config 'tiny/transformr'", "Did you mean tiny/transformer?"]),
        (["train", "text/train.en"], ["no config 'text/train.en'", "Give a Python file"]),
        ([*TRAIN, "--optimizer.learning_rat", "1"], ["--optimizer.learning_rat", "--optimizer.learning_rate?"]),
        ([*TRAIN, "--no_such_thing", "1"], ["--no_such_thing"]),
        ([*TRAIN, "--model.decoder.input_feeding", "True"], ["TransformerDecoderConfig", "RecurrentDecoderConfig"]),
        ([*TRAIN, "stray"], ["stray"]),
        ([*TRAIN, "--training.steps", "ten"], ["--training.steps", "ten"]),
        ([*TRAIN, "--training.steps", "1.5"], ["--training.steps", "1.5"]),
        ([*TRAIN, "--training.steps"], ["--training.steps"]),
        ([*TRAIN, "--data.packing", "perhaps"], ["--data.packing", "perhaps"]),
        ([*TRAIN, "--training.select_by", "rouge"], ["training.select_by", "rouge", "bleu"]),
        ([*TRAIN, "--training.steps", "0"], ["training.steps must be at least 1, not 0"]),
        ([*TRAIN, "--model.encoder.num_heads", "3"], ["num_heads must divide model_dim", "32", "3"]),
        ([*TRAIN, "--model.decoder.num_kv_heads", "4"], ["num_kv_heads must divide num_heads", "2", "4"]),
        (
            [*TRAIN, "--training.target_tokens_per_batch", "500"],
            ["multiple of data.max_target_length = 24", "500", "504"],
        ),
        ([*TRAIN, "--training.accumulation", "3"], ["batch of 20 rows", "training.accumulation = 3"]),
        ([*TRAIN, "--tokenizer.joint", "False"], ["model.tied_embeddings = all needs a joint tokenizer"]),
        ([*TRAIN, "--objective.coverage_weight", "1"], ["coverage_weight = 1.0 has no effect without copying"]),
        (
            [*TRAIN, "--model.copying", "True", "--model.tied_embeddings", "decoder", "--tokenizer.joint", "False"],
            ["model.copying needs a joint tokenizer"],
        ),
        ([*TRAIN, "--task", "summarisation"], ["task Summarisation needs a limit for its sources"]),
        ([*TRAIN, "--mesh.data", "64"], ["needs 64 devices, and there are 1"]),
        ([*TRAIN, "--mesh.fsdp", "7"], ["cannot be made of 1 devices"]),
        ([*TRAIN, "--mesh.data", "0"], ["mesh sizes must be at least 1"]),
        ([*TRAIN, "--optimizer.final_fraction", "0.1"], ["final_fraction has no effect with schedule = constant"]),
        ([*TRAIN, "--data.directory", "nowhere"], ["no directory nowhere"]),
        ([*TRAIN, "--data.train", "nothing"], ["nothing.en", "no such file"]),
        (["train", "tiny/table", "--data.source", "french"], ["the field 'french'", "line 1", "english, german"]),
    ],
    ids=lambda value: " ".join(value[-2:]) if value and value[0] in ("train", "trian") else "",
)
def test_a_mistake_in_training(seq2seq, workplace, tmp_path, unchanged, arguments, said):
    run = tmp_path / "run"
    with unchanged(workplace / "text"), unchanged(workplace / "configs"):
        outcome = seq2seq(*arguments, *(("--run_dir", run) if len(arguments) > 2 or arguments[0] == "train" else ()))
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data.bucket_lengths", "12", "24"], "bucket_lengths have no effect with packing"),
        (["--tokenizer.vocabulary_size", "280"], "vocabulary_size is 280, too small for the characters of the text"),
        (["--data.max_source_length", "2"], "all 96 examples are longer than max_source_length 2"),
        (["--objective.loss_chunk", "5"], "loss_chunk must divide the target row of 24 tokens, and 5 does not"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_that_only_the_text_shows(seq2seq, tmp_path, arguments, said):
    """By then a line or two says what is done."""
    outcome = seq2seq(*TRAIN, "--run_dir", tmp_path / "run", *arguments)
    assert outcome.status == 2
    *before, last = outcome.errors.splitlines()
    assert last.startswith("seq2seq: ") and said in last
    assert not [line for line in before if "rror" in line or "Traceback" in line]
    assert not list((tmp_path / "run").rglob("*.orbax*"))


def test_a_model_that_no_memory_holds(seq2seq, tmp_path, monkeypatch):
    monkeypatch.setattr("seq2seq_jax.commands.train.device_memory", lambda device: 2**17)
    outcome = seq2seq(*TRAIN, "--run_dir", tmp_path / "run")
    assert outcome.status == 2
    last = outcome.errors.splitlines()[-1]
    assert "MiB of parameters" in last and "and has 0.1 MiB. Lower the sizes of the model" in last
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train.en": None}, ["train.en", "no such file"]),
        ({"val.de": b""}, ["val.de", "the file is empty"]),
        ({"train.de": b"eins\nzwei\n\xff drei\n"}, ["line 3 of", "train.de is not UTF-8"]),
        ({"test.en": b"one\ntwo\nthree\n"}, ["test.en", "test.de", "3 and 12"]),
        ({"train.en.gz": b"no gzip", "train.en": None}, ["train.en.gz", "whole gzip file"]),
    ],
    ids=["missing", "empty", "not UTF-8", "of other lengths", "damaged gzip"],
)
def test_text_that_cannot_be_read(seq2seq, workplace, tmp_path, changes, said):
    shutil.copytree(workplace / "text", tmp_path / "text")
    for name, data in changes.items():
        if data is None:
            (tmp_path / "text" / name).unlink()
        else:
            (tmp_path / "text" / name).write_bytes(data)
    outcome = seq2seq(*TRAIN, "--data.directory", tmp_path / "text", "--run_dir", tmp_path / "run")
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def experiment(:\n", ["SyntaxError"]),
        ("import no_such_module\n", ["no_such_module"]),
        ("experiment = None\n", ["must define a function experiment()"]),
        ("def experiment():\n    return 1\n", ["must define a function experiment()"]),
        (
            "from seq2seq_jax.training.loop import TrainingConfig\n"
            "def experiment():\n    return TrainingConfig(no_such_field=1)\n",
            ["no_such_field"],
        ),
        (
            "from seq2seq_jax.training.loop import TrainingConfig\n"
            "def experiment():\n    return TrainingConfig(steps='ten')\n",
            ["cannot be loaded", "Type"],
        ),
        (
            "from seq2seq_jax.training.loop import TrainingConfig\n"
            "def experiment():\n    return TrainingConfig(steps=-1)\n",
            ["training.steps must be at least 1, not -1"],
        ),
    ],
    ids=["syntax", "import", "no function", "no experiment", "unknown field", "wrong type", "wrong value"],
)
def test_a_config_that_is_none(seq2seq, tmp_path, text, said):
    path = tmp_path / "config.py"
    path.write_text(text)
    outcome = seq2seq("train", path, "--run_dir", tmp_path / "run")
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--training.seed", "4"], ["training.seed is 3 there and 4 here"]),
        (["--model.encoder.dropout", "0.2"], ["model.encoder.dropout is 0.1 there and 0.2 here"]),
        (["--generation.beam_size", "3"], ["generation.beam_size is 2 there and 3 here"]),
        (["--training.steps", "60"], ["120 training.steps, more than 60"]),
        (
            ["--optimizer.learning_rate", "0.1", "--data.window", "9"],
            ["optimizer.learning_rate", "data.window", "can start from its parameters: --init-from"],
        ),
    ],
)
def test_another_config_than_the_runs(seq2seq, copy_of_run, unchanged, changes, said):
    with unchanged(copy_of_run):
        outcome = seq2seq(*TRAIN, "--training.seed", "3", "--run_dir", copy_of_run, *changes)
    assert outcome.status == 2
    for part in [str(copy_of_run), *said]:
        assert part in outcome.error_line


def test_more_steps_are_refused_where_the_schedule_ends_at_the_last(seq2seq, workplace, tmp_path, unchanged):
    experiment, _ = load_config(workplace / "configs" / "tiny" / "transformer.py")
    experiment = dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, schedule="cosine"))
    seq2seq("--help")
    TrainingRun(tmp_path / "run", experiment).begin("tiny/transformer")
    with unchanged(tmp_path / "run"):
        outcome = seq2seq(
            *TRAIN, "--optimizer.schedule", "cosine", "--training.steps", "240", "--run_dir", tmp_path / "run"
        )
    assert outcome.status == 2
    assert "training.steps is 120 there and 240 here" in outcome.error_line


def test_other_text_than_the_runs(seq2seq, copy_of_run, workplace, tmp_path, unchanged):
    shutil.copytree(workplace / "text", tmp_path / "text")
    path = tmp_path / "text" / "train.en"
    path.write_text(path.read_text().replace("red", "blue"))
    with unchanged(copy_of_run):
        outcome = seq2seq(
            *TRAIN, "--training.seed", "3", "--run_dir", copy_of_run, "--data.directory", tmp_path / "text"
        )
    assert outcome.status == 2
    assert "is not that which" in outcome.errors.splitlines()[-1]
    assert "Traceback" not in outcome.errors


def test_another_tokenizer_than_the_runs(seq2seq, copy_of_run, unchanged):
    (copy_of_run / "tokenizer.model").write_bytes((copy_of_run / "tokenizer.model").read_bytes()[:-1])
    with unchanged(copy_of_run):
        outcome = seq2seq(*TRAIN, "--training.seed", "3", "--run_dir", copy_of_run)
    assert outcome.status == 2
    assert "tokenizer" in outcome.error_line or "SentencePiece" in outcome.error_line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["generate", "RUN", "--checkpoint", "7"], ["best, latest or one of", "'7'"]),
        (["generate", "RUN", "--input", "nothing.txt"], ["no file nothing.txt"]),
        (["generate", "RUN", "--generation.beam_size", "0"], ["beam_size must be at least 1, got 0"]),
        (["generate", "RUN", "--generation.n_best", "9"], ["n_best must be at most beam_size", "9"]),
        (["generate", "RUN", "--beam_size", "2"], ["--beam_size", "--generation.beam_size"]),
        (["generate", "text"], ["text is not a run directory"]),
        (["evaluate", "nowhere"], ["nowhere is not a run directory"]),
        (["evaluate", "RUN", "--split", "dev"], ["'dev'", "--split", "train", "validation", "test"]),
        (["evaluate", "RUN", "--data.test", "nothing"], ["nothing.en", "no such file", "or None (--data.test None)"]),
        (["average", "RUN"], ["--output is required"]),
        (["average", "RUN", "--output", "text"], ["text exists and is not empty"]),
        (["average", "RUN", "--output", "new", "--last", "99"], ["--last must lie between 1 and", "99"]),
        (["average", "RUN", "--output", "new", "--last", "0"], ["--last must lie between 1 and", "0"]),
    ],
    ids=lambda value: " ".join(value) if "RUN" in value or len(value) == 2 else "",
)
def test_a_mistake_with_a_run(seq2seq, trained, workplace, unchanged, arguments, said):
    with unchanged(trained), unchanged(workplace / "text"):
        outcome = seq2seq(*(trained if word == "RUN" else word for word in arguments), stdin=b"two red cows\n")
    assert outcome.status == 2
    for part in said:
        assert part in outcome.error_line
    assert not (workplace / "new").exists()


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_a_source_that_is_too_long_is_refused_where_that_is_asked_for(seq2seq, trained, tmp_path, where):
    data = b"two red cows\n" * 2 + b"two red cows " * 20 + b"\nsix white dogs\n"
    (tmp_path / "sources").write_bytes(data)
    options = ("--input", tmp_path / "sources") if where == "file" else ()
    outcome = seq2seq(
        "generate", trained, *options, "--too-long", "refuse", "--output", tmp_path / "texts",
        "--json", tmp_path / "n_best", stdin=data,
    )  # fmt: skip
    assert outcome.status == 2
    assert "line 3 has" in outcome.error_line
    assert "the model takes 24" in outcome.error_line
    assert not (tmp_path / "texts").exists() and not (tmp_path / "n_best").exists()


@pytest.mark.parametrize("where", ["pipe", "file"])
def test_a_source_that_is_not_utf8(seq2seq, trained, tmp_path, where):
    data = b"two red cows\ntwo \xe9 cows\n"
    (tmp_path / "sources").write_bytes(data)
    options = ("--input", tmp_path / "sources") if where == "file" else ()
    outcome = seq2seq("generate", trained, *options, stdin=data)
    assert outcome.status == 2
    assert f"line 2 of {tmp_path / 'sources' if where == 'file' else 'standard input'} is not UTF-8" in (
        outcome.error_line
    )


@pytest.mark.parametrize("command", ["generate", "evaluate", "align", "average"])
@pytest.mark.parametrize("left", ["nothing", "an unfinished one", "an empty directory"])
def test_a_run_without_a_complete_checkpoint(seq2seq, copy_of_run, tmp_path, command, left):
    shutil.rmtree(copy_of_run / "checkpoints")
    if left == "an unfinished one":
        (copy_of_run / "checkpoints" / "00000030.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    elif left == "an empty directory":
        (copy_of_run / "checkpoints").mkdir()
    options = ("--output", tmp_path / "averaged") if command == "average" else ()
    outcome = seq2seq(command, copy_of_run, *options, stdin=b"two red cows\n")
    assert outcome.status == 2
    assert "has no complete checkpoint yet" in outcome.error_line
    assert not (tmp_path / "averaged").exists()
    assert (copy_of_run / "checkpoints").exists() == (left != "nothing")


@pytest.mark.parametrize("command", ["generate", "average", "train"])
def test_a_run_of_which_every_checkpoint_is_damaged(seq2seq, copy_of_run, tmp_path, command):
    records = list((copy_of_run / "checkpoints").rglob("record/metadata"))
    for path in records:
        path.write_bytes(path.read_bytes()[:-9])
    arguments = {
        "generate": ["generate", copy_of_run],
        "average": ["average", copy_of_run, "--output", tmp_path / "averaged"],
        "train": [*TRAIN, "--training.seed", "3", "--run_dir", copy_of_run],
    }
    outcome = seq2seq(*arguments[command], stdin=b"two red cows\n")
    assert outcome.status == 2
    last = outcome.errors.splitlines()[-1]
    assert last.startswith("seq2seq: ")
    assert "damaged" in last or "no good checkpoint" in last
    assert "Traceback" not in outcome.errors
    assert not (tmp_path / "averaged").exists()
    assert len(list(copy_of_run.rglob("record/metadata"))) == len(records), "moved at most, never deleted"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"experiment": {}, "fingerprints": {"data": "", "tokenizer": ""}}', "this version"),
        (
            '{"experiment": {"no_such_part": {}}, "fingerprints": {"data": "", "tokenizer": ""}}',
            "no field 'no_such_part'",
        ),
        ('{"experiment": {}, "fingerprints": {}}', "cannot be read"),
    ],
)
def test_a_description_that_is_none(seq2seq, copy_of_run, text, said):
    (copy_of_run / "experiment.json").write_text(text)
    outcome = seq2seq("generate", copy_of_run, stdin=b"two red cows\n")
    assert outcome.status == 2
    assert said in outcome.error_line


def test_a_mesh_of_two_devices(process, tmp_path):
    """In a process of its own, which has them."""
    outcome = process(
        *TRAIN,
        "--run_dir",
        tmp_path / "run",
        "--training.target_tokens_per_batch",
        "72",
        XLA_FLAGS=flags_for_devices(2),
    )
    assert outcome.status == 2
    assert "a batch of 3 rows" in outcome.error_line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*TRAIN, "--training.steps", "ten"], "--training.steps"),
        ([*TRAIN, "--data.train", "nothing"], "nothing.en"),
    ],
    ids=["type", "file"],
)
def test_standard_error_of_a_process_is_one_line(process, arguments, said):
    outcome = process(*arguments)
    assert outcome.status == 2
    assert said in outcome.error_line


def test_a_long_source_in_a_process_is_one_line(process, trained):
    outcome = process("generate", trained, "--too-long", "refuse", stdin=b"two red cows " * 20)
    assert outcome.status == 2
    assert "line 1 has" in outcome.error_line
