"""What the way from the scanner costs a trained model: `python benchmarks/raw_path.py [--tested 80] [--workers 2]`."""

from permmoe_benchmarks.measurements.raw_path import main

if __name__ == "__main__":
    main()
