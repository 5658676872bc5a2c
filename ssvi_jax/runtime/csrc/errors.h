// The one exception of the runtime; it ends at the C interface.
#pragma once

#include <string>
#include <utility>

namespace ssvi {

struct Error {
  int code;  // of ssvi.h
  std::string text;
};

[[noreturn]] void bad_file(const std::string& what);
[[noreturn]] void bad_call(const std::string& what);

}  // namespace ssvi
