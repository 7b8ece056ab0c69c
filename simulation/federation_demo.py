"""Run a coordinator and four hospitals on this machine: `python simulation/federation_demo.py`."""

from permmoe_simulation.federation_demo import main

if __name__ == "__main__":
    main()
