#!/usr/bin/env bash
# Lints, checks types, and runs the suite but for what is marked by_hand or full_grid: quick tests first, then slow ones.
# With --oldest: the quick tests alone, in an environment of their own, on the oldest versions that setup.cfg allows.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"

# One BLAS thread: where other processes want the same cores, two are slower by a factor of ten and more.
export TF_CPP_MIN_LOG_LEVEL=3 OPENBLAS_NUM_THREADS=1
# Two at a time: most of the suite is tracing, which is Python on one core. Each takes half of the tests in
# their order, for the sake of fixtures, and who is done first takes over half of what the other has left.
tests=(-m pytest -q -n 2 --dist worksteal -m)

if [ "${1:-}" = --oldest ]; then
    install scripts,test oldest
    .venv-oldest/bin/python -m pip freeze | grep -iE '^(keras|tensorflow|tf_keras|numpy|scipy)' | tr '\n' ' '
    echo "and $(.venv-oldest/bin/python --version)"
    exec .venv-oldest/bin/python "${tests[@]}" "not slow"
fi
install scripts,test,lint

# The tests of the TensorBoard tab drive a real browser; they are skipped where there is none.
if ! command -v chromedriver >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "== installing chromium for the tests of the TensorBoard tab"
    (apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver fonts-dejavu-core) \
        >/dev/null 2>&1 || echo "   that failed; those tests will be skipped, or fail where CI is set"
fi

echo "== formatter and linters"
# ruff reads no setup.cfg, so its settings are here.
.venv/bin/ruff format --check --isolated --line-length 110 kfisher scripts tests
.venv/bin/ruff check --isolated --select I kfisher scripts tests --line-length 110
.venv/bin/python -m flake8 kfisher scripts tests
.venv/bin/oxlint kfisher/tensorboard/static
echo "== mypy"
.venv/bin/python -m mypy
echo "== pytest, quick tests first"
.venv/bin/python "${tests[@]}" "not by_hand and not full_grid"
