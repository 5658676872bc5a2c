// JSON (RFC 8259), for text that may be hostile.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ssvi {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kText, kList, kObject };

  // Throws an Error on anything that is not one whole JSON value.
  static Json parse(std::string_view text);

  // Each throws an Error where the value is of another kind.
  bool truth() const;
  const std::string& text() const;
  int64_t whole() const;  // a whole number of at least 0
  const std::vector<Json>& list() const;
  const std::map<std::string, Json>& object() const;
  const Json& at(const std::string& name) const;  // there must be one
  const Json* find(const std::string& name) const;

 private:
  friend class JsonReader;
  Kind kind_ = Kind::kNull;
  double number_ = 0;
  std::string text_;
  std::vector<Json> list_;
  std::map<std::string, Json> object_;
};

}  // namespace ssvi
