"""Measure a card: `python benchmarks/gpu.py`, or its whole path without one: `--device cpu --quick`."""

from permmoe_benchmarks.gpu import main

if __name__ == "__main__":
    main()
