"""How well scans are prepared: `python benchmarks/prepare.py [--poses 50] [--workers 2]`."""

from permmoe_benchmarks.measurements.preparation import main

if __name__ == "__main__":
    main()
