#!/usr/bin/env bash
# Trains a convnet on digits with K-FAC on two workers of this machine, which write one TensorBoard run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
install scripts

.venv/bin/python scripts/distribute.py --out "$PWD/runs/distribute" "$@"
