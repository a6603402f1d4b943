"""Experiments: read, overridden, compared, kept as JSON, named."""

import dataclasses
import io
import json
import os
import re
import sys

import pytest

from seq2seq_jax.data.dates import Dates
from seq2seq_jax.data.tables import Table
from seq2seq_jax.data.text_files import ParallelText
from seq2seq_jax.data.tokenizer import TokenizerConfig
from seq2seq_jax.decoders.transformer import TransformerDecoderConfig
from seq2seq_jax.encoders.transformer import TransformerEncoderConfig
from seq2seq_jax.experiment import (
    Experiment,
    config_name,
    differences,
    dump,
    find_config,
    flatten,
    from_json,
    load_config,
    load_config_by_name,
    run_directory,
    to_json,
)
from seq2seq_jax.generation.methods import Greedy, Sampling
from seq2seq_jax.model import ModelConfig
from seq2seq_jax.objectives.maximum_likelihood import MaximumLikelihoodConfig
from seq2seq_jax.objectives.policy_gradient import PolicyGradientConfig
from seq2seq_jax.overrides import is_given, override
from seq2seq_jax.training.config import TrainingConfig
from seq2seq_jax.training.optimizer import AdafactorConfig, AdamWConfig


def experiment(**parts):
    defaults = {
        "data": Dates(max_source_length=16, max_target_length=8),
        "tokenizer": TokenizerConfig(),
        "model": ModelConfig(encoder=TransformerEncoderConfig(), decoder=TransformerDecoderConfig()),
        "objective": MaximumLikelihoodConfig(),
        "optimizer": AdamWConfig(),
        "training": TrainingConfig(target_tokens_per_batch=64),
    }
    return Experiment(**defaults | parts)


def change(config, name, value):
    """A config with one field replaced, by its dotted name."""
    first, _, rest = name.partition(".")
    inner = change(getattr(config, first), rest, value) if rest else value
    return dataclasses.replace(config, **{first: inner})


VARIANTS = {
    "dates": experiment(),
    "text": experiment(
        data=ParallelText(
            directory="d", source="en", target="de", test=None, packing=False, bucket_lengths=(4, 128),
        ),
        training=TrainingConfig(target_tokens_per_batch=1280, patience=3),
    ),
    "table": experiment(
        data=Table(directory="d", source="a", target="b", max_target_length=8),
        optimizer=AdafactorConfig(clip_norm=None),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_json_gives_back_the_same(name):
    original = VARIANTS[name]
    text = dump(original)
    restored = from_json(Experiment, json.loads(text))
    assert restored == original
    assert type(restored.data) is type(original.data)
    assert dump(restored) == text
    assert json.loads(text) == to_json(original)


def test_json_names_the_class_where_there_is_a_choice():
    values = to_json(VARIANTS["table"])
    assert values["data"]["class"] == "Table"
    assert values["optimizer"]["class"] == "AdafactorConfig"
    assert "class" not in values["training"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda values: values["training"].update(old_field=1), "TrainingConfig has no field 'old_field'"),
        (lambda values: values["data"].update({"class": "Sheets"}), "class 'Sheets' is not known.*Table"),
        (lambda values: values.pop("model"), "values of Experiment are not those of this version.*'model'"),
        (lambda values: values["training"].update(steps=0), "training.steps must be at least 1, not 0"),
    ],
)
def test_json_of_another_version_is_refused(spoil, said):
    values = to_json(experiment())
    spoil(values)
    with pytest.raises(ValueError, match=said):
        from_json(Experiment, values)


def test_a_tokenizer_of_before_there_was_a_choice_normalises():
    values = to_json(experiment())
    assert values["tokenizer"].pop("normalization") == "identity", "the default of today"
    assert from_json(Experiment, values).tokenizer == TokenizerConfig(normalization="nfkc")


