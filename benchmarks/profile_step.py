"""Show where the time of a step and of a round goes: `python benchmarks/profile_step.py [quick|full]`."""

from permmoe_benchmarks.measurements.time_profile import main

if __name__ == "__main__":
    main()
