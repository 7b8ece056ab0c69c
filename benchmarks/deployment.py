"""Measure a federation of real processes: `python benchmarks/deployment.py`."""

from permmoe_benchmarks.measurements.deployment_cost import main

if __name__ == "__main__":
    main()
