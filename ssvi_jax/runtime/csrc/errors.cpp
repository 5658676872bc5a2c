#include "errors.h"

#include "ssvi.h"

namespace ssvi {

void bad_file(const std::string& what) { throw Error{SSVI_BAD_FILE, what}; }

void bad_call(const std::string& what) { throw Error{SSVI_BAD_CALL, what}; }

}  // namespace ssvi
