"""Time gradients of single patients: `python benchmarks/private_training.py [--visits 32]`."""

from permmoe_benchmarks.measurements.private_gradients import main

if __name__ == "__main__":
    main()
