#include "json.h"

#include <cctype>
#include <cmath>
#include <cstring>

#include "errors.h"

namespace ssvi {
namespace {

constexpr int kMaxDepth = 64;

[[noreturn]] void damaged() { bad_file("its header is damaged"); }

}  // namespace

class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : text_(text) {}

  Json whole() {
    Json value = any(0);
    space();
    if (at_ != text_.size()) damaged();
    return value;
  }

 private:
  void space() {
    while (at_ < text_.size() && std::strchr(" \t\n\r", text_[at_]) != nullptr &&
           text_[at_] != '\0')
      ++at_;
  }
  char peek() {
    if (at_ >= text_.size()) damaged();
    return text_[at_];
  }
  bool take(char wanted) {
    space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  void word(std::string_view wanted) {
    if (text_.substr(at_, wanted.size()) != wanted) damaged();
    at_ += wanted.size();
  }

  Json any(int depth) {
    if (depth > kMaxDepth) damaged();
    space();
    Json value;
    const char first = peek();
    if (first == '{') {
      object(value, depth);
    } else if (first == '[') {
      list(value, depth);
    } else if (first == '"') {
      value.kind_ = Json::Kind::kText;
      value.text_ = string();
    } else if (first == 't' || first == 'f') {
      value.kind_ = Json::Kind::kBool;
      word(first == 't' ? "true" : "false");
      value.number_ = first == 't';
    } else if (first == 'n') {
      word("null");
    } else {
      value.kind_ = Json::Kind::kNumber;
      value.number_ = number();
    }
    return value;
  }

  void object(Json& value, int depth) {
    value.kind_ = Json::Kind::kObject;
    ++at_;
    if (take('}')) return;
    do {
      space();
      if (peek() != '"') damaged();
      std::string name = string();
      if (!take(':')) damaged();
      if (!value.object_.emplace(std::move(name), any(depth + 1)).second) damaged();
    } while (take(','));
    if (!take('}')) damaged();
  }

  void list(Json& value, int depth) {
    value.kind_ = Json::Kind::kList;
    ++at_;
    if (take(']')) return;
    do value.list_.push_back(any(depth + 1));
    while (take(','));
    if (!take(']')) damaged();
  }

  // Whole numbers only have a value, so no locale has a say in it.
  double number() {
    const size_t begin = at_;
    double value = 0;
    for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_]));
         ++at_)
      value = 10 * value + (text_[at_] - '0');
    const size_t digits = at_;
    while (at_ < text_.size() && std::strchr("+-.0123456789eE", text_[at_]) != nullptr &&
           text_[at_] != '\0')
      ++at_;
    if (at_ == begin) damaged();
    return at_ == digits ? value : -1;
  }

  uint32_t hex() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char* digits = "0123456789abcdef";
      const char c = peek(), low = c >= 'A' && c <= 'F' ? static_cast<char>(c + 32) : c;
      const char* found = low == '\0' ? nullptr : std::strchr(digits, low);
      if (found == nullptr) damaged();
      value = value << 4 | static_cast<uint32_t>(found - digits);
    }
    return value;
  }

  void character(std::string& out) {
    uint32_t code = hex();
    if (code >= 0xD800 && code < 0xDC00) {
      word("\\u");
      const uint32_t low = hex();
      if (low < 0xDC00 || low > 0xDFFF) damaged();
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
      out += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    constexpr uint32_t kLead[4] = {0, 0xC0, 0xE0, 0xF0};
    out += static_cast<char>(kLead[more] | code >> (6 * more));
    for (int i = more - 1; i >= 0; --i)
      out += static_cast<char>(0x80 | (code >> (6 * i) & 0x3F));
  }

  std::string string() {
    std::string out;
    ++at_;
    while (peek() != '"') {
      const char c = text_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) damaged();
      if (c != '\\') {
        out += c;
        continue;
      }
      const char escaped = peek();
      ++at_;
      const char* names = "\"\\/bfnrt";
      const char* found = escaped == '\0' ? nullptr : std::strchr(names, escaped);
      if (escaped == 'u') {
        character(out);
      } else if (found != nullptr) {
        out += "\"\\/\b\f\n\r\t"[found - names];
      } else {
        damaged();
      }
    }
    ++at_;
    return out;
  }

  std::string_view text_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text) { return JsonReader(text).whole(); }

bool Json::truth() const {
  if (kind_ != Kind::kBool) damaged();
  return number_ != 0;
}

const std::string& Json::text() const {
  if (kind_ != Kind::kText) damaged();
  return text_;
}

int64_t Json::whole() const {
  const bool fits = number_ >= 0 && number_ < 9e15 && number_ == std::floor(number_);
  if (kind_ != Kind::kNumber || !fits) damaged();
  return static_cast<int64_t>(number_);
}

const std::vector<Json>& Json::list() const {
  if (kind_ != Kind::kList) damaged();
  return list_;
}

const std::map<std::string, Json>& Json::object() const {
  if (kind_ != Kind::kObject) damaged();
  return object_;
}

const Json& Json::at(const std::string& name) const {
  const Json* found = find(name);
  if (found == nullptr) damaged();
  return *found;
}

const Json* Json::find(const std::string& name) const {
  const auto found = object().find(name);
  return found == object().end() ? nullptr : &found->second;
}

}  // namespace ssvi
