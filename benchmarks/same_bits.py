"""Find out whether two checkouts compute the same bits: `python benchmarks/same_bits.py [--against FILE]`."""

from permmoe_benchmarks.same_bits import main

if __name__ == "__main__":
    main()
