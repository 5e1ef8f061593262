// Backends' plugins: found by name, opened once and kept for as long as the process lives.
#pragma once

#include <edgekd/backend.h>

#include <string>

namespace edgekd::core {

// The plugin of a backend, `libedgekd_NAME.so` in a folder; an empty folder stands for
// $EDGEKD_PLUGINS, and else for the library's own place. Throws EDGEKD_UNAVAILABLE.
const edgekd_backend_api &plugin(const std::string &backend, const std::string &folder);

}  // namespace edgekd::core
