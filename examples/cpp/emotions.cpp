// Read the emotion of faces with ONNX Runtime's C++ API, a header over its C API.
//
//   c++ -std=c++17 -O2 -I onnxruntime/include emotions.cpp -L onnxruntime/lib -lonnxruntime -o emotions
//   ORT_DISABLE_TELEMETRY=1 LD_LIBRARY_PATH=onnxruntime/lib ./emotions plain-distilled-2.onnx faces.bin 2 48 48
//
// Without ORT_DISABLE_TELEMETRY=1, ONNX Runtime 1.29 and later reports usage to Microsoft. It reads the variable when it
// is loaded, so that a program cannot set it for a library that it is linked with.
//
// The numbers are the count, height and width of the faces in the file of raw RGB bytes.
//
// onnxruntime/ is a release of ONNX Runtime for C and C++. For picture files, add a decoder that returns RGB bytes.
#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

constexpr std::array LABELS{"angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"};

// One row of seven probabilities per face. `faces` holds count x height x width x 3 bytes, RGB, row by row.
std::vector<std::array<float, LABELS.size()>> read_emotions(Ort::Session& session, std::vector<std::uint8_t>& faces,
                                                            std::int64_t count, std::int64_t height, std::int64_t width) {
  const std::array<std::int64_t, 4> shape{count, height, width, 3};
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto input = Ort::Value::CreateTensor<std::uint8_t>(memory, faces.data(), faces.size(), shape.data(), shape.size());
  const char* const inputs[]{"faces"};
  const char* const outputs[]{"probabilities"};
  const auto result = session.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 1);
  const float* values = result[0].GetTensorData<float>();
  std::vector<std::array<float, LABELS.size()>> rows(static_cast<std::size_t>(count));
  for (auto& row : rows)
    for (auto& probability : row) probability = *values++;
  return rows;
}

int main(int argc, char** argv) try {
  if (argc != 6) return std::fprintf(stderr, "usage: emotions MODEL.onnx FACES.bin COUNT HEIGHT WIDTH\n"), 2;
  std::ifstream file(argv[2], std::ios::binary);
  std::vector<std::uint8_t> faces{std::istreambuf_iterator<char>(file), {}};
  Ort::Env environment;
  Ort::Session session(environment, argv[1], Ort::SessionOptions{});
  for (const auto& row : read_emotions(session, faces, std::atoll(argv[3]), std::atoll(argv[4]), std::atoll(argv[5])))
    for (std::size_t label = 0; label < LABELS.size(); ++label)
      std::printf("%s\"%s\": %.9g%s", label ? ", " : "{", LABELS[label], row[label], label + 1 < LABELS.size() ? "" : "}\n");
} catch (const std::exception& error) {
  return std::fprintf(stderr, "error: %s\n", error.what()), 1;
}
