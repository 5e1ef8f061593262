#include "tensorrt_session.hpp"

#include "common.hpp"
#include "tensorrt_sidecar.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace edgekd::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;

constexpr std::size_t GRAPHS = 8;

struct Type {
    edgekd_dtype code;
    DataType theirs;
    std::size_t bytes;
};
constexpr Type TYPES[] = {
    {EDGEKD_FLOAT32, DataType::kFLOAT, 4}, {EDGEKD_FLOAT16, DataType::kHALF, 2},
    {EDGEKD_UINT8, DataType::kUINT8, 1},   {EDGEKD_INT8, DataType::kINT8, 1},
    {EDGEKD_INT32, DataType::kINT32, 4},   {EDGEKD_INT64, DataType::kINT64, 8},
    {EDGEKD_BOOL, DataType::kBOOL, 1},
};

[[noreturn]] void incompatible(const std::string &text) {
    throw plugins::Failure(
        EDGEKD_INCOMPATIBLE, text + ": build it again here, or load another engine of the bundle");
}

[[noreturn]] void failed(const std::string &text) { throw plugins::Failure(EDGEKD_FAILED, text); }

bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

const edgekd_file *part(const edgekd_source &source, const char *suffix) {
    for (std::size_t place = 1; place < source.file_count; ++place) {
        if (ends_with(source.files[place].name, suffix)) return &source.files[place];
    }
    return nullptr;
}

Dims with_batch(Dims shape, std::size_t batch) {
    shape.d[0] = static_cast<std::int64_t>(batch);
    return shape;
}

// But for the batch, which is a matter of the engine's profile; what follows must be all numbers.
bool same_shape(const Dims &theirs, const edgekd_tensor &ours) {
    if (theirs.nbDims != static_cast<std::int32_t>(ours.rank) || ours.rank == 0) return false;
    return std::equal(
        ours.shape + 1, ours.shape + ours.rank, theirs.d + 1,
        [](std::int64_t wanted, std::int64_t found) { return wanted == found && found > 0; });
}

} // namespace

Session::Session(const edgekd_source &source) : name_(source.files[0].name) {
    if (ends_with(name_, ".onnx")) {
        throw plugins::Failure(
            EDGEKD_INCOMPATIBLE, std::string("this engine is for ") + source.device +
                                     ", and this is its ONNX, not built yet: run `edgekd verify "
                                     "BUNDLE --rebuild` on the device");
    }
    const edgekd_file *file = part(source, ".json");
    if (file == nullptr) {
        throw plugins::Failure(
            EDGEKD_CORRUPT,
            name_ + " has no side-car, so nobody knows what it is: build the engine again");
    }
    const SideCar facts = read_sidecar(*file);
    check_bytes(source.files[0], facts.sha256);
    const edgekd_file *compiled = part(source, ".jit");
    if (compiled != nullptr) check_bytes(*compiled, facts.compiled_sha256);
    version_ = Library::get().version();
    Here here{LIBRARY, version_, system_here(), "", "", host_code_allowed()};
    check_sidecar(facts, here);
    gpu_ = open_gpu(source.chosen);
    here.sm = gpu_.sm;
    here.model = gpu_.model;
    check_sidecar(facts, here);
    const Current current(gpu_.ordinal);
    logger().told();
    runtime_.reset(Library::get().create_runtime());
    if (runtime_ == nullptr) failed(std::string(LIBRARY) + " does not start: " + logger().told());
    runtime_->setEngineHostCodeAllowed(facts.version_compatible && here.host_code);
    if (facts.dla_core) runtime_->setDLACore(*facts.dla_core);
    load(source, compiled);
}

