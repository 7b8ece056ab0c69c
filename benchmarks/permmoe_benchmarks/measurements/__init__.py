"""One module for each thing that is measured. A module declares its sides (`SIDES`) and its curves (`CURVES`) once;
`registry` collects them. Modules with a `main` are commands of their own, such as `python benchmarks/gpu.py`."""
