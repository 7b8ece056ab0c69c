"""Compare what encoders learn and how long it takes: `python benchmarks/encoders.py [--encoders pooled,sfcn_lite]`."""

from permmoe_benchmarks.measurements.encoder_comparison import main

if __name__ == "__main__":
    main()
