#include "inflate.h"

#include <algorithm>
#include <array>

#include "errors.h"

namespace ssvi {
namespace {

constexpr int kMaxLength = 15;  // of a code, in bits

[[noreturn]] void damaged() { bad_file("a stream is damaged"); }

// Bits of the stream, the lowest of each byte first.
class Bits {
 public:
  Bits(const uint8_t* data, size_t size) : data_(data), size_(size) {}

  // The next `count` bits without taking them; beyond the end there are zeros.
  uint32_t peek(int count) {
    while (held_ < count && at_ < size_) {
      bits_ |= uint64_t{data_[at_++]} << held_;
      held_ += 8;
    }
    return static_cast<uint32_t>(bits_ & ((uint64_t{1} << count) - 1));
  }
  void skip(int count) {
    if (count > held_) damaged();
    bits_ >>= count;
    held_ -= count;
  }
  uint32_t take(int count) {
    const uint32_t value = peek(count);
    skip(count);
    return value;
  }
  void to_byte() { skip(held_ % 8); }
  bool at_end() const { return at_ == size_ && held_ < 8; }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
  uint64_t bits_ = 0;
  int held_ = 0;
};

// A prefix code as a table of all that 15 bits can be.
class Code {
 public:
  Code(const uint8_t* lengths, int count) {
    int used[kMaxLength + 1] = {};
    for (int i = 0; i < count; ++i) ++used[lengths[i]];
    longest_ = kMaxLength;
    while (longest_ > 1 && used[longest_] == 0) --longest_;
    uint32_t next[kMaxLength + 2] = {}, code = 0;
    used[0] = 0;
    for (int length = 1; length <= kMaxLength; ++length) {
      next[length] = code;
      code = (code + static_cast<uint32_t>(used[length])) << 1;
      if (code > (uint32_t{2} << length)) damaged();  // more codes than there are
    }
    table_.assign(size_t{1} << longest_, 0);
    for (int symbol = 0; symbol < count; ++symbol) {
      const int length = lengths[symbol];
      if (length == 0) continue;
      uint32_t turned = 0, value = next[length]++;
      for (int i = 0; i < length; ++i, value >>= 1) turned = turned << 1 | (value & 1);
      for (size_t at = turned; at < table_.size(); at += size_t{1} << length)
        table_[at] = static_cast<uint16_t>(symbol << 4 | length);
    }
  }

  int next(Bits& bits) const {
    const uint16_t found = table_[bits.peek(longest_)];
    if (found == 0) damaged();  // no code, for a length is never 0
    bits.skip(found & 15);
    return found >> 4;
  }

 private:
  int longest_;
  std::vector<uint16_t> table_;
};

constexpr int kLengthBase[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,
                                 15, 17, 19, 23, 27, 31, 35, 43, 51,  59,
                                 67, 83, 99, 115, 131, 163, 195, 227, 258};
constexpr int kLengthBits[29] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2,
                                 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0};
constexpr int kDistanceBase[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                   33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                   1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289,
                                   16385, 24577};
constexpr int kDistanceBits[30] = {0, 0, 0, 0, 1, 1, 2, 2,  3,  3,  4,  4,  5,  5,  6,
                                   6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13};

// The output, which never grows beyond what was announced.
class Output {
 public:
  explicit Output(uint64_t size) : size_(size) { bytes.reserve(size); }
  void put(uint8_t byte) {
    if (bytes.size() == size_) damaged();
    bytes.push_back(byte);
  }
  void repeat(size_t distance, int length) {
    if (distance > bytes.size()) damaged();
    for (int i = 0; i < length; ++i) put(bytes[bytes.size() - distance]);
  }
  std::vector<uint8_t> bytes;

 private:
  uint64_t size_;
};

void stored(Bits& bits, Output& out) {
  bits.to_byte();
  const uint32_t length = bits.take(16), inverse = bits.take(16);
  if ((length ^ inverse) != 0xFFFF) damaged();
  for (uint32_t i = 0; i < length; ++i) out.put(static_cast<uint8_t>(bits.take(8)));
}

void coded(Bits& bits, const Code& symbols, const Code& distances, Output& out) {
  for (;;) {
    const int symbol = symbols.next(bits);
    if (symbol < 256) {
      out.put(static_cast<uint8_t>(symbol));
      continue;
    }
    if (symbol == 256) return;
    if (symbol > 285) damaged();
    const int i = symbol - 257;
    const int length = kLengthBase[i] + static_cast<int>(bits.take(kLengthBits[i]));
    const int d = distances.next(bits);
    if (d > 29) damaged();
    const uint32_t distance = kDistanceBase[d] + bits.take(kDistanceBits[d]);
    out.repeat(distance, length);
  }
}

void with_fixed_codes(Bits& bits, Output& out) {
  std::array<uint8_t, 288> lengths;
  for (int i = 0; i < 288; ++i) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
  std::array<uint8_t, 30> distances;
  distances.fill(5);
  coded(bits, Code(lengths.data(), 288), Code(distances.data(), 30), out);
}

void with_own_codes(Bits& bits, Output& out) {
  constexpr int order[19] = {16, 17, 18, 0, 8,  7, 9,  6, 10, 5,
                             11, 4,  12, 3, 13, 2, 14, 1, 15};
  const int symbols = static_cast<int>(bits.take(5)) + 257;
  const int distances = static_cast<int>(bits.take(5)) + 1;
  const int given = static_cast<int>(bits.take(4)) + 4;
  uint8_t own[19] = {};
  for (int i = 0; i < given; ++i) own[order[i]] = static_cast<uint8_t>(bits.take(3));
  const Code code(own, 19);
  std::array<uint8_t, 320> lengths{};
  for (int i = 0; i < symbols + distances;) {
    const int symbol = code.next(bits);
    int count = 1;
    uint8_t length = static_cast<uint8_t>(symbol);
    if (symbol == 16) {
      if (i == 0) damaged();
      length = lengths[i - 1], count = 3 + static_cast<int>(bits.take(2));
    } else if (symbol > 16) {
      length = 0;
      count = symbol == 17 ? 3 + static_cast<int>(bits.take(3))
                           : 11 + static_cast<int>(bits.take(7));
    }
    if (i + count > symbols + distances) damaged();
    std::fill_n(lengths.begin() + i, count, length);
    i += count;
  }
  coded(bits, Code(lengths.data(), symbols), Code(lengths.data() + symbols, distances),
        out);
}

}  // namespace

std::vector<uint8_t> inflate(const uint8_t* data, size_t data_size, uint64_t size) {
  // A byte expands to at most 1032, so a claim beyond that costs no memory.
  if (size > 1032 * (uint64_t{data_size} + 1)) damaged();
  Bits bits(data, data_size);
  Output out(size);
  for (bool last = false; !last;) {
    last = bits.take(1) != 0;
    const uint32_t kind = bits.take(2);
    if (kind == 0) {
      stored(bits, out);
    } else if (kind == 1) {
      with_fixed_codes(bits, out);
    } else if (kind == 2) {
      with_own_codes(bits, out);
    } else {
      damaged();
    }
  }
  if (out.bytes.size() != size || !bits.at_end()) damaged();
  return std::move(out.bytes);
}

}  // namespace ssvi
