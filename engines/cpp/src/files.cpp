#include "files.hpp"

#include "error.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

namespace edgekd::core {
namespace {

constexpr std::size_t ALIGNMENT = 64;
constexpr std::size_t LARGEST_MANIFEST = std::size_t{16} << 20;
constexpr std::size_t LONGEST_PATH = 4096;

class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() {
        if (number_ >= 0) close(number_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    Descriptor &operator=(Descriptor &&other) noexcept {
        std::swap(number_, other.number_);
        return *this;
    }
    Descriptor(Descriptor &&other) noexcept : number_(std::exchange(other.number_, -1)) {}
    int number() const { return number_; }

private:
    int number_;
};

// Fills memory from a file; false where it ends before.
bool fill(int descriptor, std::uint8_t *memory, std::size_t size) {
    while (size > 0) {
        const ssize_t count = ::read(descriptor, memory, size);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return false;
        memory += count;
        size -= static_cast<std::size_t>(count);
    }
    return true;
}

}  // namespace

void Bytes::Free::operator()(std::uint8_t *memory) const { std::free(memory); }

Bytes allocate(std::size_t size) {
    if (size > SIZE_MAX - ALIGNMENT) throw std::bad_alloc();
    const std::size_t whole = std::max(ALIGNMENT, (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
    auto *memory = static_cast<std::uint8_t *>(std::aligned_alloc(ALIGNMENT, whole));
    if (memory == nullptr) throw std::bad_alloc();
    return {std::unique_ptr<std::uint8_t[], Bytes::Free>(memory), size};
}

std::string sha256(std::string_view bytes) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(), nullptr) != 1) {
        throw Failure(EDGEKD_INTERNAL, "OpenSSL cannot compute sha256");
    }
    std::string text;
    for (unsigned int place = 0; place < size; ++place) {
        constexpr char DIGITS[] = "0123456789abcdef";
        text += DIGITS[digest[place] >> 4];
        text += DIGITS[digest[place] & 15];
    }
    return text;
}

bool is_inside(std::string_view path) {
    if (path.empty() || path.size() > LONGEST_PATH) return false;
    for (const char each : path) {
        if (static_cast<unsigned char>(each) < 0x20 || each == '\\') return false;
    }
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const std::string_view part = path.substr(begin, end - begin);
        if (part.empty() || part == "." || part == "..") return false;
        begin = end + 1;
    }
    return true;
}

Folder::Folder(std::string path)
    : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
    if (descriptor_ < 0) {
        throw Failure(
            EDGEKD_NOT_A_BUNDLE,
            path_ + " is not a bundle (" + std::strerror(errno) +
                "): name a folder that `edgekd build` made, such as NAME.edgekd");
    }
}

Folder::~Folder() { ::close(descriptor_); }

Bytes Folder::manifest() const {
    const int flags = O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK;
    const Descriptor file(::openat(descriptor_, "manifest.json", flags));
    struct stat facts {};
    if (file.number() < 0 || fstat(file.number(), &facts) != 0) {
        if (errno == ELOOP) corrupt(path_ + "/manifest.json is a link");
        throw Failure(
            EDGEKD_NOT_A_BUNDLE,
            path_ + " is not a bundle (manifest.json: " + std::strerror(errno) +
                "): name a folder that `edgekd build` made, such as NAME.edgekd");
    }
    if (!S_ISREG(facts.st_mode)) corrupt(path_ + "/manifest.json is no file");
    if (static_cast<std::uint64_t>(facts.st_size) > LARGEST_MANIFEST) {
        corrupt(path_ + "/manifest.json has more than 16 MiB");
    }
    Bytes found = allocate(static_cast<std::size_t>(facts.st_size));
    if (!fill(file.number(), found.data.get(), found.size)) {
        corrupt(path_ + "/manifest.json cannot be read");
    }
    return found;
}

void Folder::refuse_link(const std::string &name) const {
    for (std::size_t end = 0; end != std::string::npos;) {
        end = name.find('/', end + 1);
        struct stat facts {};
        const std::string part = name.substr(0, end);
        if (fstatat(descriptor_, part.c_str(), &facts, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(facts.st_mode)) {
            corrupt(path_ + ": '" + name + "' is a link");
        }
    }
}

Bytes Folder::read(const std::string &name, std::uint64_t bytes, const std::string &expected) const {
    const std::string whole = path_ + "/" + name;
    if (!is_inside(name)) corrupt(path_ + ": the manifest names '" + name + "', outside the bundle");
    // Folder by folder, so that none can become a link meanwhile.
    Descriptor place(::openat(descriptor_, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    for (std::size_t begin = 0; place.number() >= 0;) {
        const std::size_t end = name.find('/', begin);
        const bool last = end == std::string::npos;
        const std::string part = name.substr(begin, last ? end : end - begin);
        // Without O_NONBLOCK to open a pipe would wait for whoever writes to it.
        const int kind = last ? O_NONBLOCK : O_DIRECTORY;
        place = Descriptor(::openat(place.number(), part.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | kind));
        if (last) break;
        begin = end + 1;
    }
    struct stat facts {};
    if (place.number() < 0 || fstat(place.number(), &facts) != 0) {
        const int reason = errno;
        if (reason == ELOOP) corrupt(path_ + ": '" + name + "' is a link");
        if (reason == ENOENT || reason == ENOTDIR) corrupt(whole + " is missing, or behind a link");
        throw Failure(EDGEKD_FAILED, whole + " cannot be read (" + std::strerror(reason) + ")");
    }
    const std::string other = whole + " is not the file that the manifest names";
    if (!S_ISREG(facts.st_mode) || static_cast<std::uint64_t>(facts.st_size) != bytes) corrupt(other);
    Bytes found = allocate(static_cast<std::size_t>(bytes));
    if (!fill(place.number(), found.data.get(), found.size)) corrupt(other);
    if (sha256(found.text()) != expected) corrupt(other);
    return found;
}

}  // namespace edgekd::core
