"""Measure the secure sum: `python benchmarks/secure_sum.py [--sites 1000] [--silent 0.1]`."""

from permmoe_benchmarks.measurements.secure_sum_cost import main

if __name__ == "__main__":
    main()
