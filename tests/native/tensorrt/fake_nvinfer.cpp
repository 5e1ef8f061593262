// A TensorRT of which one engine is known: `logits` (n, 2) are, of each row of `image` (n, 4), the
// sum and the batch. Its plan is "FAKEPLAN MIN MAX". It is TensorRT's C++ interface as its headers
// have it; what nobody calls, of stubs.hpp, ends the process. FAKE_NVINFER says what goes wrong.
#include <NvInferRuntime.h>

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stubs.hpp" // apiv::RuntimeStub and others, made from the headers

#ifndef FAKE_NVINFER_VERSION
#define FAKE_NVINFER_VERSION NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR, 0, 7
#endif

namespace {

using namespace nvinfer1;

constexpr std::int64_t WIDTH = 4;
constexpr std::int64_t CLASSES = 2;
constexpr std::int64_t SCRATCH = 64;

ILogger *logger = nullptr;

bool goes_wrong(const char *what) {
    const char *said = std::getenv("FAKE_NVINFER");
    return said != nullptr && std::strcmp(said, what) == 0;
}

Dims shape(std::int64_t batch, std::int64_t width) {
    Dims dims{};
    dims.nbDims = 2;
    dims.d[0] = batch;
    dims.d[1] = width;
    return dims;
}

// What an enqueue leaves behind for the GPU to do. A graph of it holds only as long as its context
// has not been told another shape.
struct Launch {
    const std::int64_t *now;
    std::int64_t batch;
    const float *image;
    float *logits;
    unsigned char *scratch;

    void run() const {
        std::memset(scratch, 0xAB, SCRATCH);
        for (std::int64_t row = 0; row < batch; ++row) {
            float sum = *now == batch ? 0.0F : std::numeric_limits<float>::quiet_NaN();
            for (std::int64_t column = 0; column < WIDTH; ++column) sum += image[row * WIDTH + column];
            logits[row * CLASSES] = sum;
            logits[row * CLASSES + 1] = static_cast<float>(batch);
        }
    }
};

class ContextImpl : public apiv::ExecutionContextStub {
public:
    explicit ContextImpl(bool own) : own_(own ? SCRATCH : 0) {
        if (own) scratch_ = own_.data();
    }
    void setDeviceMemoryV2(void *memory, std::int64_t size) noexcept override {
        scratch_ = size >= SCRATCH ? static_cast<unsigned char *>(memory) : nullptr;
    }
    bool setTensorAddress(const char *name, void *memory) noexcept override {
        places_[name] = static_cast<float *>(memory);
        return true;
    }
    bool setInputShape(const char *, const Dims &dims) noexcept override {
        batch_ = dims.d[0];
        return true;
    }
    bool enqueueV3(cudaStream_t stream) noexcept override {
        if (goes_wrong("enqueue")) {
            logger->log(ILogger::Severity::kERROR, "Cuda failure in\nenqueueV3");
            return false;
        }
        if (batch_ == 0 || scratch_ == nullptr) return false;
        launches_.push_back(std::make_unique<Launch>(
            Launch{&batch_, batch_, places_.at("image"), places_.at("logits"), scratch_}));
        const auto run = [](void *launch) { static_cast<Launch *>(launch)->run(); };
        return cudaLaunchHostFunc(stream, run, launches_.back().get()) == cudaSuccess;
    }

private:
    std::vector<unsigned char> own_;
    unsigned char *scratch_ = nullptr;
    std::int64_t batch_ = 0;
    std::map<std::string, float *> places_;
    std::vector<std::unique_ptr<Launch>> launches_;
};

class Context : public IExecutionContext {
public:
    explicit Context(bool own) : impl_(own) { mImpl = &impl_; }

private:
    ContextImpl impl_;
};

class EngineImpl : public apiv::CudaEngineStub {
public:
    EngineImpl(int least, int most) : least_(least), most_(most) {}
    std::int32_t getNbIOTensors() const noexcept override { return 2; }
    TensorIOMode getTensorIOMode(const char *name) const noexcept override {
        if (std::strcmp(name, "image") == 0) return TensorIOMode::kINPUT;
        return std::strcmp(name, "logits") == 0 ? TensorIOMode::kOUTPUT : TensorIOMode::kNONE;
    }
    DataType getTensorDataType(const char *) const noexcept override { return DataType::kFLOAT; }
    Dims getTensorShape(const char *name) const noexcept override {
        return shape(-1, std::strcmp(name, "image") == 0 ? WIDTH : CLASSES);
    }
    Dims getProfileShape(const char *, std::int32_t, OptProfileSelector which) const noexcept override {
        return shape(which == OptProfileSelector::kMIN ? least_ : most_, WIDTH);
    }
    std::int64_t getDeviceMemorySizeV2() const noexcept override { return SCRATCH; }
    IExecutionContext *createExecutionContext(
        ExecutionContextAllocationStrategy strategy) noexcept override {
        if (goes_wrong("context")) return nullptr;
        return new Context(strategy == ExecutionContextAllocationStrategy::kSTATIC);
    }

private:
    int least_, most_;
};

class Engine : public ICudaEngine {
public:
    Engine(int least, int most) : impl_(least, most) { mImpl = &impl_; }

private:
    EngineImpl impl_;
};

class RuntimeImpl : public apiv::RuntimeStub {
public:
    void setEngineHostCodeAllowed(bool) noexcept override {}
    void setDLACore(std::int32_t) noexcept override {}
    ICudaEngine *deserializeCudaEngine(const void *plan, std::size_t bytes) noexcept override {
        const std::string text(static_cast<const char *>(plan), bytes);
        int least = 0;
        int most = 0;
        if (std::sscanf(text.c_str(), "FAKEPLAN %d %d", &least, &most) != 2) {
            logger->log(ILogger::Severity::kERROR, "Magic tag does not match");
            return nullptr;
        }
        return new Engine(least, most);
    }
};

class Runtime : public IRuntime {
public:
    Runtime() { mImpl = &impl_; }

private:
    RuntimeImpl impl_;
};

constexpr std::int32_t VERSION[] = {FAKE_NVINFER_VERSION};

} // namespace

extern "C" {

std::int32_t getInferLibMajorVersion() noexcept { return VERSION[0]; }
std::int32_t getInferLibMinorVersion() noexcept { return VERSION[1]; }
std::int32_t getInferLibPatchVersion() noexcept { return VERSION[2]; }
std::int32_t getInferLibBuildVersion() noexcept { return VERSION[3]; }

void *createInferRuntime_INTERNAL(void *log, std::int32_t) noexcept {
    logger = static_cast<ILogger *>(log);
    return static_cast<IRuntime *>(new Runtime);
}

} // extern "C"
