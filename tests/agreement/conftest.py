import sys
from pathlib import Path

# `benchmarks` is run from a checkout and not installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
