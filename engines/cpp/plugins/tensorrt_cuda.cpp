#include "tensorrt_cuda.hpp"

#include "common.hpp"
#include "tensorrt_library.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace edgekd::trt {
namespace {

// Those of which CUDA's reference says that the process "must be terminated and relaunched", and
// those that say the same of the hardware or the driver, or say nothing at all (CUDA Runtime API,
// "Data types used by CUDA Runtime", enum cudaError).
constexpr std::array<int, 19> LOST = {46,  214, 220, 226, 700, 702, 709, 710, 714, 715,
                                      716, 717, 718, 719, 721, 803, 810, 911, 999};

[[noreturn]] void unavailable(const std::string &reason) {
    throw plugins::Failure(EDGEKD_UNAVAILABLE, std::string(BACKEND) + " is unavailable: " + reason);
}

// CUDA's way to write one: 12020 is 12.2.
std::string version(int number) {
    return std::to_string(number / 1000) + '.' + std::to_string(number % 1000 / 10);
}

std::string why_none(cudaError_t status) {
    int supported = 0;
    int own = 0;
    check(cudaDriverGetVersion(&supported), "cudaDriverGetVersion"); // 0 where none is installed
    check(cudaRuntimeGetVersion(&own), "cudaRuntimeGetVersion");
    if (supported == 0) return "no driver is installed";
    if (status == cudaSuccess || status == cudaErrorNoDevice) return "the driver sees no GPU";
    if (status == cudaErrorInsufficientDriver) {
        return "the driver supports CUDA " + version(supported) + ", and this plugin's CUDA " +
               version(own) + " needs a later one";
    }
    return cudaGetErrorString(status);
}

int ordinal_of(const char *chosen, int count) {
    int ordinal = 0;
    if (chosen == nullptr || *chosen == '\0' || std::strcmp(chosen, "cuda") == 0) {
        check(cudaGetDevice(&ordinal), "cudaGetDevice");
        return ordinal;
    }
    for (; ordinal < count; ++ordinal) {
        if ("cuda:" + std::to_string(ordinal) == chosen) return ordinal;
    }
    unavailable(
        "it has no device '" + std::string(chosen) + "', only cuda:0" +
        (count > 1 ? " to cuda:" + std::to_string(count - 1) : ""));
}

} // namespace

Gpu open_gpu(const char *chosen) {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0) {
        cudaGetLastError();
        unavailable("no NVIDIA GPU with a working driver was found: " + why_none(status));
    }
    Gpu gpu;
    gpu.ordinal = ordinal_of(chosen, count);
    cudaDeviceProp facts{};
    check(cudaGetDeviceProperties(&facts, gpu.ordinal), "cudaGetDeviceProperties");
    gpu.sm = "sm_" + std::to_string(facts.major) + std::to_string(facts.minor);
    gpu.model = std::string(facts.name) + " with " + std::to_string(facts.multiProcessorCount) +
                " multiprocessors";
    return gpu;
}

std::string memory() {
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return std::to_string(free >> 20) + " of " + std::to_string(total >> 20) +
           " MiB of the GPU are free";
}

void check(cudaError_t status, const char *function) {
    if (status == cudaSuccess) return;
    cudaGetLastError(); // else the library finds the error, and takes it for its own
    const bool full = status == cudaErrorMemoryAllocation;
    throw plugins::Failure(
        full ? EDGEKD_NO_MEMORY : EDGEKD_FAILED,
        std::string(function) + " failed (" + cudaGetErrorString(status) + ")");
}

bool is_loss(cudaError_t status) {
    return std::find(LOST.begin(), LOST.end(), static_cast<int>(status)) != LOST.end();
}

Current::Current(int ordinal) noexcept {
    int now = ordinal;
    cudaGetDevice(&now);
    if (now != ordinal && cudaSetDevice(ordinal) == cudaSuccess) before_ = now;
}

Current::~Current() {
    if (before_ >= 0) cudaSetDevice(before_);
}

DeviceMemory allocate_device(std::size_t bytes) {
    void *memory = nullptr;
    check(cudaMalloc(&memory, bytes), "cudaMalloc");
    DeviceMemory owned(memory);
    check(cudaMemset(memory, 0, bytes), "cudaMemset");
    return owned;
}

Stream make_stream() {
    cudaStream_t stream = nullptr;
    // Not one that waits for the default stream, where the application may work.
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    return Stream(stream);
}

} // namespace edgekd::trt
