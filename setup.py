"""What pyproject.toml cannot say: configs/ lies beside the package in the repository, and inside it in a wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CONFIGS = sorted(Path("configs").glob("*/*.py"))


class BuildWithConfigs(build_py):
    """Builds the package, and copies configs/DATASET/NAME.py to seq2seq_jax/configs of what is built."""

    def run(self) -> None:
        super().run()
        # An editable installation runs from the repository, where configs/ is found beside the package.
        if not self.editable_mode:
            for config in CONFIGS:
                built = Path(self.build_lib, "seq2seq_jax", config)
                built.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(config, built)


setup(cmdclass={"build_py": BuildWithConfigs})
