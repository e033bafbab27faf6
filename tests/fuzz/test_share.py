"""Half a minute of fuzzing in each run of the tests, each time from another seed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 22  # and what it takes to begin, to look for leaks, and to end


def test_mutated_packets_and_records_break_nothing(record_property: Callable[[str, object], None]) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", str(SECONDS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    lines = done.stdout.splitlines()
    record_property("fuzz", f"{lines[0] if lines else 'no seed'} (python -m tests.fuzz --seed … begins with it)")
    for line in lines[-6:]:
        record_property("fuzz", line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "on sockets: " in done.stdout
