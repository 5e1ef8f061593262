#include "tensorrt_library.hpp"

#include "common.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <cstring>

namespace edgekd::trt {
namespace {

#if defined(EDGEKD_TENSORRT_RTX)
constexpr char VARIABLE[] = "EDGEKD_TENSORRT_RTX_LIBRARY";
constexpr char STEM[] = "libtensorrt_rtx.so.";
#else
constexpr char VARIABLE[] = "EDGEKD_TENSORRT_LIBRARY";
constexpr char STEM[] = "libnvinfer.so.";
#endif

[[noreturn]] void unavailable(const std::string &reason) {
    throw plugins::Failure(EDGEKD_UNAVAILABLE, std::string(BACKEND) + " is unavailable: " + reason);
}

// It is never unloaded: the library does not survive that.
void *load() {
    const char *given = secure_getenv(VARIABLE);
    const bool chosen = given != nullptr && *given != '\0';
    const std::string name = chosen ? given : STEM + std::to_string(NV_TENSORRT_MAJOR);
    void *handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
        const char *why = dlerror();
        unavailable(
            std::string(why != nullptr ? why : name.c_str()) + "; install it, or name the file in " +
            VARIABLE);
    }
    return handle;
}

template <class Function>
Function *find(void *handle, const char *name) {
    void *address = dlsym(handle, name);
    if (address == nullptr) unavailable("its library has no " + std::string(name));
    return reinterpret_cast<Function *>(address);
}

int number(void *handle, const char *part) {
    const std::string name = "getInferLib" + std::string(part) + "Version";
    return find<std::int32_t() noexcept>(handle, name.c_str())();
}

} // namespace

void Log::log(Severity severity, const char *text) noexcept {
    if (severity > Severity::kERROR || text == nullptr) return;
    const std::lock_guard<std::mutex> held(mutex_);
    if (std::strstr(text_, text) != nullptr) return;
    std::size_t end = std::strlen(text_);
    const auto put = [&](char each) {
        if (end + 1 < sizeof text_) text_[end++] = each;
    };
    if (end > 0) {
        put(';');
        put(' ');
    }
    for (; *text != '\0'; ++text) put(static_cast<unsigned char>(*text) < 0x20 ? ' ' : *text);
    text_[end] = '\0';
}

std::string Log::told() {
    const std::lock_guard<std::mutex> held(mutex_);
    std::string told = text_[0] != '\0' ? text_ : "no reason was given";
    text_[0] = '\0';
    return told;
}

Log &logger() {
    static auto *log = new Log; // outlives whatever the library does at the process's end
    return *log;
}

const Library &Library::get() {
    static const Library library;
    return library;
}

Library::Library() {
    void *handle = load();
    const int major = number(handle, "Major");
    const int minor = number(handle, "Minor");
    version_ = std::to_string(major) + '.' + std::to_string(minor) + '.' +
               std::to_string(number(handle, "Patch")) + '.' +
               std::to_string(number(handle, "Build"));
    // Its classes are C++: a later minor version adds to them, an earlier one lacks what we may call.
    if (major != NV_TENSORRT_MAJOR || minor < NV_TENSORRT_MINOR) {
        unavailable(
            "this plugin was compiled for " + std::to_string(NV_TENSORRT_MAJOR) + '.' +
            std::to_string(NV_TENSORRT_MINOR) + " or later of " +
            std::to_string(NV_TENSORRT_MAJOR) + ", and " + version_ + " is here");
    }
    create_ = find<void *(void *, std::int32_t) noexcept>(handle, "createInferRuntime_INTERNAL");
}

nvinfer1::IRuntime *Library::create_runtime() const {
    return static_cast<nvinfer1::IRuntime *>(create_(&logger(), NV_TENSORRT_VERSION));
}

} // namespace edgekd::trt
