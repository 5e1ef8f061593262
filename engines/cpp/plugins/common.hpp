// What every plugin needs: to tell a failure, and to let no exception out.
#pragma once

#include <edgekd/backend.h>

#include <cstdio>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

namespace edgekd::plugins {

class Failure : public std::runtime_error {
public:
    Failure(edgekd_status kind, const std::string &text) : std::runtime_error(text), status(kind) {}
    edgekd_status status;
};

inline void tell(edgekd_message *message, const char *text) {
    std::snprintf(message->text, sizeof message->text, "%s", text);
}

// Runs one call of the plugin interface; what is thrown becomes a status and a sentence.
template <class Call>
edgekd_status guarded(edgekd_message *message, Call call) noexcept {
    try {
        call();
        return EDGEKD_OK;
    } catch (const Failure &failure) {
        tell(message, failure.what());
        return failure.status;
    } catch (const std::bad_alloc &) {
        tell(message, "there is not enough memory");
        return EDGEKD_NO_MEMORY;
    } catch (const std::exception &error) {
        tell(message, error.what());
        return EDGEKD_FAILED;
    } catch (...) {
        tell(message, "the runtime threw something that is no exception");
        return EDGEKD_FAILED;
    }
}

// The value of one of an engine's options; null where it has none.
inline const char *option(const edgekd_source &source, const std::string &key) {
    for (std::size_t index = 0; index < source.option_count; ++index) {
        if (key == source.options[index].key) return source.options[index].value;
    }
    return nullptr;
}

inline std::uint32_t min_batch(const edgekd_source &source) {
    const char *found = option(source, "min_batch");
    const auto least = found != nullptr ? static_cast<std::uint32_t>(std::stoul(found)) : 1;
    // Where the batch is fixed it is the only one.
    const std::int64_t fixed = source.inputs[0].shape[0];
    return fixed > 0 ? static_cast<std::uint32_t>(fixed) : least < 1 ? 1 : least;
}

// What targets call this processor.
#if defined(__x86_64__)
constexpr const char *PROCESSOR = "x86_64";
#elif defined(__aarch64__)
constexpr const char *PROCESSOR = "arm64";
#else
constexpr const char *PROCESSOR = "another processor";
#endif

// Refuses an engine of another processor: it might run, and say nothing of its slowness.
inline void need_cpu(const edgekd_source &source) {
    const std::string device = source.device;
    if (device == "cpu" || device == PROCESSOR) return;
    throw Failure(
        EDGEKD_INCOMPATIBLE, "this engine is for " + device + ", and this is " + PROCESSOR +
                                 ": build it again here, or load another engine of the bundle");
}

}  // namespace edgekd::plugins
