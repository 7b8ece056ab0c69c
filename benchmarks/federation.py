"""Measure what federating costs on both engines: `python benchmarks/federation.py`."""

from permmoe_benchmarks.measurements.federation_cost import main

if __name__ == "__main__":
    main()
