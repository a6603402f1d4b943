"""What the documents say: their links lead somewhere, their commands and options exist, their examples run."""

import dataclasses
import importlib.util
import itertools
import os
import re
import shlex
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from seq2seq_jax.commands import options
from seq2seq_jax.commands.main import MODULES
from seq2seq_jax.experiment import Experiment, find_config

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "configs/*.md", "launch/*.md")
    for path in REPOSITORY.glob(pattern)
    if ".venv" not in path.parts
)
IDS = [str(path.relative_to(REPOSITORY)) for path in DOCUMENTS]
PLACEHOLDERS = ("CONFIG", "RUN", "RUN1")


def blocks(path, language):
    """The contents of a document's fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(path):
    """The commands in a document's shell blocks, as lists of words; here-documents are left out."""
    for block in blocks(path, "bash"):
        block = re.sub(r"<<'(\w+)'.*?^\1$", "", block, flags=re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines():
            reader = shlex.shlex(line, posix=True, punctuation_chars=True)
            reader.whitespace_split = True
            for is_separator, words in itertools.groupby(
                reader, lambda word: word == "do" or set(word) <= set(";|&<>()")
            ):
                words = list(itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words))
                if words and not is_separator:
                    yield words


def fields(config, place=""):
    """Dotted names of all fields of a config class, whichever of its classes stands in a field."""
    hints = typing.get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        name = f"{place}{field.name}"
        # The fields of a part that has an empty name stand among those of the whole.
        inner = (
            place
            if any(getattr(note, "name", None) == "" for note in getattr(hint, "__metadata__", ()))
            else f"{name}."
        )
        yield name
        for candidate in _classes(hint):
            yield from fields(candidate, inner)


def _classes(hint):
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [each for argument in typing.get_args(hint) for each in _classes(argument)]


def options_of(command):
    """All options that a sub-command has with some config."""
    name = command.title().replace("-", "")
    arguments = getattr(options, f"{name}Options", None)
    if arguments is None:
        module = importlib.import_module(f"seq2seq_jax.commands.{MODULES.get(command, command)}")
        arguments = getattr(module, f"{name}Arguments")
    return set(fields(arguments)) | set(fields(Experiment))


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)|src=\"([^\":]+)\"", text)
    missing = [link for pair in links for link in pair if link and not (path.parent / link).exists()]
    assert not missing
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|sh|md|yaml))`", text)
    roots = (REPOSITORY, REPOSITORY / "seq2seq_jax")
    assert not [name for name in named if not any((root / name).exists() for root in roots)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_commands_and_options_exist(path):
    for words in commands(path):
        if words[:2] == ["python", "-m"]:
            module = REPOSITORY.joinpath(*words[2].split("."))
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), words[2]
        elif words and words[0].startswith("./"):
            assert os.access(REPOSITORY / words[0], os.X_OK), words[0]
        if "seq2seq" not in words[:1] or "--peers" in words:
            continue
        known = options_of(words[1])
        if words[1] in ("train", "compile", "benchmark") and not words[2].startswith("-"):
            config = words[2]
            if config not in PLACEHOLDERS and not config.endswith(".py") and "$" not in config:
                find_config(config)
        for word in words[2:]:
            if word.startswith("--") and word != "--help":
                option = word.partition("=")[0].removeprefix("--").replace("-", "_")
                assert option in known, f"{shlex.join(words)}: there is no {word}"
            elif "=" in word and words[1] in ("compile", "benchmark"):
                assert set(word.partition("=")[0].split("+")) <= known, word


def test_an_option_that_does_not_exist_is_found():
    assert "training.steps" in options_of("train")
    assert "training.stepz" not in options_of("train")
    assert {"model.encoder.num_heads", "model.encoder.cell", "processes.count", "run_dir"} <= options_of("train")


def run_in(directory, *command):
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{directory}:{REPOSITORY}",
        "HOME": str(directory),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_picture_of_the_architecture_has_every_room():
    specification = importlib.util.spec_from_file_location("draw", REPOSITORY / "docs" / "draw_architecture.py")
    draw = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(draw)
    package = REPOSITORY / "seq2seq_jax"
    rooms = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert {room for layer in draw.layers() for room in layer} == rooms - {"__init__", "__main__"} == set(draw.PURPOSES)


@pytest.mark.long
def test_examples_of_extending_run(tmp_path):
    examples = blocks(REPOSITORY / "docs" / "extending.md", "python")
    names = []
    for example in examples:
        name = re.match(r"# (\w+)\.py\n", example)
        assert name, "an example begins with the name of its file"
        (tmp_path / f"{name[1]}.py").write_text(example, encoding="utf-8")
        names.append(name[1])
    use = "; ".join(f"import {name}" for name in names)
    run_in(tmp_path, sys.executable, "-c", f"{use}; import small_dates; print(small_dates.experiment().model.encoder)")


@pytest.mark.long
def test_the_tutorial_runs(tmp_path):
    """All of its commands, one after the other, in an empty directory."""
    script = "\n".join(["set -euo pipefail", *blocks(REPOSITORY / "docs" / "tutorial.md", "bash")])
    output = run_in(tmp_path, "bash", "-c", script)
    (run,) = (tmp_path / "runs").glob("*/*/*/*")
    assert (run / "plots" / "learning_curves.png").is_file()
    assert (tmp_path / "scores.json").is_file()
    assert (tmp_path / "pictures").is_dir()
    assert output
