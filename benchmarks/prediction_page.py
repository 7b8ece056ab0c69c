"""What a page with reasons costs beside its prediction: `python benchmarks/prediction_page.py [--turns 5]`."""

from permmoe_benchmarks.measurements.prediction_page import main

if __name__ == "__main__":
    main()
