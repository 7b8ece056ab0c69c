"""Measure every performance goal in turns: `python benchmarks/run.py [--full | --tiny] [--only PATTERN]`."""

from permmoe_benchmarks.performance import main

if __name__ == "__main__":
    main()
