# Everything a newcomer needs: `make run`, `make test`. The set-up is done once, by itself.

PY := .venv/bin/python
NATIVE := $(wildcard fastpath/*.pyx fastpath/*.pxd fastpath/*.h) setup.py
HELPERS := $(wildcard tests/helpers/*.c tests/benchmarks/*.c)

.PHONY: help run test bench bench-full checked campaign differential fuzz saboteurs lint lock clean

help: ## these lines
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

run: .venv/.ready-run .venv/.built ## a whole plant on this machine: trip, alert, outage, reset (Ctrl-C ends it)
	@.venv/bin/sitewarden demo

test: lint ## lint, types, every test, and the fast path again with every check compiled in
	@$(PY) -m tests.helpers.build
	@$(PY) -m tests.helpers.inside
	@$(PY) -m pytest -q -n 3 --dist load --maxschedchunk 1 -m "not campaign and not alone"
	@$(PY) -m pytest -q -m "alone and not campaign"
	@$(PY) -m tests.checked --short

bench: .venv/.ready-test .venv/.built ## reactions, polling, evaluation beside bare C and asyncio (6 minutes)
	@$(PY) -m tests.benchmarks.bench

bench-full: .venv/.ready-test .venv/.built ## the same with 1,000 trips a cell, every load, Node-RED (40 minutes)
	@$(PY) -m tests.benchmarks.bench --full

checked: .venv/.ready-test .venv/.built ## the fast path with bounds checks, UBSan, failpoints; its coverage
	@$(PY) -m tests.checked

campaign: .venv/.ready-test .venv/.built ## the long forms: 1,000 kills of the guard, 200 of the gateway, noise, random sites
	@$(PY) -m pytest -q -m campaign --timeout=3600

differential: .venv/.ready-test .venv/.built ## the guard against the reference, 10,000 random sites (15 minutes)
	@for part in 0 1; do \
		$(PY) -m pytest -q -m campaign --timeout=7200 tests/fastpath/test_differential.py \
			-k "ten_thousand and [$$part]" & pids="$$pids $$!"; \
	done; for pid in $$pids; do wait $$pid || failed=1; done; exit $${failed:-0}

fuzz: .venv/.ready-test .venv/.built ## hostile bytes against every decoder (FUZZ_SECONDS=1800)
	@$(PY) -m tests.fuzz all --seconds $(or $(FUZZ_SECONDS),1800) --keep

saboteurs: .venv/.ready-test .venv/.built ## break the guard one rule at a time: is each one caught? (20 minutes)
	@$(PY) -m tests.saboteurs

lint: .venv/.ready-test .venv/.built ## ruff, cython-lint and mypy alone
	@.venv/bin/ruff check -q
	@.venv/bin/ruff format --check -q
	@PATH="$(CURDIR)/.venv/bin:$$PATH" cython-lint fastpath
	@.venv/bin/mypy

lock: .venv/.ready-test ## renew requirements/*.txt from pyproject.toml
	@$(PY) -m pip -q --disable-pip-version-check install uv
	@.venv/bin/uv pip compile -q pyproject.toml --upgrade $(UV) -o requirements/runtime.txt
	@.venv/bin/uv pip compile -q --group dev --upgrade $(UV) -c requirements/runtime.txt -o requirements/dev.txt
	@.venv/bin/uv pip compile -q --group build --upgrade $(UV) -c requirements/dev.txt -o requirements/build.txt

clean: ## remove what was built, and .venv
	@rm -rf .venv build dist *.egg-info fastpath/*.so fastpath/*.c tests/helpers/bin

# One after the other: the set-up comes before what is built with it.
.NOTPARALLEL:

UV := --generate-hashes --no-header --no-annotate --universal --python-version 3.11

# .ready-*: machine and .venv are set up. .built: the extension modules are those of the sources.
.venv/.ready-run: .ci/setup requirements/runtime.txt requirements/build.txt pyproject.toml
	@.ci/setup run
	@touch .venv/.ready-run .venv/.built

.venv/.ready-test: .ci/setup requirements/runtime.txt requirements/build.txt requirements/dev.txt pyproject.toml
	@.ci/setup test
	@touch .venv/.ready-run .venv/.ready-test .venv/.built

.venv/.built: $(NATIVE)
	@echo "setup: compiling what changed in the fast path"
	@$(PY) setup.py -q build_ext --inplace >.setup-log 2>&1 || { tail -n 40 .setup-log; exit 1; }
	@rm -f .setup-log
	@touch $@
