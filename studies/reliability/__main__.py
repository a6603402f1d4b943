"""`python -m studies.reliability CAMPAIGN`: runs a campaign, prints its table; status 1 if anything was wrong."""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from studies.reliability import damage, full_disk, kills, readers, writers


def main() -> None:
    """Parse the command line, run the campaign."""
    parser = argparse.ArgumentParser(prog="python -m studies.reliability", description=__doc__)
    parser.add_argument("campaign", choices=("kills", "damage", "full_disk", "writers", "readers"))
    parser.add_argument(
        "--count",
        type=int,
        help="kills (by default 100), damages (all), trainings on a full disk (50), or pairs of writers (10)",
    )
    parser.add_argument("--steps", type=int, default=60, help="of the training that readers stand beside")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random")
    parser.add_argument("--only", default="", help="damage only files whose name contains this")
    chosen = parser.parse_args()
    os.environ.setdefault("STUDY_PRIORITY", "19")
    with tempfile.TemporaryDirectory(prefix="reliability-") as name:
        directory = Path(name)
        # Where evaluate prepares data anew for a run whose cache is damaged.
        os.environ["HOME"] = name
        match chosen.campaign:
            case "kills":
                report, well = kills.run(directory, count=chosen.count or 100, seed=chosen.seed)
            case "damage":
                report, well = damage.run(directory, seed=chosen.seed, count=chosen.count, only=chosen.only)
            case "full_disk":
                report, well = full_disk.run(directory, count=chosen.count or 50)
            case "writers":
                report, well = writers.run(directory, count=chosen.count or 10, seed=chosen.seed)
            case "readers":
                report, well = readers.run(directory, steps=chosen.steps)
    print(report)
    sys.exit(0 if well else 1)


if __name__ == "__main__":
    main()
