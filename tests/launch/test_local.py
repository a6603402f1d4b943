"""local.sh: what it shows is what it runs."""


def test_dry_run_shows_and_starts_nothing(project):
    for name in ("seq2seq", "pip", "python3", "python3.11", "python3.12"):
        project.recorder(name)
    assert project.shown("launch/local.sh", "--dry-run") == [
        [".", "launch/environment.sh"],
        ["prepare_environment", ""],
        ["seq2seq", "train", "dates/transformer"],
        ["seq2seq", "evaluate", "RUN", "--json", "RUN/test.json"],
    ]
    assert project.shown(
        "launch/local.sh", "--dry-run", "own_text/transformer", "--run-dir=my run", "--data.source", "it's"
    )[2:] == [
        ["seq2seq", "train", "own_text/transformer", "--run-dir=my run", "--data.source", "it's"],
        ["seq2seq", "evaluate", "my run", "--json", "my run/test.json"],
    ]
    assert not project.calls
    assert not (project.directory / ".venv").exists()


def test_it_runs_what_it_shows(project):
    """With an environment that is already there, and a program that only remembers how it was called."""
    run = project.directory / "run"
    (run / "samples").mkdir(parents=True)
    (run / "samples" / "step=00000010.txt").write_text("source     older\n")
    (run / "samples" / "step=00000020.txt").write_text("source     newer\n")
    for name in ("requirements.txt", "pyproject.toml"):
        (project.directory / name).write_text("")
    (project.directory / ".venv" / "bin").mkdir(parents=True)
    (project.directory / ".venv" / "bin" / "activate").write_text("")
    (project.directory / ".venv" / "bin" / "python").symlink_to("/bin/true")
    stamp = project.run("bash", "-c", "cat requirements.txt pyproject.toml | cksum >.venv/installed")
    assert stamp.returncode == 0
    project.recorder("seq2seq")
    arguments = ("dates/transformer", "--run-dir", "run", "--training.steps", "20")
    shown = project.shown("launch/local.sh", "--dry-run", *arguments)
    done = project.run("launch/local.sh", *arguments)
    assert done.returncode == 0, done.stderr
    assert project.calls == shown[2:]
    assert "newer" in done.stdout and "older" not in done.stdout
