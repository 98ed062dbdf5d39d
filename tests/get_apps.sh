#!/usr/bin/env bash
# Bring what the tests of examples/, of old engines and of the demo's page need, as far as this machine allows: npm's
# packages, ONNX Runtime's headers and its oldest release, the parts of the page, Chromium. What can't be had is said,
# and its tests skip. Does nothing twice.
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
    timeout 300 npm install --prefix "$1" --ignore-scripts --no-package-lock --no-audit --no-fund
}

install_chromium() {
    [ "$(id -u)" = 0 ] && timeout 120 apt-get update && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y --no-install-recommends chromium
}

oldest_runtime() {  # the oldest that this Python has: 1.16 is what the files' format promises
    case $("$python" -c 'import sys; print(sys.version_info.minor)') in
        11) set -- onnxruntime==1.16.0 'numpy<2' ;;
        12) set -- onnxruntime==1.17.0 'numpy<2' ;;
        *) set -- onnxruntime==1.20.0 'numpy<2.3' ;;
    esac
    timeout 300 "$python" -m pip install --quiet --target build/onnxruntime-oldest "$@"
}

get onnxruntime-node examples/node/node_modules/onnxruntime-node npm_install examples/node
get onnxruntime-web examples/browser/node_modules/onnxruntime-web npm_install examples/browser
get "ONNX Runtime's headers" examples/cpp/onnxruntime/include/onnxruntime_cxx_api.h timeout 300 examples/cpp/get_headers.sh
get "the oldest ONNX Runtime" build/onnxruntime-oldest/onnxruntime oldest_runtime
command -v chromium >/dev/null || get Chromium /usr/bin/chromium install_chromium
echo "getting the parts of the page"
timeout 300 "$python" -m fer_deploy demo --fetch || echo "  could not: tests of the page will skip"
