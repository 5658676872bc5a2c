#include "graph.h"

#include <cstring>

#include "errors.h"
#include "file.h"
#include "ssvi.h"

namespace ssvi {
namespace {

constexpr int32_t kMagic = 0x47565353, kVersion = 1;
constexpr int64_t kMaxLength = int64_t{1} << 24;

// Words of the stream one after the other.
class Words {
 public:
  explicit Words(const std::vector<uint8_t>& stream) : stream_(stream) {
    if (stream.size() % 4 != 0) bad_file("its graph is damaged");
  }

  int32_t next() {
    need(1);
    const uint8_t* p = stream_.data() + at_;
    at_ += 4;
    return static_cast<int32_t>(uint32_t{p[0]} | uint32_t{p[1]} << 8 |
                                uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24);
  }
  // A number of things that take up at least `width` words each.
  int32_t size(int64_t width) {
    const int32_t size = next();
    if (size < 0) bad_file("its graph is damaged");
    need(width * size);
    return size;
  }
  float number() {
    const int32_t bits = next();
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
  }
  bool at_end() const { return at_ == stream_.size(); }

 private:
  void need(int64_t words) {
    if (static_cast<int64_t>(stream_.size() - at_) < 4 * words)
      bad_file("its graph is damaged");
  }
  const std::vector<uint8_t>& stream_;
  size_t at_ = 0;
};

std::vector<int64_t> lengths(Words& words) {
  std::vector<int64_t> shape(words.size(1));
  if (shape.size() > SSVI_MAX_RANK) bad_file("its graph is damaged");
  for (int64_t& length : shape) {
    length = words.next();
    if (length < 0 || length > kMaxLength) bad_file("its graph is damaged");
  }
  return shape;
}

Constant constant(Words& words) {
  Constant found{lengths(words), {}};
  const int64_t size = count(found.shape);
  for (int64_t i = 0; i < size; ++i) found.values.push_back(words.number());
  return found;
}

Node node(Words& words, int32_t place) {
  Node found;
  const int32_t operation = words.next();
  if (operation < 0 || operation >= static_cast<int32_t>(Operation::kCount))
    bad_file("its graph has an operation that this version does not know");
  found.operation = static_cast<Operation>(operation);
  found.inputs.resize(words.size(1));
  for (int32_t& input : found.inputs) {
    input = words.next();
    if (input < 0 || input >= place) bad_file("its graph is damaged");
  }
  found.numbers.resize(words.size(2));
  for (Number& number : found.numbers) {
    number.each = words.next();
    number.constant = words.next();
  }
  return found;
}

}  // namespace

Graph parse_graph(const std::vector<uint8_t>& stream) {
  Words words(stream);
  if (words.next() != kMagic) bad_file("its graph is damaged");
  if (words.next() != kVersion) bad_file("another version of the graph; update ssvi_jax");
  Graph graph;
  graph.input_shape = lengths(words);
  if (graph.input_shape.size() == SSVI_MAX_RANK) bad_file("its graph is damaged");
  graph.classes = words.next();
  if (graph.classes < 2 || graph.classes > kMaxLength) bad_file("its graph is damaged");
  const int32_t constants = words.size(1);
  for (int32_t i = 0; i < constants; ++i) graph.constants.push_back(constant(words));
  const int32_t nodes = words.size(3);
  for (int32_t i = 0; i < nodes; ++i) graph.nodes.push_back(node(words, i));
  if (graph.nodes.empty() || !words.at_end()) bad_file("its graph is damaged");
  return graph;
}

}  // namespace ssvi
