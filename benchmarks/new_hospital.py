"""Ways to calibrate at a hospital that never trained: `python benchmarks/new_hospital.py` -> docs/new-hospital.md."""

from permmoe_benchmarks.measurements.hospital_calibration import main

if __name__ == "__main__":
    main()
