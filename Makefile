# make setup: an environment in .venv; make demo and make test call it. A second run does no set-up again.
PYTHON ?= python3
TORCH_INDEX ?=
PIP_TORCH = $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
ARGS ?=
BIN = .venv/bin

.PHONY: setup demo test lint format bench docs

setup: .venv/.complete

# A stamp is written last: its existence means complete.
.venv/.complete: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "MER-VN needs Python 3.11 or later; found $$($(PYTHON) --version): make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(PIP_TORCH) torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[asr,demo,segment,ray,search,accelerate,lora,import,tensorboard,vad,serve,onnx,docs,dev]'
	$(BIN)/python -m pip install --quiet --no-deps torchvggish==0.2  # a reference for tests; it would bring numba along
	@touch $@

demo: setup
	$(BIN)/mervn demo $(ARGS)

# The type checker runs beside the first tests, which use one core each.
test: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS); tests=$$?; \
	wait $$types || { echo "mypy found errors, shown above the tests" >&2; exit 1; }; exit $$tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site of documentation, in site/. The tests build it too.
docs: setup
	$(BIN)/python docs/builder/build.py site

bench: setup
	@for file in benchmarks/benchmark_*.py; do \
		figures=$$($(BIN)/python $$file --json) || exit 1; \
		name=$$(basename $$file .py); \
		printf '%s\n' "$$figures" | tail -1 | $(BIN)/python -m json.tool > benchmarks/results/$${name#benchmark_}.json; \
	done
