"""A place where launchers run, and programs that stand in for those that they call."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import pytest
from compiling import compiling_as_usual

REPOSITORY = pathlib.Path(__file__).parents[2]

RECORDER = """#!{python}
import json, sys
with open({calls!r}, "a") as file:
    file.write(json.dumps([{name!r}, *sys.argv[1:]]) + "\\n")
print({output!r}, end="")
"""


class Project:
    """A copy of launch/ in a project of its own, with programs of its own first on the path."""

    def __init__(self, directory):
        self.directory = directory
        self.programs = directory / "programs"
        self.programs.mkdir(parents=True)
        shutil.copytree(REPOSITORY / "launch", directory / "launch")

    def program(self, name, text):
        """Put a program on the path."""
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def recorder(self, name, output=""):
        """Put a program on the path that does nothing but remember how it was called."""
        calls = str(self.directory / "calls")
        self.program(name, RECORDER.format(python=sys.executable, calls=calls, name=name, output=output))

    @property
    def calls(self):
        """Calls of the recorders, as lists of words."""
        path = self.directory / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, *command, **environment):
        """Start a command in the project."""
        return subprocess.Popen(
            list(map(str, command)),
            cwd=self.directory,
            env={**compiling_as_usual(), "PATH": f"{self.programs}:{os.environ['PATH']}", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command, **environment):
        """Run a command in the project; its process with output and errors."""
        process = self.start(*command, **environment)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def shown(self, *command, **environment):
        """The lines that a launcher shows, as lists of words."""
        shown = self.run(*command, **environment)
        assert (shown.returncode, shown.stderr) == (0, "")
        return [shlex.split(line) for line in shown.stdout.splitlines()]

    def refusal(self, *command, **environment):
        """The one line on standard error with which a launcher refuses."""
        refused = self.run(*command, **environment)
        assert (refused.returncode, refused.stdout) == (2, "")
        (line,) = refused.stderr.splitlines()
        assert line.startswith("seq2seq: ")
        return line


@pytest.fixture
def project(tmp_path):
    """A project in which every launcher can be called."""
    return Project(tmp_path / "project")
