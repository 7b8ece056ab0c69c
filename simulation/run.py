"""Run a federated study on this machine: `python simulation/run.py [configs/studies/NAME.yaml]`."""

from permmoe_simulation.cli import main

if __name__ == "__main__":
    main()
