"""A small share of benchmarks/fuzz.py: odd inputs of every kind end in an error of their own or in a result."""

from __future__ import annotations

import re
import subprocess
import sys

from stubs import ROOT

INPUTS = 1500


def test_no_input_is_uncaught():
    # In a process of its own: each input has an alarm, which pytest's own time limit uses too.
    words = [sys.executable, str(ROOT / "benchmarks" / "fuzz.py"), "--inputs", str(INPUTS), "--seed", "7"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=500)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    tried = re.search(r"^([\d,]+) inputs, 0 uncaught", found.stdout, re.MULTILINE)
    assert tried is not None
    assert int(tried[1].replace(",", "")) >= INPUTS * 0.9
