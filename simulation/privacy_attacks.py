"""Attack one round of a federation of synthetic patients: `python simulation/privacy_attacks.py [STUDY.yaml]`."""

from permmoe_simulation.attacks.cli import main

if __name__ == "__main__":
    main()
