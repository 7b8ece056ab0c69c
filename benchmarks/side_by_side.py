"""What training several models side by side gains: `python benchmarks/side_by_side.py [--device cuda]`."""

from permmoe_benchmarks.measurements.side_by_side import main

if __name__ == "__main__":
    main()
