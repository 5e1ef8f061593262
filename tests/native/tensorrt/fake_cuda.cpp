// A CUDA runtime on host memory, for machines without a GPU. A stream does nothing until somebody
// waits for it, so that whoever reads too early reads what was there before; a graph is what a
// stream was given while it was captured. FAKE_CUDA, of the environment, says what goes wrong.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
    Work work;
    bool capturing = false;
};
struct CUgraph_st {
    Work work;
};
struct CUgraphExec_st {
    Work work;
};

namespace {

int synchronised = 0;
thread_local int current = 0;

bool goes_wrong(const char *what) {
    const char *said = std::getenv("FAKE_CUDA");
    return said != nullptr && std::strcmp(said, what) == 0;
}

cudaError_t put(cudaStream_t stream, std::function<void()> work) {
    stream->work.push_back(std::move(work));
    return cudaSuccess;
}

} // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = goes_wrong("no GPU") ? 0 : 2;
    return *count == 0 ? cudaErrorNoDevice : cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *ordinal) {
    *ordinal = current;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int ordinal) {
    current = ordinal;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *facts, int ordinal) {
    *facts = {};
    std::strcpy(facts->name, "NVIDIA Orin");
    facts->major = 8;
    facts->minor = 7 - ordinal;
    facts->multiProcessorCount = 8;
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t *free, size_t *total) {
    *free = 1 << 20;
    *total = 8 << 20;
    return cudaSuccess;
}
const char *cudaGetErrorString(cudaError_t status) {
    switch (status) {
        case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
        default: return "another error";
    }
}
cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    if (goes_wrong("no memory")) return cudaErrorMemoryAllocation;
    *memory = std::malloc(bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
    std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
    std::memset(memory, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) { return cudaMalloc(memory, bytes); }
cudaError_t cudaFreeHost(void *memory) { return cudaFree(memory); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new CUstream_st;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (stream->capturing) return cudaErrorStreamCaptureUnsupported;
    const bool lost = goes_wrong("lost at the fifth run") && ++synchronised >= 5;
    if (lost) return cudaErrorIllegalAddress;
    for (const auto &each : stream->work) each();
    stream->work.clear();
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(
    void *to, const void *from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
    return put(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
    return put(stream, [=] { function(data); });
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    if (goes_wrong("no capture")) return cudaErrorStreamCaptureUnsupported;
    stream->capturing = true;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    stream->capturing = false;
    *graph = new CUgraph_st{std::move(stream->work)};
    stream->work.clear();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(
    cudaGraphExec_t *ready, cudaGraph_t graph, unsigned long long) {
    *ready = new CUgraphExec_st{graph->work};
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    stream->work.insert(stream->work.end(), graph->work.begin(), graph->work.end());
    return cudaSuccess;
}

} // extern "C"
