"""Run one measurement by hand: `python benchmarks/measure.py MODULE:FUNCTION [ARGUMENTS]`."""

from permmoe_benchmarks.library.own_process import main

if __name__ == "__main__":
    main()