def test_flatten_has_a_dotted_name_for_every_value():
    flat = flatten(VARIANTS["text"])
    assert flat["data.class"] == "ParallelText"
    assert flat["data.bucket_lengths"] == [4, 128]
    assert flat["data.test"] is None
    assert flat["model.encoder.num_heads"] == 8
    assert flat["training.patience"] == 3
    assert not any(isinstance(value, dict) for value in flat.values())

    def count(config):
        fields = [getattr(config, field.name) for field in dataclasses.fields(config)]
        return sum(count(value) if dataclasses.is_dataclass(value) else 1 for value in fields)

    assert len(flat) == count(VARIANTS["text"]) + 8, "every field, and the eight names of classes"


def test_differences_name_old_and_new_values():
    old = experiment()
    new = change(change(old, "training.seed", 7), "model.encoder.dropout", 0.5)
    assert differences(old, new) == {"model.encoder.dropout": (0.1, 0.5), "training.seed": (0, 7)}
    assert differences(old, old) == {}
    other = differences(old, experiment(optimizer=AdafactorConfig()))
    assert other["optimizer.class"] == ("AdamWConfig", "AdafactorConfig")
    assert other["optimizer.beta1"] == (0.9, None) and other["optimizer.decay_rate"] == (None, 0.8)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.cache_directory", "elsewhere"), ("data.verify", "once"), ("data.workers", 3), ("data.prefetch", 9),
        ("mesh.data", 1),
        ("training.log_every", 7), ("training.num_sample_outputs", 0), ("training.keep_latest", 5),
        ("training.checkpoint_every", 7), ("training.patience", 3), ("tokenizer.vocabulary_size", None),
    ],
)  # fmt: skip
def test_what_may_change_when_a_run_is_continued(name, value):
    old = experiment()
    assert differences(old, change(old, name, value), continuing=True) == {}
    assert name in differences(old, change(old, name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("data.train_examples", 9), ("data.window", 9), ("tokenizer.vocabulary_size", 999), ("training.seed", 1),
        ("objective.z_loss", 0.1), ("optimizer.beta2", 0.5), ("training.evaluate_every", 3),
        ("training.select_by", "loss"), ("generation.beam_size", 2),
    ],
)  # fmt: skip
def test_what_may_not_change_when_a_run_is_continued(name, value):
    old = experiment()
    before = flatten(old)[name]
    assert differences(old, change(old, name, value), continuing=True) == {name: (before, value)}


@pytest.mark.parametrize(
    ("schedule", "allowed"),
    [("inverse_square_root", True), ("constant", True), ("cosine", False), ("linear", False)],
)
def test_more_steps_where_the_schedule_does_not_depend_on_them(schedule, allowed):
    old = experiment(optimizer=AdamWConfig(schedule=schedule))
    new = change(old, "training.steps", 20_000)
    assert (differences(old, new, continuing=True) == {}) == allowed


def test_overrides():
    original = experiment()
    chosen = override(
        original,
        "--training.steps 7 --data.bucket_lengths 4 16 --data.packing False --model.encoder.num_kv_heads 4 "
        "--optimizer.clip-norm None --training.patience 2 --training.select-by chrf --mesh.data 1".split(),
        program="seq2seq train x",
    )
    assert differences(original, chosen) == {
        "training.steps": (10_000, 7), "data.bucket_lengths": ([], [4, 16]), "data.packing": (True, False),
        "model.encoder.num_kv_heads": (None, 4), "optimizer.clip_norm": (1.0, None), "training.patience": (None, 2),
        "training.select_by": (None, "chrf"), "mesh.data": (-1, 1),
    }  # fmt: skip
    assert type(chosen.data) is Dates
    assert override(original, [], program="seq2seq train x") == original


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--training.stps 7", r"--training\.stps.*Did you mean --training\.steps\?"),
        ("--training.steps seven", r"--training\.steps.*seven"),
        ("--training.steps", r"--training\.steps"),
        ("--data.packing 2", r"--data\.packing"),
        ("--training.select_by ter", r"training\.select_by must be one of loss, bleu, chrf, exact_match, and is .ter."),
        ("--training.steps -1", r"training\.steps must be at least 1, not -1"),
        ("stray", "stray"),
        ("--optimizer.decay_rate 0.7", r"optimizer is an AdamWConfig here, .*; AdafactorConfig has it"),
    ],
)
def test_an_override_that_does_not_fit_is_one_line(arguments, said, capfd):
    with pytest.raises(ValueError, match=said) as error:
        override(experiment(), arguments.split(), program="seq2seq train x")
    message = str(error.value)
    assert "\n" not in message and not set(message) & set("│╭╮╰╯─")
    assert capfd.readouterr() == ("", "")


