"""Text read aloud by espeak-ng, in many voices: a manifest and WAV files, for tests of scale.

    python -m studies.synthetic_speech --text train.en --target train.de --output speech/train [--limit 1000]

writes speech/train.tsv (columns file, text, speaker) and the WAV files in speech/train/. Name such speech synthetic
wherever something is reported of it. The voice and speed of a line follow from its number.
"""

import argparse
import hashlib
import shutil
import subprocess
from pathlib import Path

VARIANTS = [f"m{number}" for number in range(1, 9)] + [f"f{number}" for number in range(1, 6)]
SPEEDS = range(140, 200, 10)
"""Words per minute."""


def voice_of(number: int, *, accents: tuple[str, ...]) -> tuple[str, int]:
    """Voice and words per minute of a line, a function of its number."""
    digest = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:8])
    accent = accents[digest % len(accents)]
    digest //= len(accents)
    variant = VARIANTS[digest % len(VARIANTS)]
    return f"{accent}+{variant}", SPEEDS[digest // len(VARIANTS) % len(SPEEDS)]


def main() -> None:
    """Read lines aloud."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="what is said, a line per recording")
    parser.add_argument("--target", type=Path, help="the texts of the manifest; by default what is said")
    parser.add_argument("--output", type=Path, required=True, help="directory, beside which the manifest is written")
    parser.add_argument("--limit", type=int, help="lines, from the first")
    parser.add_argument("--accents", default="en-us,en-gb,en-gb-scotland", help="voices of espeak-ng")
    chosen = parser.parse_args()
    if shutil.which("espeak-ng") is None:
        raise SystemExit("espeak-ng is not installed: apt-get install espeak-ng, or brew install espeak-ng.")
    said = chosen.text.read_text(encoding="utf-8").splitlines()[: chosen.limit]
    targets = (chosen.target or chosen.text).read_text(encoding="utf-8").splitlines()[: chosen.limit]
    chosen.output.mkdir(parents=True, exist_ok=True)
    rows = ["file\ttext\tspeaker"]
    for number, (line, target) in enumerate(zip(said, targets, strict=True)):
        voice, speed = voice_of(number, accents=tuple(chosen.accents.split(",")))
        path = chosen.output / f"{number:06d}.wav"
        subprocess.run(["espeak-ng", "-v", voice, "-s", str(speed), "-w", str(path), "--", line], check=True)
        rows.append(f"{chosen.output.name}/{path.name}\t{' '.join(target.split())}\t{voice}")
    chosen.output.with_suffix(".tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
