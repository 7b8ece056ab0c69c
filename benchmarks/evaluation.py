"""What judging a finished model costs beside a round that trains: `python benchmarks/evaluation.py`."""

from permmoe_benchmarks.measurements.evaluation_cost import main

if __name__ == "__main__":
    main()
