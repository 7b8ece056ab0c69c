"""Measure scaling curves: `python benchmarks/scaling.py [--full | --tiny] [--only PATTERN]`."""

from permmoe_benchmarks.scaling import main

if __name__ == "__main__":
    main()
