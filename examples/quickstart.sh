#!/usr/bin/env bash
# The whole pipeline on drawn faces, in a temporary workspace: train two small networks, export both and their fused
# ensemble, verify the files, benchmark them. `make quickstart` runs this.
set -euo pipefail

python=${PYTHON:-.venv/bin/python}
workspace=$(mktemp -d "${TMPDIR:-/tmp}/ferdeploy-quickstart.XXXXXX")
trap 'rm -rf "$workspace"' EXIT

step() {
    printf '\n\033[1m$ ferdeploy %s\033[0m\n' "$*"
    "$python" -m fer_deploy "$@" --workspace "$workspace"
}

step train plain-small plain --data synthetic --epochs 6
step export plain-small plain --ensemble plain-small,plain --data synthetic
printf '\n\033[1m$ ferdeploy verify plain-small+plain.onnx\033[0m\n'
"$python" -m fer_deploy verify "$workspace/exports/plain-small+plain.onnx" --workspace "$workspace"
step bench --data synthetic --quick

if [ -f benchmarks/report.json ]; then
    printf '\nThe released models on real FER2013 (benchmarks/report.md):\n\n'
    "$python" -m fer_deploy bench --from benchmarks/report.json --output "$workspace/released"
fi

printf '\nDone. The temporary workspace is deleted now; the README shows how to train in a workspace of your own.\n'
