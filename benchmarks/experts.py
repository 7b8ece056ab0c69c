"""Time the batched experts against a loop: `python benchmarks/experts.py`."""

from permmoe_benchmarks.measurements.expert_batching import main

if __name__ == "__main__":
    main()
