"""`seq2seq benchmark --peers`: the comparison with other libraries, which comes with the source checkout."""

import importlib
import sys
from pathlib import Path

import seq2seq_jax


def run(arguments: list[str]) -> None:
    """Hand the command line to the program that compares.

    Raises:
        ValueError: the package was installed without its checkout.
    """
    checkout = Path(seq2seq_jax.__file__).resolve().parents[1]
    if not (checkout / "studies" / "peers" / "__main__.py").is_file():
        raise ValueError(
            f"--peers comes with the source checkout (studies/peers), and {checkout} is none. Clone the repository, "
            "install it with pip install -e '.[peers]', and run the same command again."
        )
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    importlib.import_module("studies.peers.__main__").main(arguments)
