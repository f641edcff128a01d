#!/usr/bin/env bash
# Trains a logistic regression and an MLP by gradient descent, Adam, natural gradient and its empirical variant.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
install scripts

out="$PWD/runs/demo"
for problem in breast_cancer digits_mlp; do
    echo
    echo "== comparing on $problem"
    .venv/bin/python scripts/compare.py --problem "$problem" --out "$out"
done

echo
echo "== done"
echo "pictures:    $out/breast_cancer.png"
echo "             $out/digits_mlp.png"
echo "TensorBoard: $PWD/.venv/bin/tensorboard --logdir $out/logs"
