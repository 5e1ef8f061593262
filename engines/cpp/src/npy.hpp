// NumPy's .npy files, as bundles keep golden images and outputs (numpy.lib.format, versions 1 to 3).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgekd::core {

struct Array {
    std::vector<std::int64_t> shape;
    const std::uint8_t *data;  // in the file's bytes
    std::size_t count;
};

// An array of a kind, `|u1` or `<f4`, row by row. Throws EDGEKD_CORRUPT for anything else.
Array read_npy(std::string_view file, const std::string &kind, const std::string &name);

}  // namespace edgekd::core
