"""How many patients a study needs: `python simulation/power.py [configs/power/NAME.yaml]`."""

from permmoe_simulation.power.cli import main

if __name__ == "__main__":
    main()
