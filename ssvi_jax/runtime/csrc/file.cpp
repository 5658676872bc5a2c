#include "file.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "errors.h"
#include "inflate.h"
#include "json.h"
#include "sha256.h"

namespace ssvi {
namespace {

constexpr int64_t kMaxSize = (int64_t{1} << 31) - 1;  // positions are int32
constexpr const char* kHeader = "ssvi_jax";

struct Bytes {
  const uint8_t* data;
  size_t size;
};

// The coded streams by name, and the header's text: the layout is that of safetensors.
struct Container {
  std::map<std::string, Bytes> streams;
  std::string header;
};

uint64_t little_endian(const uint8_t* data) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | data[i];
  return value;
}

void check_digest(const Container& found, const std::string& digest) {
  Sha256 sha;
  sha.add(found.header.data(), found.header.size());
  for (const auto& [name, bytes] : found.streams) {
    const std::string line = "\n" + name + " " + std::to_string(bytes.size) + "\n";
    sha.add(line.data(), line.size());
    sha.add(bytes.data, bytes.size);
  }
  if (sha.hex() != digest) bad_file("its checksum is wrong");
}

Container open(const uint8_t* data, size_t size) {
  if (size < 8) bad_file("it is too short");
  const uint64_t length = little_endian(data);
  if (length > size - 8)
    bad_file(size > 8 && data[8] != '{' ? "it is no model of ssvi_jax" : "it is too short");
  const Json table = Json::parse({reinterpret_cast<const char*>(data) + 8, length});
  const uint8_t* begin = data + 8 + length;
  const auto rest = static_cast<int64_t>(size - 8 - length);
  Container found;
  std::string digest;
  int64_t covered = 0;
  for (const auto& [name, entry] : table.object()) {
    if (name == "__metadata__") {
      if (entry.find(kHeader) == nullptr) bad_file("it is no model of ssvi_jax");
      found.header = entry.at(kHeader).text();
      digest = entry.at("sha256").text();
      continue;
    }
    const auto &offsets = entry.at("data_offsets").list(), &shape = entry.at("shape").list();
    if (entry.at("dtype").text() != "U8" || offsets.size() != 2 || shape.size() != 1)
      bad_file("a stream is not bytes");
    const int64_t low = offsets[0].whole(), high = offsets[1].whole();
    if (low > high || high > rest) bad_file("it is too short");
    if (shape[0].whole() != high - low) bad_file("its header is damaged");
    covered += high - low;
    found.streams[name] = {begin + low, static_cast<size_t>(high - low)};
  }
  if (digest.empty()) bad_file("it is no model of ssvi_jax");
  if (covered != rest) bad_file("its size is not that of its header");
  check_digest(found, digest);
  return found;
}

std::vector<uint8_t> expand(const Container& found, const std::string& name,
                            uint64_t size) {
  const auto stream = found.streams.find(name);
  if (stream == found.streams.end()) bad_file("a stream is missing");
  return inflate(stream->second.data, stream->second.size, size);
}

std::vector<int64_t> shape_of(const Json& lengths) {
  std::vector<int64_t> shape;
  for (const Json& length : lengths.list()) shape.push_back(length.whole());
  return shape;
}

float from_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                     : exponent == 31
                         ? INFINITY
                         : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return half >> 15 ? -size : size;
}

// Values whose first bytes lie together, then the second ones, and so on.
std::vector<float> from_planes(const std::vector<uint8_t>& planes, int width) {
  const size_t size = planes.size() / width;
  std::vector<float> values(size);
  for (size_t i = 0; i < size; ++i) {
    uint32_t bits = 0;
    for (int k = width - 1; k >= 0; --k) bits = bits << 8 | planes[k * size + i];
    if (width == 4)
      std::memcpy(&values[i], &bits, sizeof bits);
    else
      values[i] = from_half(static_cast<uint16_t>(bits));
    if (!std::isfinite(values[i])) bad_file("a value is not finite");
  }
  return values;
}

// The arrays of one group by path, in the order of its rows. What is not floating point
// has no values here, and no node may read it.
std::vector<std::pair<std::string, Array>> group_of(const Container& found,
                                                     const Json& tables,
                                                     const std::string& group) {
  const std::map<std::string, int> widths = {{"float32", 4}, {"float16", 2}};
  std::map<std::string, uint64_t> sizes;
  std::vector<std::pair<std::string, Array>> arrays;
  for (const Json& row : tables.at(group).list()) {
    const auto& parts = row.list();
    if (parts.size() != 4) bad_file("its tables are damaged");
    arrays.push_back({parts[0].text(), {shape_of(parts[3]), {}}});
    const bool whole = parts[1].text() == "float32" && widths.count(parts[2].text());
    if (whole) sizes[parts[2].text()] += count(arrays.back().second.shape);
  }
  std::map<std::string, std::vector<float>> values;
  for (const auto& [stored, size] : sizes) {
    const int width = widths.at(stored);
    if (size > kMaxSize) bad_file("an impossible size");
    values[stored] = from_planes(expand(found, group + "/" + stored, size * width), width);
  }
  std::map<std::string, size_t> starts;
  for (size_t i = 0; i < arrays.size(); ++i) {
    const auto& parts = tables.at(group).list()[i].list();
    const std::string& stored = parts[2].text();
    if (parts[1].text() != "float32" || !widths.count(stored)) continue;
    const auto size = static_cast<size_t>(count(arrays[i].second.shape));
    const auto begin = values[stored].begin() + starts[stored];
    arrays[i].second.values.assign(begin, begin + size);
    starts[stored] += size;
  }
  return arrays;
}

