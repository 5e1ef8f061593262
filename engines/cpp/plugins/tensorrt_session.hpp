// A TensorRT engine that is open, and what each context of it runs.
#pragma once

#include "tensorrt_contexts.hpp"
#include "tensorrt_cuda.hpp"
#include "tensorrt_library.hpp"

#include <edgekd/backend.h>

#include <NvInferRuntime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace edgekd::trt {

// One tensor, as the engine has it.
struct Io {
    const char *name = nullptr;
    nvinfer1::Dims shape{}; // but for the batch
    std::size_t sample_bytes = 0;
};

class Session {
public:
    // Throws core::Failure. The library sees no byte of a plan that its side-car refuses.
    explicit Session(const edgekd_source &source);

    const char *runtime() const { return version_.c_str(); }
    int ordinal() const { return gpu_.ordinal; }

    // Page-locked memory, which the GPU reads and writes by itself; null where there is none.
    void *allocate(std::size_t bytes) const noexcept;
    void release(void *memory) const noexcept;

private:
    friend class Runner;

    void load(const edgekd_source &source, const edgekd_file *compiled);
    Io describe(const edgekd_tensor &tensor, nvinfer1::TensorIOMode mode) const;

    std::string name_; // of the engine's file, for messages
    std::string version_;
    Gpu gpu_;
    bool graphs_ = true; // whether CUDA graphs are wanted
    std::size_t smallest_ = 1;
    std::size_t largest_ = 1;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<Contexts<nvinfer1::ICudaEngine>> contexts_;
    std::vector<Io> inputs_;
    std::vector<Io> outputs_;
};

// One stream, and memory of the GPU for the largest batch. A batch that has a CUDA graph has an
// execution context of its own, since a context is prepared for one shape at a time and a graph
// holds only as long as its context is left alone (NVIDIA, TensorRT developer guide, "CUDA
// Graphs"); these contexts never run at the same time, and share one scratch memory. Batches above
// the eighth, but for the largest, share a context without a graph, so that a large max_batch does
// not take hundreds of contexts.
class Runner {
public:
    // Takes everything that a run needs, and runs each batch once. Throws.
    Runner(Session &session, const edgekd_buffers &buffers);
    ~Runner();
    Runner(const Runner &) = delete;
    Runner &operator=(const Runner &) = delete;

    void run(std::size_t batch);
    int ordinal() const { return session_.ordinal(); }

    // Why the batches have no CUDA graph of ours although one was asked for; empty where they have.
    const std::string &refused() const { return refused_; }
    // Graphs that are ready to be launched.
    std::size_t graphs() const;

private:
    struct Context {
        std::unique_ptr<nvinfer1::IExecutionContext> own;
        std::size_t batch = 0; // what it is prepared for
    };
    // What runs a batch. A graph goes before the context that it was captured from.
    struct Way {
        Context *context = nullptr;
        Graph graph;
    };

    bool has_own(std::size_t batch) const;
    std::size_t own_contexts() const;
    Context make_context(nvinfer1::ExecutionContextAllocationStrategy strategy);
    void ready(Way &way, std::size_t batch);
    std::string capture(Way &way, std::size_t batch); // why it cannot, or ""
    void put(Context &context, std::size_t batch); // the whole run, into the stream
    void wait();
    std::string settle() noexcept; // waits until nothing half done uses the memory

    Session &session_;
    std::vector<void *> host_inputs_, host_outputs_;
    Stream stream_;
    DeviceMemory scratch_;
    std::vector<DeviceMemory> inputs_, outputs_;
    std::vector<std::unique_ptr<Context>> contexts_;
    std::vector<Way> ways_; // by batch, from the smallest
    std::string refused_;
    std::string lost_;
    bool busy_ = false; // the stream may hold work that uses our memory
};

} // namespace edgekd::trt
