"""Attack a federated round on this machine: `python simulation/privacy_attacks.py [configs/studies/NAME.yaml]`."""

from permmoe_simulation.attacks.cli import main

if __name__ == "__main__":
    main()
