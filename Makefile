# Two commands do everything: `make demo` starts a server ready to query, `make test` installs what the tests need and
# runs them all. Each makes its own environment in .venv and does nothing twice.

PORT ?= 8080
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q

.PHONY: demo test check bench soak mutants clean

demo: $(VENV)/.installed
	@$(BIN)/mql demo --port $(PORT)

test: $(VENV)/.for-tests check
	@sh tests/support/install.sh
	@$(PYTEST) -n 2 --dist worksteal

check: $(VENV)/.for-tests
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: $(VENV)/.for-bench
	@for bench in filter throughput live readers kafka "nexmark 100" "memory 2" "anomaly speed"; do \
		set -- $$bench; echo "== $$bench"; file=$$1; shift; $(BIN)/python bench/$$file.py $$@ || exit 1; done

soak: $(VENV)/.for-tests
	@sh tests/support/install.sh
	@MQL_QUERIES=20000 MQL_FUZZ=1000000 MQL_LAWS=300 $(PYTEST) -n 2 --timeout 0 tests/run/test_random_queries.py tests/language/test_fuzz.py tests/run/test_laws.py
	@MQL_TEST_CUTS=1000 MQL_FLIPS=100000 $(PYTEST) --timeout 0 tests/serve/test_reader_kills.py tests/run/test_checkpoint.py
	@MQL_LEDGERS=300 $(PYTEST) --timeout 0 tests/run/test_ledger_faults.py
	@MQL_TEST_SINK_KILLS=200 MQL_TEST_SINK_EVENTS=1000000 $(PYTEST) --timeout 0 -s tests/serve/test_sink_kills.py
	@MQL_TEST_CHANGE_KILLS=50 $(PYTEST) --timeout 0 tests/serve/test_changing_sinks_kills.py
	@MQL_TEST_LEDGER_KILLS=50 $(PYTEST) --timeout 0 tests/serve/test_ledger_kills.py
	@MQL_TEST_DEAD_KILLS=50 $(PYTEST) --timeout 0 -k killed tests/serve/test_dead_events.py
	@MQL_TEST_BROKER_FAULTS=100 MQL_TEST_BROKER_EVENTS=10000 $(PYTEST) --timeout 0 -s tests/kafka

mutants: $(VENV)/.for-tests
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check cosmic-ray coverage
	@nice -n 10 $(BIN)/python tests/mutation/run.py

clean:
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.python:
	@sh tests/support/python.sh $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.for-tests: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

$(VENV)/.for-bench: $(VENV)/.for-tests bench/requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement bench/requirements.txt
	@touch $@