OF_DIRECTORY = (
    "ParallelText, Table, Catalogue, DocumentFiles, CatalogueDocuments, Dialogues, DialogueStates, DialogueActs, "
    "Pronunciations, Conversations, DigitStrings, SpeechFeatures, Recordings, Synthetic and CodeSwitching have"
)


@pytest.mark.parametrize(
    ("arguments", "place", "here", "others"),
    [
        ("--model.decoder.deep_output 1", "model.decoder", "a TransformerDecoderConfig", "RecurrentDecoderConfig has"),
        ("--model.encoder.layer-norm=1", "model.encoder", "a TransformerEncoderConfig", "RecurrentEncoderConfig has"),
        ("--optimizer.decay_rate 0.7", "optimizer", "an AdamWConfig", "AdafactorConfig has"),
        ("--data.directory text", "data", "a Dates", OF_DIRECTORY),
    ],
    ids=["decoder", "encoder", "optimizer", "data"],
)
def test_an_override_that_belongs_to_another_class(arguments, place, here, others):
    option = re.split("[ =]", arguments)[0]
    name = option.split(".")[-1].replace("-", "_")
    with pytest.raises(ValueError) as error:
        override(experiment(), ["--training.steps", "7", *arguments.split()], program="seq2seq train x")
    assert str(error.value) == (
        f"{option} has no effect: {place} is {here} here, which has no {name}; {others} it. Choose a config whose "
        f"{place} has it, or leave it out. See seq2seq train x --help."
    )


@pytest.mark.parametrize("field", ["model.decoder.num_head", "model.decoder.num_heads.x", "training.x.y", "x.y", "x"])
def test_an_override_that_belongs_to_no_class(field):
    with pytest.raises(ValueError, match=rf"^Unrecognized options: --{field}"):
        override(experiment(), [f"--{field}", "3"], program="seq2seq train x")


def test_the_parts_of_an_experiment_must_fit():
    with pytest.raises(ValueError, match=r"multiple of data.max_target_length = 8 .*, and is 60. Try 64"):
        experiment(training=TrainingConfig(target_tokens_per_batch=60))
    with pytest.raises(ValueError, match=r"Try 8\."):
        experiment(training=TrainingConfig(target_tokens_per_batch=3))
    with pytest.raises(ValueError, match="8 rows .* training.accumulation = 3"):
        experiment(training=TrainingConfig(target_tokens_per_batch=64, accumulation=3))
    learned = TransformerEncoderConfig(positions="learned", max_positions=15)
    with pytest.raises(ValueError, match="15 learned positions is too short for data.max_source_length = 16"):
        experiment(model=ModelConfig(encoder=learned, decoder=TransformerDecoderConfig()))
    assert experiment().rows_per_batch == 8


def test_run_directories_say_what_is_different():
    default = experiment()

    def name(chosen):
        return str(run_directory("dates/transformer", default, chosen))

    assert name(default) == "runs/dates/transformer/default/seed=0"
    assert name(change(default, "training.seed", 5)) == "runs/dates/transformer/default/seed=5"
    assert name(change(default, "training.steps", 7)) == "runs/dates/transformer/training.steps=7/seed=0"
    both = change(change(default, "training.steps", 7), "data.bucket_lengths", (4, 16))
    assert name(both) == "runs/dates/transformer/data.bucket_lengths=_4_16_,training.steps=7/seed=0"
    slashes = change(default, "data.cache_directory", "/tmp/a b/../c")
    assert name(slashes) == "runs/dates/transformer/data.cache_directory=_tmp_c/seed=0"


