"""Measure how often intervals of studies hold the truth and verdicts are false: `python benchmarks/verdicts.py`."""

from permmoe_benchmarks.verdicts_command import main

if __name__ == "__main__":
    main()
