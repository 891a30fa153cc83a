#!/usr/bin/env bash
# One command for a machine with a GPU: the oracles and both benchmarks, on CUDA.
#   benchmarks/gpu.sh [FOLDER]     FOLDER keeps the JSON; default: benchmarks/results/gpu
set -euo pipefail
cd "$(dirname "$0")/.."
results="${1:-benchmarks/results/gpu}"

if [ -z "${PYTHON:-}" ]; then
    make .venv/ready-dev
    PYTHON=.venv/bin/python
fi

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "torch finds no CUDA device here, so nothing was run. On the CPU: make test, python -m benchmarks.overhead, python -m benchmarks.specbench_mini." >&2
    exit 3
fi

"$PYTHON" -c 'import torch; print("Running on", torch.cuda.get_device_name())'
failed=0
"$PYTHON" -m pytest tests/oracles || failed=1
"$PYTHON" -m benchmarks.overhead --results "$results" || failed=1
"$PYTHON" -m benchmarks.specbench_mini --results "$results" || failed=1
exit "$failed"
