# Each target does all of its own set-up; a second run starts at once.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# One thread a process, one process a core: the fastest for many small cells, and the same bits every time.
export OMP_NUM_THREADS ?= 1

.PHONY: demo federation-demo test bench bench-full scaling lint clean

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; name one: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,mlflow,onnx,prepare,ray,survival,tensorboard]"
	touch $@

demo: $(VENV)/installed  ## the default study on the embedded synthetic cohort -> runs/default/report.html
	$(BIN)/python simulation/run.py

federation-demo: $(VENV)/installed  ## a coordinator and four hospitals over TLS -> runs/federation-demo/report.html
	$(BIN)/python simulation/federation_demo.py

test: $(VENV)/installed  ## every test, on all cores
	$(BIN)/python -m pytest -n auto --dist loadgroup

bench: $(VENV)/installed  ## performance goals as ratios, quick -> docs/performance.md
	$(BIN)/python benchmarks/run.py

bench-full: $(VENV)/installed  ## the same on the published grid: hours -> docs/performance.md
	$(BIN)/python benchmarks/run.py --full

scaling: $(VENV)/installed  ## what grows with hospitals, patients and batches, and how fast -> docs/scaling.md
	$(BIN)/python benchmarks/scaling.py

lint: $(VENV)/installed  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) runs