def test_long_overrides_get_short_names_of_their_own():
    default = experiment()
    names = set()
    for last in "ab":
        chosen = change(default, "data.cache_directory", "x" * 500 + last)
        directory = run_directory("dates/transformer", default, chosen)
        assert all(len(part) < 130 for part in directory.parts)
        names.add(directory)
    assert len(names) == 2


def write_config(path, text="value = 1"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_configs_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = write_config(tmp_path / "configs" / "mine" / "model.py")
    other = write_config(tmp_path / "elsewhere" / "other.py")
    assert find_config("mine/model") == own
    assert find_config("elsewhere/other.py") == find_config(str(other)) == other
    assert config_name(own) == "mine/model"
    # Those of this project are there from everywhere, unless one's own has the same name.
    assert find_config("dates/transformer").parts[-3:] == ("configs", "dates", "transformer.py")
    assert tmp_path not in find_config("dates/transformer").parents
    assert find_config("dates/transformer") != write_config(tmp_path / "configs" / "dates" / "transformer.py")
    assert tmp_path in find_config("dates/transformer").parents


def test_a_config_that_is_not_there_names_those_that_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config(tmp_path / "configs" / "mine" / "model.py")
    for name in ("mine/modle", "configs/mine", "elsewhere/other.txt"):
        with pytest.raises(ValueError, match="there is no config.*dates/transformer.*mine/model") as error:
            find_config(name)
        assert ("Did you mean mine/model?" in str(error.value)) == (name == "mine/modle")


def test_a_config_is_loaded_with_its_docstring(tmp_path):
    path = write_config(
        tmp_path / "a" / "b.py",
        '"""What to expect: 42."""\nfrom seq2seq_jax.experiment import load_config, find_config\n'
        'def experiment():\n    return load_config(find_config("dates/transformer"))[0]\n',
    )
    loaded, description = load_config(path)
    assert description == "What to expect: 42."
    assert loaded == load_config(find_config("dates/transformer"))[0]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "model.encoder.norm_position",
            "pr%",
            "model.encoder.norm_position must be one of pre, post, both, and is 'pr%'",
        ),
        ("model.precision", "floqt32", "model.precision must be one of .*float32.*, and is 'floqt32'"),
        (
            "training.target_tokens_per_batch",
            "64",
            "training.target_tokens_per_batch must be a whole number, and is '64'",
        ),
        (
            "training.target_tokens_per_batch",
            64.0,
            "training.target_tokens_per_batch must be a whole number, and is 64.0",
        ),
        (
            "training.target_tokens_per_batch",
            True,
            "training.target_tokens_per_batch must be a whole number, and is True",
        ),
        ("training.patience", "2", "training.patience must be a whole number or None, and is '2'"),
        ("optimizer.learning_rate", "0.1", "optimizer.learning_rate must be a number, and is '0.1'"),
        ("optimizer.learning_rate", False, "optimizer.learning_rate must be a number, and is False"),
        ("data.packing", 1, "data.packing must be True or False, and is 1"),
        ("data.cache_directory", 3, "data.cache_directory must be text, and is 3"),
        ("data.bucket_lengths", ["4"], r"data.bucket_lengths\[0\] must be a whole number, and is '4'"),
        ("data.bucket_lengths", 4, "data.bucket_lengths must be a sequence of values, and is 4"),
        ("data.workers", {"class": "Dates"}, "data.workers must be a whole number, and is"),
        ("mesh", 4, "mesh must be the fields of MeshConfig, and is 4"),
        ("model.encoder", [], "model.encoder must be the fields of TransformerEncoderConfig or .*, and is"),
        ("data.class", "max_source_length", "class 'max_source_length' is not known"),
        ("data.class", 5, "class 5 is not known"),
        ("data.class", [], r"class \[\] is not known"),
        ("model.encoder.position_limit", 5, "has no field 'position_limit'"),
    ],
)
def test_json_values_are_of_their_types(name, value, said):
    values = to_json(experiment())
    *parts, last = name.split(".")
    part = values
    for each in parts:
        part = part[each]
    part[last] = value
    with pytest.raises(ValueError, match=said):
        from_json(Experiment, values)


