#!/usr/bin/env bash
# Bring what the tests of examples/ and of the demo's page need, as far as this machine allows: npm's packages, ONNX
# Runtime's headers, the parts of the page, Chromium. What can't be had is said, and its tests skip. Does nothing twice.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}

get() {  # what, where it is once it is there, command...
    local what=$1 where=$2
    shift 2
    [ -e "$where" ] && return
    echo "getting $what"
    "$@" >/dev/null 2>&1 || echo "  could not: tests that need $what will skip"
}

npm_install() {
    npm install --prefix "$1" --ignore-scripts --no-package-lock --no-audit --no-fund
}

install_chromium() {
    [ "$(id -u)" = 0 ] && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
}

get onnxruntime-node examples/node/node_modules/onnxruntime-node npm_install examples/node
get onnxruntime-web examples/browser/node_modules/onnxruntime-web npm_install examples/browser
get "ONNX Runtime's headers" examples/cpp/onnxruntime/include/onnxruntime_cxx_api.h examples/cpp/get_headers.sh
command -v chromium >/dev/null || get Chromium /usr/bin/chromium install_chromium
echo "getting the parts of the page"
"$python" -m fer_deploy demo --fetch || echo "  could not: tests of the page will skip"
