"""How often intervals hold the truth, and how wide they are: `python benchmarks/coverage.py` -> docs/intervals.md."""

from permmoe_benchmarks.measurements.interval_coverage import main

if __name__ == "__main__":
    main()
