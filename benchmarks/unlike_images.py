"""What a model says of images unlike the training's: `python benchmarks/unlike_images.py [--subjects 120]`."""

from permmoe_benchmarks.measurements.unlike_images import main

if __name__ == "__main__":
    main()
