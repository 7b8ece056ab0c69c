"""Measure a training step on a GPU: `python benchmarks/gpu.py [--encoders cnn,sfcn,pooled]`."""

from permmoe_benchmarks.measurements.gpu_step import main

if __name__ == "__main__":
    main()
