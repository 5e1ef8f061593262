// The few calls of CUDA that an engine on one GPU needs, and who gives back what they took.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <type_traits>

namespace edgekd::trt {

struct Gpu {
    int ordinal = 0;
    std::string sm;    // such as "sm_87"
    std::string model; // "NAME with N multiprocessors"; by its name alone every Orin is the same
};

// The GPU that is asked for, "cuda" or "cuda:N"; null: the one that CUDA uses now.
// Throws EDGEKD_UNAVAILABLE where there is none, with the reason.
Gpu open_gpu(const char *chosen);

// Free and whole memory of the current GPU, for a message.
std::string memory();

// Throws EDGEKD_FAILED, or EDGEKD_NO_MEMORY, naming the function and CUDA's reason.
void check(cudaError_t status, const char *function);

// Whether the GPU does nothing more for this process after such an error.
bool is_loss(cudaError_t status);

// Makes a GPU this thread's, as the library wants it, and gives the thread its own back. Where that
// fails, so does what is called next, and says why.
class Current {
public:
    explicit Current(int ordinal) noexcept;
    ~Current();
    Current(const Current &) = delete;
    Current &operator=(const Current &) = delete;

private:
    int before_ = -1; // none to give back
};

template <auto Release>
struct Releaser {
    template <class Handle>
    void operator()(Handle handle) const {
        Release(handle);
    }
};
template <class Handle, auto Release>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Releaser<Release>>;

using DeviceMemory = Owned<void *, cudaFree>;
using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;

DeviceMemory allocate_device(std::size_t bytes); // filled with zeros
Stream make_stream();

} // namespace edgekd::trt
