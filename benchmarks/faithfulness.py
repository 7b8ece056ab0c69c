"""Whether a prediction depends on the places that it is said to come from: `python benchmarks/faithfulness.py`."""

from permmoe_benchmarks.measurements.faithfulness import main

if __name__ == "__main__":
    main()
