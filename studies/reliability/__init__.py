"""What damage, kills, full disks and other processes do to a run: campaigns that count, each with a negative control.

python -m studies.reliability kills --count 100
python -m studies.reliability damage
python -m studies.reliability full_disk
python -m studies.reliability writers
python -m studies.reliability readers

Each aims at 0 results that differ without a word, and 0 tracebacks. Measurements: docs/results/reliability.md.
"""