def test_json_has_whole_numbers_where_numbers_may_be():
    values = to_json(experiment())
    values["optimizer"]["learning_rate"] = 1
    assert from_json(Experiment, values).optimizer.learning_rate == 1


@pytest.mark.parametrize("values", [None, 1, "text", []])
def test_json_that_is_no_experiment(values):
    with pytest.raises(ValueError, match="the experiment must be the fields of Experiment, and is"):
        from_json(Experiment, values)


def test_what_a_command_line_sets():
    arguments = ["--data.cache-directory", "x", "--data.directory=y", "data.workers", "--data.trains"]
    assert is_given("data.cache_directory", arguments) and is_given("data.directory", arguments)
    assert not is_given("data.workers", arguments) and not is_given("data.train", arguments)


def test_a_directory_written_in_several_ways_is_one_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = VARIANTS["text"]
    ways = ["my_text", "./my_text", "my_text/", "../" + tmp_path.name + "/my_text", str(tmp_path / "my_text")]
    names = {str(run_directory("a/b", default, change(default, "data.directory", way))) for way in ways}
    assert names == {"runs/a/b/data.directory=my_text/seed=0"}
    # The config's own directory by another name is no override; one elsewhere is written from the root.
    assert run_directory("a/b", default, change(default, "data.directory", "./d")).parts[3] == "default"
    outside = run_directory("a/b", default, change(default, "data.directory", "../x"))
    assert str(outside) == str(
        run_directory("a/b", default, change(default, "data.directory", str(tmp_path.parent / "x")))
    )
    # A run that was started before, under the path as it was given, goes on there.
    older = tmp_path / "runs/a/b/data.directory=.._x/seed=0"
    older.mkdir(parents=True)
    (older / "experiment.json").write_text("{}")
    assert run_directory("a/b", default, change(default, "data.directory", "../x")).absolute() == older


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("runs/a", "./runs/a", True), ("runs/a", "runs/a:best", True), ("runs/a:7", "runs/../runs/a:7", True),
        ("runs/a", "runs/b", False), ("runs/a", "runs/a:7", False), ("runs/a", None, False), (None, "runs/a", False),
    ],
)  # fmt: skip
def test_an_origin_may_be_written_in_several_ways(tmp_path, monkeypatch, old, new, same):
    monkeypatch.chdir(tmp_path)
    found = differences(experiment(init_from=old), experiment(init_from=new), continuing=True)
    assert found == ({} if same else {"init_from": (old, new)})
    if same:
        absolute = experiment(init_from=str(tmp_path / new))
        assert differences(experiment(init_from=old), absolute, continuing=True) == {}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    return {}['missing']", "line 2: KeyError: 'missing'"),
        ("    assert 1 == 2, 'never'", "line 2: AssertionError: never"),
        ("    return experiment()", "line 2: RecursionError"),
        ("    return 1 / 0", "line 2: ZeroDivisionError"),
        ("    raise SystemExit(3)", "line 2: SystemExit: 3"),
        ("    open('/no/such/file')", "line 2: FileNotFoundError"),
        ("    return int('ten')", r"invalid literal.*\(in config .*, line 2\)"),
    ],
)
def test_a_config_that_raises_is_one_line(tmp_path, body, said):
    path = write_config(tmp_path / "config.py", f"def experiment():\n{body}\n")
    with pytest.raises(ValueError, match=said) as error:
        load_config(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["", "x" * 5_000, "x" * 300 + ".py", "a\0b"])
def test_a_name_that_no_config_has(name):
    with pytest.raises(ValueError, match="there is no config"):
        find_config(name)