void Session::load(const edgekd_source &source, const edgekd_file *compiled) {
    const edgekd_file &plan = source.files[0];
    engine_.reset(runtime_->deserializeCudaEngine(plan.data, plan.bytes));
    if (engine_ == nullptr) {
        failed(std::string(LIBRARY) + " cannot load " + name_ + ": " + logger().told());
    }
    const auto count = static_cast<std::size_t>(engine_->getNbIOTensors());
    if (count != source.input_count + source.output_count) {
        incompatible(name_ + " has " + std::to_string(count) + " inputs and outputs, and the bundle " +
                     std::to_string(source.input_count + source.output_count));
    }
    for (std::size_t place = 0; place < source.input_count; ++place) {
        inputs_.push_back(describe(source.inputs[place], nvinfer1::TensorIOMode::kINPUT));
    }
    for (std::size_t place = 0; place < source.output_count; ++place) {
        outputs_.push_back(describe(source.outputs[place], nvinfer1::TensorIOMode::kOUTPUT));
    }
    const auto batch = [&](nvinfer1::OptProfileSelector which) {
        const Dims shape = engine_->getProfileShape(inputs_.front().name, 0, which);
        if (shape.nbDims < 1) failed(name_ + " has no profile: " + logger().told());
        return static_cast<std::size_t>(shape.d[0]);
    };
    smallest_ = batch(nvinfer1::OptProfileSelector::kMIN);
    largest_ = std::max<std::size_t>(source.max_batch, 1);
    const std::size_t most = batch(nvinfer1::OptProfileSelector::kMAX);
    if (plugins::min_batch(source) < smallest_ || largest_ < smallest_ || largest_ > most) {
        throw plugins::Failure(
            EDGEKD_INCOMPATIBLE,
            name_ + " is built for batches of " + std::to_string(smallest_) + " to " +
                std::to_string(most) + ", and batches of " +
                std::to_string(plugins::min_batch(source)) + " to " + std::to_string(largest_) +
                " are wanted: ask for others, or set max_batch of the target and build again");
    }
    const char *wanted = plugins::option(source, "cuda_graph");
    graphs_ = wanted == nullptr || std::strcmp(wanted, "false") != 0;
    contexts_ = std::make_unique<Contexts<nvinfer1::ICudaEngine>>(
        *engine_, compiled != nullptr ? compiled->data : nullptr,
        compiled != nullptr ? compiled->bytes : 0, graphs_);
}

Io Session::describe(const edgekd_tensor &tensor, nvinfer1::TensorIOMode mode) const {
    if (engine_->getTensorIOMode(tensor.name) != mode) {
        incompatible(name_ + " has no " +
                     (mode == nvinfer1::TensorIOMode::kINPUT ? "input '" : "output '") +
                     tensor.name + "'");
    }
    const DataType theirs = engine_->getTensorDataType(tensor.name);
    const auto *type = std::find_if(std::begin(TYPES), std::end(TYPES), [&](const Type &each) {
        return each.code == tensor.dtype && each.theirs == theirs;
    });
    if (type == std::end(TYPES)) {
        incompatible(name_ + " has '" + tensor.name + "' of another type than the bundle says");
    }
    Io io;
    io.name = tensor.name;
    io.shape = engine_->getTensorShape(tensor.name);
    if (!same_shape(io.shape, tensor)) {
        incompatible(name_ + " has '" + tensor.name + "' of another shape than the bundle says");
    }
    io.sample_bytes = type->bytes;
    for (std::uint32_t axis = 1; axis < tensor.rank; ++axis) {
        io.sample_bytes *= static_cast<std::size_t>(tensor.shape[axis]);
    }
    return io;
}

void *Session::allocate(std::size_t bytes) const noexcept {
    void *memory = nullptr;
    try {
        const Current current(gpu_.ordinal);
        check(cudaHostAlloc(&memory, bytes, cudaHostAllocPortable), "cudaHostAlloc");
    } catch (const std::exception &) { // the caller says that there is no memory
        return nullptr;
    }
    return memory;
}

void Session::release(void *memory) const noexcept { cudaFreeHost(memory); }

