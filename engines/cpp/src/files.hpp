// Files of a bundle, read once, and their sha256.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

namespace edgekd::core {

// A file's bytes, aligned for any runtime.
struct Bytes {
    struct Free {
        void operator()(std::uint8_t *memory) const;
    };
    std::unique_ptr<std::uint8_t[], Free> data;
    std::size_t size = 0;

    std::string_view text() const {
        return {reinterpret_cast<const char *>(data.get()), size};
    }
};

// Memory that begins at a multiple of 64; throws std::bad_alloc.
Bytes allocate(std::size_t size);

// 64 lower-case hexadecimal digits.
std::string sha256(std::string_view bytes);

// A bundle's folder, held open: files are found below it, and no link is followed.
class Folder {
public:
    // Throws EDGEKD_NOT_A_BUNDLE where there is no such folder.
    explicit Folder(std::string path);
    ~Folder();
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;

    // manifest.json, of at most 16 MiB.
    Bytes manifest() const;

    // Throws EDGEKD_CORRUPT where a file, or a folder on the way to it, is a link.
    void refuse_link(const std::string &name) const;

    // A file whose size and sha256 are known. Throws EDGEKD_CORRUPT where it is another, and
    // EDGEKD_FAILED where the system does not let it be read; one of another size is not read.
    Bytes read(const std::string &name, std::uint64_t bytes, const std::string &sha256) const;

    const std::string &path() const { return path_; }

private:
    std::string path_;
    int descriptor_;
};

// Whether a manifest's path stays inside a bundle: relative, with `/`, no empty, `.` or `..` part,
// no backslash, no control character.
bool is_inside(std::string_view path);

}  // namespace edgekd::core