// Positions from the gaps between them; see ssvi_jax/io/positions.py.
std::vector<int32_t> positions(const uint8_t* gaps, int64_t length, int64_t kept,
                               int64_t size) {
  const bool others = 2 * kept > size;
  const int64_t wanted = others ? size - kept : kept;
  std::vector<int32_t> coded;
  int64_t at = -1, gap = 0;
  for (int64_t i = 0; i < length; ++i) {
    gap += gaps[i];
    if (gaps[i] == 255) continue;
    at += gap + 1;
    gap = 0;
    if (at >= size || static_cast<int64_t>(coded.size()) == wanted)
      bad_file("a position beyond the end of its layer");
    coded.push_back(static_cast<int32_t>(at));
  }
  if (static_cast<int64_t>(coded.size()) != wanted || (length > 0 && gaps[length - 1] == 255))
    bad_file("a wrong number of positions");
  if (!others) return coded;
  std::vector<int32_t> index;
  index.reserve(kept);
  size_t next = 0;
  for (int64_t i = 0; i < size; ++i) {
    if (next < coded.size() && coded[next] == i)
      ++next;
    else
      index.push_back(static_cast<int32_t>(i));
  }
  return index;
}

float softplus(float rho) { return std::fmax(rho, 0.0f) + std::log1p(std::exp(-std::fabs(rho))); }

std::vector<Layer> layers_of(const Container& found, const Json& header) {
  const Json& tables = header.at("arrays");
  std::map<std::string, Array> mean, rho;
  for (auto& [path, array] : group_of(found, tables, "mean")) mean[path] = array;
  for (auto& [path, array] : group_of(found, tables, "rho")) rho[path] = array;
  int64_t total = 0;
  for (const Json& row : header.at("layers").list()) {
    if (row.list().size() != 4) bad_file("its tables are damaged");
    total += row.list()[3].whole();
    if (total > kMaxSize) bad_file("an impossible size");
  }
  const std::vector<uint8_t> gaps = expand(found, "positions", total);
  std::vector<Layer> layers;
  int64_t start = 0;
  for (const Json& row : header.at("layers").list()) {
    const std::string& path = row.list()[0].text();
    Layer layer{shape_of(row.list()[1]), {}, {}, {}};
    const int64_t kept = row.list()[2].whole(), length = row.list()[3].whole();
    const int64_t size = count(layer.shape);
    if (kept > size || size > kMaxSize) bad_file("an impossible count");
    layer.mean = mean[path].values;
    layer.sigma = rho[path].values;
    const auto values = static_cast<int64_t>(layer.mean.size());
    // The values bound the memory: of a layer kept whole there are no positions.
    if (values != kept || (rho[path].values.size() && layer.sigma.size() != layer.mean.size()))
      bad_file("values without positions, or positions without values");
    for (float& sigma : layer.sigma) sigma = softplus(sigma);
    layer.index = positions(gaps.data() + start, length, kept, size);
    start += length;
    layers.push_back(std::move(layer));
  }
  return layers;
}

// Whether the network was trained on images of bytes.
bool takes_pixels(const Json& config) {
  if (config.find("input_shape") != nullptr) {  // one of the library's own
    const Json* pixels = config.find("pixels");
    return pixels == nullptr || pixels->truth();
  }
  const Json* inputs = config.find("inputs");
  if (inputs == nullptr || inputs->list().size() != 1) return false;
  const std::vector<Json>& input = inputs->list()[0].list();
  return input.size() == 2 && input[1].text() == "uint8";
}

}  // namespace

int64_t count(const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (int64_t length : shape) {
    if (length < 0 || (length > 0 && size > kMaxSize / length)) bad_file("an impossible shape");
    size *= length;
  }
  return size;
}

File read_file(const uint8_t* data, size_t size) {
  const Container found = open(data, size);
  const Json header = Json::parse(found.header);
  if (header.at("format").whole() != 1)
    bad_file("another version of the format; install the version of ssvi_jax that wrote it");
  const Json* graph = header.find("graph");
  if (graph == nullptr)
    bad_file(
        "it holds no graph; write it again where JAX is: ssvi_jax.load(path, module)"
        ".save(path), without the module if a run wrote it");
  if (const Json* refused = graph->find("refused"))
    bad_file("its network runs under JAX only: " + refused->text());
  File file;
  file.takes_pixels = takes_pixels(header.at("config"));
  file.graph = parse_graph(expand(found, "graph", graph->at("bytes").whole()));
  file.layers = layers_of(found, header);
  for (auto& [path, array] : group_of(found, header.at("arrays"), "params"))
    file.params.push_back(std::move(array));
  return file;
}

}  // namespace ssvi