@pytest.mark.parametrize("columns", ["20", "40", "300"])
def test_a_mistake_reads_the_same_in_a_narrow_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(ValueError) as error:
        override(experiment(), ["--model.encoder.positions", "rotry"], program="seq2seq train x")
    assert str(error.value) == (
        "invalid choice 'rotry' for argument '--model.encoder.positions'. Expected one of ('sinusoidal', "
        "'sinusoidal_open', 'learned', 'rotary', 'relative'). See seq2seq train x --help."
    )
    assert os.environ["COLUMNS"] == columns


def test_a_command_line_chooses_the_class_of_a_part():
    """What both classes have is kept."""
    config = load_config_by_name("multi30k/transformer_small")
    arguments = ["--generation.temperature", "0.5", "--generation", "sampling", "--generation.samples=3"]
    chosen = override(config, arguments, program="p").generation
    assert chosen == Sampling(samples=3, temperature=0.5, maximum_length_ratio=1.2, source_tokens_per_batch=2_048)
    assert override(config, ["--generation=greedy"], program="p").generation == Greedy(
        maximum_length_ratio=1.2, source_tokens_per_batch=2_048
    )
    assert override(config, ["--generation", "beam-search"], program="p") == config
    assert from_json(Experiment, to_json(dataclasses.replace(config, generation=chosen))).generation == chosen


def test_parts_have_to_fit_when_all_values_are_known():
    config = load_config_by_name("multi30k/transformer_small")
    arguments = ["--objective", "policy_gradient", "--data.packing", "False"]
    chosen = override(config, arguments, program="p")
    assert isinstance(chosen.objective, PolicyGradientConfig) and not chosen.data.packing and config.data.packing
    assert override(config, arguments[2:] + arguments[:2], program="p") == chosen
    for short in (arguments[:2], ["--objective=policy_gradient"]):
        with pytest.raises(ValueError, match=r"Set data\.packing to False"):
            override(config, short, program="p")


METHODS = (
    "beam_search, greedy, sampling, diverse_beam_search, stochastic_beam_search, minimum_bayes_risk, "
    "mixture_of_experts, ctc_greedy, ctc_beam_search"
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--generation", "magic"],
            f"--generation must be one of {METHODS}, and is 'magic'",
        ),
        (
            ["--generation"],
            f"--generation must be one of {METHODS}, and is ''",
        ),
        (["--generation", "sampling", "--generation.beam_size", "2"], "generation is a Sampling here, which has no"),
        (["--data", "table"], "--data table needs directory, which has no default"),
    ],
)
def test_a_class_that_a_part_cannot_be_of_is_refused(arguments, said):
    with pytest.raises(ValueError) as error:
        override(load_config_by_name("dates/transformer"), arguments, program="p")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_mistake_reads_the_same_where_standard_output_is_ascii(monkeypatch):
    with pytest.raises(ValueError) as expected:
        override(experiment(), ["--training.select_by", "rouge"], program="seq2seq")
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with pytest.raises(ValueError) as error:
        override(experiment(), ["--training.select_by", "rouge"], program="seq2seq")
    assert str(error.value) == str(expected.value) and "---" not in str(error.value)


def test_a_part_that_a_config_lacks_is_added_by_its_name():
    experiment = load_config_by_name("dates/transformer")
    plain = override(experiment.model, ["--tied_embeddings", "decoder"], program="test")
    assert plain.front_end is None
    model = override(plain, ["--front_end", "log_mel", "--front_end.rate", "8000"], program="test")
    assert type(model.front_end).__name__ == "LogMelConfig" and model.front_end.rate == 8_000
    with pytest.raises(ValueError, match=r"^--front_end must be one of log_mel, features, and is 'sound'\.$"):
        override(plain, ["--front_end", "sound"], program="test")
    with pytest.raises(ValueError, match=r"no effect without front_end: add it with --front_end log_mel"):
        override(plain, ["--front_end.rate", "8000"], program="test")
