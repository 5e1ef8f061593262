#include "npy.hpp"

#include "error.hpp"

#include <cctype>
#include <limits>

namespace edgekd::core {
namespace {

// The text behind a key of the header, which is a Python dictionary of three entries.
std::string_view after(std::string_view header, std::string_view key) {
    const std::size_t place = header.find(key);
    if (place == std::string_view::npos) return {};
    std::string_view rest = header.substr(place + key.size());
    while (!rest.empty() && (rest[0] == ' ' || rest[0] == ':')) rest.remove_prefix(1);
    return rest;
}

bool starts_with(std::string_view text, std::string_view with) { return text.substr(0, with.size()) == with; }

}  // namespace

Array read_npy(std::string_view file, const std::string &kind, const std::string &name) {
    const auto wrong = [&] { corrupt(name + " is no array of " + kind); };
    const auto byte = [&](std::size_t place) {
        return std::size_t{static_cast<unsigned char>(file[place])};
    };
    if (file.size() < 12 || !starts_with(file, "\x93NUMPY")) wrong();
    const std::size_t version = byte(6);
    if (version < 1 || version > 3) wrong();
    std::size_t begin = 10, size = byte(8) | byte(9) << 8;
    if (version > 1) {
        begin = 12;
        size |= byte(10) << 16 | byte(11) << 24;
    }
    if (size > file.size() - begin) wrong();
    const std::string_view header = file.substr(begin, size);
    if (!starts_with(after(header, "'descr'"), "'" + kind + "'")) wrong();
    if (!starts_with(after(header, "'fortran_order'"), "False")) wrong();
    std::string_view shape = after(header, "'shape'");
    if (!starts_with(shape, "(")) wrong();
    shape.remove_prefix(1);
    Array found{{}, nullptr, 1};
    while (!shape.empty() && shape[0] != ')') {
        if (!std::isdigit(static_cast<unsigned char>(shape[0]))) {
            if (shape[0] != ',' && shape[0] != ' ') wrong();
            shape.remove_prefix(1);
            continue;
        }
        std::size_t extent = 0;
        while (!shape.empty() && std::isdigit(static_cast<unsigned char>(shape[0]))) {
            extent = extent * 10 + static_cast<std::size_t>(shape[0] - '0');
            if (extent > std::numeric_limits<std::int32_t>::max()) wrong();
            shape.remove_prefix(1);
        }
        found.shape.push_back(static_cast<std::int64_t>(extent));
        if (extent != 0 && found.count > file.size() / extent) wrong();
        found.count *= extent;
    }
    if (shape.empty()) wrong();
    const std::size_t item = static_cast<std::size_t>(kind.back() - '0');
    const std::size_t data = begin + size;
    if (found.count * item != file.size() - data) wrong();
    found.data = reinterpret_cast<const std::uint8_t *>(file.data()) + data;
    return found;
}

}  // namespace edgekd::core