Runner::Runner(Session &session, const edgekd_buffers &buffers)
    : session_(session),
      host_inputs_(buffers.inputs, buffers.inputs + session.inputs_.size()),
      host_outputs_(buffers.outputs, buffers.outputs + session.outputs_.size()) {
    const Current current(session.gpu_.ordinal);
    stream_ = make_stream();
    for (const Io &io : session.inputs_) {
        inputs_.push_back(allocate_device(io.sample_bytes * session.largest_));
    }
    for (const Io &io : session.outputs_) {
        outputs_.push_back(allocate_device(io.sample_bytes * session.largest_));
    }
    using Strategy = nvinfer1::ExecutionContextAllocationStrategy;
    auto strategy = Strategy::kSTATIC;
    if (own_contexts() > 1) {
        strategy = Strategy::kUSER_MANAGED;
        const auto bytes = static_cast<std::size_t>(session.engine_->getDeviceMemorySizeV2());
        if (bytes > 0) scratch_ = allocate_device(bytes);
    }
    ways_.resize(session.largest_ - session.smallest_ + 1);
    Context *common = nullptr;
    for (std::size_t batch = session.smallest_; batch <= session.largest_; ++batch) {
        Way &way = ways_[batch - session.smallest_];
        if (has_own(batch) || common == nullptr) {
            contexts_.push_back(std::make_unique<Context>(make_context(strategy)));
            if (!has_own(batch)) common = contexts_.back().get();
            way.context = contexts_.back().get();
        } else {
            way.context = common;
        }
    }
    for (std::size_t batch = session.smallest_; batch <= session.largest_; ++batch) {
        ready(ways_[batch - session.smallest_], batch);
    }
}

// Where the GPU is lost there is nothing to wait for, and no one to tell.
Runner::~Runner() { cudaStreamSynchronize(stream_.get()); }

void Runner::run(std::size_t batch) {
    if (!lost_.empty()) {
        failed("the GPU was lost in an earlier run (" + lost_ +
               "): start the process anew and open the engine again");
    }
    const Current current(session_.gpu_.ordinal);
    Way &way = ways_[batch - session_.smallest_];
    try {
        if (busy_) wait(); // a run before this one failed
        busy_ = true;
        if (way.graph != nullptr) {
            check(cudaGraphLaunch(way.graph.get(), stream_.get()), "cudaGraphLaunch");
        } else {
            put(*way.context, batch);
        }
        wait();
    } catch (const plugins::Failure &failure) {
        const std::string after = settle();
        if (after.empty()) throw;
        lost_ = after;
        const std::string text = failure.what();
        if (text.find(after) != std::string::npos) throw;
        failed(text + "; " + after);
    }
}

std::size_t Runner::graphs() const {
    return static_cast<std::size_t>(std::count_if(
        ways_.begin(), ways_.end(), [](const Way &way) { return way.graph != nullptr; }));
}

// Whether a batch gets a context of its own, and a graph of it.
bool Runner::has_own(std::size_t batch) const {
    if (!session_.graphs_ || session_.contexts_->own_graphs()) return false;
    return batch - session_.smallest_ < GRAPHS || batch == session_.largest_;
}

std::size_t Runner::own_contexts() const {
    std::size_t count = 0;
    bool common = false;
    for (std::size_t batch = session_.smallest_; batch <= session_.largest_; ++batch) {
        if (has_own(batch)) ++count;
        else common = true;
    }
    return count + (common ? 1 : 0);
}

Runner::Context Runner::make_context(nvinfer1::ExecutionContextAllocationStrategy strategy) {
    logger().told();
    Context context;
    context.own.reset(session_.contexts_->make(strategy));
    if (context.own == nullptr) {
        failed(std::string(LIBRARY) + " cannot make an execution context of " + session_.name_ +
               ": " + logger().told() + "; " + memory());
    }
    if (scratch_ != nullptr) {
        context.own->setDeviceMemoryV2(
            scratch_.get(), session_.engine_->getDeviceMemorySizeV2());
    }
    const auto bind = [&](const std::vector<Io> &ios, const std::vector<DeviceMemory> &places) {
        for (std::size_t place = 0; place < ios.size(); ++place) {
            if (!context.own->setTensorAddress(ios[place].name, places[place].get())) {
                failed(std::string(LIBRARY) + " refuses the memory of '" + ios[place].name + "'");
            }
        }
    };
    bind(session_.inputs_, inputs_);
    bind(session_.outputs_, outputs_);
    return context;
}

