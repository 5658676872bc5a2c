// The C interface: no exception leaves it.

#include "ssvi.h"

#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "errors.h"
#include "predict.h"

struct ssvi_model {
  ssvi_model(const uint8_t* data, size_t size) : predictor(data, size) {}
  ssvi::Predictor predictor;
};

namespace {

thread_local std::string last_error;

int failed(int code, const char* text) {
  try {
    last_error = text;
  } catch (...) {  // no memory for the text
  }
  return code;
}

template <typename Body>
int guarded(Body&& body) {
  try {
    body();
    return SSVI_OK;
  } catch (const ssvi::Error& error) {
    return failed(error.code, error.text.c_str());
  } catch (const std::bad_alloc&) {
    return failed(SSVI_NO_MEMORY, "out of memory");
  } catch (const std::exception& error) {
    return failed(SSVI_INTERNAL, error.what());
  } catch (...) {
    return failed(SSVI_INTERNAL, "an unknown error");
  }
}

std::vector<uint8_t> read_all(const char* path) {
  const auto close = [](std::FILE* file) { std::fclose(file); };
  std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path, "rb"), close);
  if (file == nullptr) throw ssvi::Error{SSVI_NO_FILE, "there is no such file"};
  std::vector<uint8_t> bytes;
  uint8_t block[1 << 16];
  for (size_t n; (n = std::fread(block, 1, sizeof block, file.get())) > 0;)
    bytes.insert(bytes.end(), block, block + n);
  if (std::ferror(file.get())) throw ssvi::Error{SSVI_NO_FILE, "it cannot be read"};
  return bytes;
}

}  // namespace

extern "C" {

int ssvi_open_memory(const void* data, size_t size, ssvi_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    if (data == nullptr || model == nullptr) ssvi::bad_call("data, model: got null");
    *model = new ssvi_model(static_cast<const uint8_t*>(data), size);
  });
}

int ssvi_open(const char* path, ssvi_model** model) {
  if (model != nullptr) *model = nullptr;
  return guarded([&] {
    if (path == nullptr || model == nullptr) ssvi::bad_call("path, model: got null");
    const std::vector<uint8_t> bytes = read_all(path);
    *model = new ssvi_model(bytes.data(), bytes.size());
  });
}

void ssvi_close(ssvi_model* model) { delete model; }

int ssvi_describe(const ssvi_model* model, ssvi_info* info) {
  return guarded([&] {
    if (model == nullptr || info == nullptr) ssvi::bad_call("model, info: got null");
    model->predictor.describe(*info);
  });
}

int ssvi_predict(ssvi_model* model, const float* x, int64_t n,
                 const ssvi_options* options, float* probabilities, float* entropy,
                 float* mutual_information) {
  return guarded([&] {
    if (model == nullptr || options == nullptr) ssvi::bad_call("model, options: got null");
    model->predictor.predict(x, n, *options, probabilities, entropy, mutual_information);
  });
}

const char* ssvi_error(void) { return last_error.c_str(); }

}  // extern "C"
