#!/bin/sh
# Put ONNX Runtime's C and C++ headers into examples/cpp/onnxruntime/include, for the tests of this example.
#
# Users take them from ONNX Runtime's release for C and C++, which also has the library. For machines that reach only
# package registries: the npm package below is ONNX Runtime for Unity (MIT) and contains the headers. The library comes
# with the Python package onnxruntime. Headers work with a library of their version or a newer one.
set -eu
package=com.github.asus4.onnxruntime@0.4.9
folder=$(cd "$(dirname "$0")" && pwd)/onnxruntime/include
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
npm pack --silent --pack-destination "$temporary" "$package" >/dev/null
tar -xzf "$temporary"/*.tgz -C "$temporary" 'package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers'
rm -rf "$folder"
mkdir -p "$(dirname "$folder")"
mv "$temporary/package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers" "$folder"