// Runs the batch once, as a context wants it before it is captured (NVIDIA, TensorRT developer
// guide, "CUDA Graphs"); then makes its graph, or remembers why there is none.
void Runner::ready(Way &way, std::size_t batch) {
    put(*way.context, batch);
    wait();
    if (!has_own(batch) || !refused_.empty()) return;
    refused_ = capture(way, batch);
    if (way.graph == nullptr) return;
    check(cudaGraphLaunch(way.graph.get(), stream_.get()), "cudaGraphLaunch");
    wait();
}

std::string Runner::capture(Way &way, std::size_t batch) {
    if (!is_capturable(*way.context->own, stream_.get())) {
        return std::string(LIBRARY) + " says that this engine cannot be captured";
    }
    std::string why;
    cudaGraph_t captured = nullptr;
    try {
        // Other threads may go on meanwhile.
        check(
            cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
            "cudaStreamBeginCapture");
        try {
            put(*way.context, batch);
        } catch (const plugins::Failure &failure) {
            why = failure.what();
        }
        // In any case, for the stream's sake.
        const cudaError_t ended = cudaStreamEndCapture(stream_.get(), &captured);
        const Owned<cudaGraph_t, cudaGraphDestroy> drawing(captured);
        cudaGetLastError();
        if (!why.empty()) return why;
        check(ended, "cudaStreamEndCapture");
        cudaGraphExec_t graph = nullptr;
        check(cudaGraphInstantiateWithFlags(&graph, captured, 0), "cudaGraphInstantiateWithFlags");
        way.graph.reset(graph);
    } catch (const plugins::Failure &failure) {
        return failure.what();
    }
    return "";
}

void Runner::put(Context &context, std::size_t batch) {
    if (context.batch != batch) { // it prepares itself anew for each shape
        context.batch = 0;
        for (const Io &io : session_.inputs_) {
            if (!context.own->setInputShape(io.name, with_batch(io.shape, batch))) {
                failed(std::string(LIBRARY) + " refuses a batch of " + std::to_string(batch) +
                       ": " + logger().told());
            }
        }
        context.batch = batch;
    }
    for (std::size_t place = 0; place < inputs_.size(); ++place) {
        check(cudaMemcpyAsync(
                  inputs_[place].get(), host_inputs_[place],
                  session_.inputs_[place].sample_bytes * batch, cudaMemcpyHostToDevice,
                  stream_.get()),
              "cudaMemcpyAsync");
    }
    if (!context.own->enqueueV3(stream_.get())) {
        failed(std::string(LIBRARY) + " could not enqueue " + session_.name_ + ": " +
               logger().told());
    }
    for (std::size_t place = 0; place < outputs_.size(); ++place) {
        check(cudaMemcpyAsync(
                  host_outputs_[place], outputs_[place].get(),
                  session_.outputs_[place].sample_bytes * batch, cudaMemcpyDeviceToHost,
                  stream_.get()),
              "cudaMemcpyAsync");
    }
}

void Runner::wait() {
    const cudaError_t status = cudaStreamSynchronize(stream_.get());
    if (is_loss(status)) lost_ = cudaGetErrorString(status);
    check(status, "cudaStreamSynchronize");
    busy_ = false;
}

// What the GPU says when the stream cannot be brought to rest; empty where it can.
std::string Runner::settle() noexcept {
    if (!busy_) return "";
    const cudaError_t status = cudaStreamSynchronize(stream_.get());
    cudaGetLastError();
    if (status != cudaSuccess) return cudaGetErrorString(status);
    busy_ = false;
    return "";
}

} // namespace edgekd::trt
