# Two targets do everything on a fresh machine: `make demo` and `make test`.

PYTHON ?= python3
# A further package index. PyTorch's own has builds without CUDA, a small part of the download:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
BIN := .venv/bin
DEMO := out/demo
SAMPLE := assets/sample
MEL := $(DEMO)/MAESTROv3_logmel_sr=16000_stft=2048w384h_mel=250(50-8000).h5
ROLL := $(DEMO)/MAESTROv3_roll_quant=0.024_midivals=128_extendsus=True.h5
STORES := "MAESTRO_PATH=$(SAMPLE)" "HDF5_MEL_PATH=$(MEL)" "HDF5_ROLL_PATH=$(ROLL)" "OUTPUT_DIR=$(DEMO)"

.PHONY: demo live test lint cuda bench fuzz clean

demo: $(BIN)/installed
	rm -rf $(DEMO)
	$(BIN)/python 0a_maestro_to_hdf5mel.py MAESTRO_INPATH=$(SAMPLE) OUTPUT_DIR=$(DEMO)
	$(BIN)/python 1_train_onsets_velocities.py $(STORES) TRAIN_BS=2 DATALOADER_WORKERS=1 LR_MAX=1 MAX_STEPS=4 TRAIN_LOG_EVERY=1
	$(BIN)/python 2_eval_onsets_velocities.py $(STORES) \
	    "SNAPSHOT_INPATH=$$(ls assets/OnsetVelocityNet_*.torch $(DEMO)/model_snapshots/*.torch 2>/dev/null | head -n 1)" \
	    "SEARCH_THRESHOLDS=[0.3,0.5,0.7,0.9]" "SEARCH_SHIFTS=[-0.05,-0.01,0.05]"

live: $(BIN)/installed
	$(BIN)/python -m ov_piano.live $(filter-out PYTHON=% TORCH_INDEX=%,$(MAKEOVERRIDES))

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(BIN)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

cuda: $(BIN)/installed
	$(BIN)/python -m pytest -rs tests/test_cuda.py

bench: $(BIN)/installed
	$(BIN)/python -m tests.benchmarks

fuzz: $(BIN)/installed
	$(BIN)/python -m tests.fuzz $(filter SEED=% PROPERTIES=% INPUTS=% SECONDS=% KILLS=% ONLY=% OUTPUT_DIR=%,$(MAKEOVERRIDES))

$(BIN)/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	@[ -n "$(TORCH_INDEX)" ] || command -v nvidia-smi > /dev/null || [ "$$(uname -s)" != Linux ] || echo \
	    "No NVIDIA driver found: TORCH_INDEX=https://download.pytorch.org/whl/cpu downloads far less."
	$(BIN)/pip install --quiet --disable-pip-version-check $(addprefix --extra-index-url ,$(TORCH_INDEX)) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv $(DEMO)
