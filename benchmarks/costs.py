"""What each part of a federation costs: `python benchmarks/costs.py` -> docs/costs.md."""

from permmoe_benchmarks.measurements.costs_of_parts import main

if __name__ == "__main__":
    main()
