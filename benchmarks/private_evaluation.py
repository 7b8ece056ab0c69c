"""How near a private study is to its own errors: `python benchmarks/private_evaluation.py`."""

from permmoe_benchmarks.measurements.private_evaluation import main

if __name__ == "__main__":
    main()
