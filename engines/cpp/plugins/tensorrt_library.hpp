// TensorRT's own library, or that of TensorRT for RTX: found when an engine is opened, so that the
// plugin loads wherever it was compiled, and says what is missing.
#pragma once

#include <NvInferRuntime.h>

#include <mutex>
#include <string>

namespace edgekd::trt {

#if defined(EDGEKD_TENSORRT_RTX)
inline constexpr char BACKEND[] = "tensorrt-rtx";
inline constexpr char LIBRARY[] = "tensorrt_rtx"; // as side-cars name it
#else
inline constexpr char BACKEND[] = "tensorrt";
inline constexpr char LIBRARY[] = "tensorrt";
#endif

// Keeps errors, so that a failure can be told in one line. One for the process: the library takes
// the first that it is given for as long as anything made with it lives.
class Log : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char *text) noexcept override;

    // The errors since this was last asked, the first of them first.
    std::string told();

private:
    std::mutex mutex_;
    char text_[512] = {}; // nothing is allocated where an error may be that there is no memory
};

Log &logger();

class Library {
public:
    // Loaded once for the process, and again where that failed before. Throws EDGEKD_UNAVAILABLE.
    static const Library &get();

    const std::string &version() const { return version_; } // such as "10.3.0.26"
    nvinfer1::IRuntime *create_runtime() const;             // null where it refuses

private:
    Library();

    void *(*create_)(void *logger, std::int32_t version) noexcept;
    std::string version_;
};

} // namespace edgekd::trt
