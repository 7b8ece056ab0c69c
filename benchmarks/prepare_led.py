"""What verdicts say of FLAIR and PET off their T1: `python benchmarks/prepare_led.py [--subjects 40] [--workers 2]`."""

from permmoe_benchmarks.measurements.preparation_led import main

if __name__ == "__main__":
    main()
