// Opens mutated model files and predicts with those that are accepted, for a build with
// sanitizers. Checksums are put right again, so that what is behind them is reached.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "sha256.h"
#include "ssvi.h"

namespace {

using Bytes = std::vector<uint8_t>;
std::mt19937 generator(11);

size_t below(size_t size) {
  return std::uniform_int_distribution<size_t>(0, size - 1)(generator);
}

Bytes read(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A few bytes changed, moved, taken out or put in.
void mutate(Bytes& bytes) {
  const size_t edits = 1 + below(3);
  for (size_t i = 0; i < edits && !bytes.empty(); ++i) {
    const size_t at = below(bytes.size()), kind = below(8);
    if (kind == 0) {
      bytes[at] ^= static_cast<uint8_t>(1u << below(8));
    } else if (kind == 1) {
      bytes[at] = static_cast<uint8_t>(below(256));
    } else if (kind == 2) {
      bytes.resize(at);
    } else if (kind == 3) {
      bytes.insert(bytes.begin() + at, 1 + below(4), static_cast<uint8_t>(below(256)));
    } else if (at / 4 * 4 + 4 <= bytes.size()) {
      // A word, which the graph's numbers are: another one, or a little more or less.
      const uint32_t words[] = {~0u, 0, 1, 7, 255, 1u << 16, 1u << 24, 0x7FFFFFFF};
      uint32_t word;
      std::memcpy(&word, &bytes[at / 4 * 4], 4);
      word = kind == 4 ? words[below(8)] : word + static_cast<uint32_t>(below(9)) - 4;
      std::memcpy(&bytes[at / 4 * 4], &word, 4);
    }
  }
}

// Stored blocks: deflate without a code, so that a stream is what it was made of.
Bytes stored(const Bytes& bytes) {
  Bytes out;
  for (size_t at = 0; at == 0 || at < bytes.size(); at += 65535) {
    const size_t size = std::min<size_t>(65535, bytes.size() - at);
    out.push_back(at + size == bytes.size());
    for (size_t value : {size, size ^ 0xFFFF}) {
      out.push_back(static_cast<uint8_t>(value));
      out.push_back(static_cast<uint8_t>(value >> 8));
    }
    out.insert(out.end(), bytes.begin() + at, bytes.begin() + at + size);
  }
  return out;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

// A file of a header and streams that is whole as far as its checksum goes.
Bytes file_of(const std::string& header, const std::map<std::string, Bytes>& streams) {
  ssvi::Sha256 sha;
  sha.add(header.data(), header.size());
  std::string table, data;
  for (const auto& [name, bytes] : streams) {
    const std::string line = "\n" + name + " " + std::to_string(bytes.size()) + "\n";
    sha.add(line.data(), line.size());
    sha.add(bytes.data(), bytes.size());
    table += "," + quoted(name) + ":{\"dtype\":\"U8\",\"shape\":[" +
             std::to_string(bytes.size()) + "],\"data_offsets\":[" +
             std::to_string(data.size()) + "," +
             std::to_string(data.size() + bytes.size()) + "]}";
    data.append(bytes.begin(), bytes.end());
  }
  const std::string whole = "{\"__metadata__\":{\"ssvi_jax\":" + quoted(header) +
                            ",\"sha256\":" + quoted(sha.hex()) + "}" + table + "}";
  Bytes out;
  for (int i = 0; i < 8; ++i) out.push_back(static_cast<uint8_t>(whole.size() >> (8 * i)));
  out.insert(out.end(), whole.begin(), whole.end());
  out.insert(out.end(), data.begin(), data.end());
  return out;
}

int accepted = 0, refused = 0;

void check(int code) {
  if (code == SSVI_INTERNAL || (code != SSVI_OK && *ssvi_error() == '\0')) {
    std::printf("code %d: %s\n", code, ssvi_error());
    std::exit(1);
  }
}

void open(const Bytes& bytes) {
  // A copy that ends where it ends, so that reading beyond it is found.
  Bytes exact(bytes.begin(), bytes.end());
  exact.shrink_to_fit();
  ssvi_model* model = nullptr;
  const int code = ssvi_open_memory(exact.data(), exact.size(), &model);
  check(code);
  (code == SSVI_OK ? accepted : refused) += 1;
  ssvi_info info;
  if (code != SSVI_OK || ssvi_describe(model, &info) != SSVI_OK) return;
  if (info.inputs <= 4096 && info.classes <= 4096) {
    const int64_t n = 1 + static_cast<int64_t>(below(3));
    const std::vector<float> x(n * info.inputs, 0.5f);
    std::vector<float> probabilities(n * info.classes), entropy(n), mutual(n);
    for (int mode : {SSVI_MEAN, SSVI_SAMPLES, SSVI_MOMENTS}) {
      const ssvi_options options{mode, 1 + static_cast<int>(below(2)), 2, 3};
      check(ssvi_predict(model, x.data(), n, &options, probabilities.data(),
                         entropy.data(), mutual.data()));
    }
  }
  ssvi_close(model);
}

}  // namespace

// The arguments: how many mutations of each part, then files, each followed by a folder
// with its header and its streams as they are before they are coded.
int main(int count, char** arguments) {
  const int number = std::atoi(arguments[1]);
  for (int i = 2; i + 3 < count; i += 4) {
    const Bytes whole = read(arguments[i]), text = read(arguments[i + 1]);
    const Bytes graph = read(arguments[i + 2]), values = read(arguments[i + 3]);
    open(whole);
    if (accepted == 0) {
      std::printf("%s\n", ssvi_error());
      return 1;
    }
    for (int k = 0; k < number; ++k) {
      Bytes bytes = whole;
      mutate(bytes);
      open(bytes);
    }
    // The streams: one after the other, each with its name and length before it.
    std::map<std::string, Bytes> streams;
    for (size_t at = 0; at < values.size();) {
      const size_t name = values[at], size = values[at + 1] | values[at + 2] << 8;
      const auto begin = values.begin() + at + 3;
      streams[std::string(begin, begin + name)] = {begin + name, begin + name + size};
      at += 3 + name + size;
    }
    const std::string header(text.begin(), text.end());
    for (int k = 0; k < number; ++k) {
      std::map<std::string, Bytes> changed = streams;
      Bytes said = text, drawn = graph;
      if (k % 4 == 0)
        mutate(said);
      else
        mutate(drawn);
      for (uint8_t& c : said) c = c >= 0x20 && c < 0x7F ? c : '0';
      changed["graph"] = stored(drawn);
      // A graph of another length must be announced.
      std::string other(said.begin(), said.end());
      const std::string was = "\"bytes\": " + std::to_string(graph.size());
      const size_t place = other.find(was);
      if (place != std::string::npos)
        other.replace(place, was.size(), "\"bytes\": " + std::to_string(drawn.size()));
      open(file_of(other, changed));
    }
  }
  std::printf("accepted %d refused %d\n", accepted, refused);
}
