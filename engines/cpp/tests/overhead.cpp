// What the library adds to its runtime; benchmarks/embedding.py runs this and says what it found.
//
// overhead calls BUNDLE TARGET PRECISION FILE BLOCKS CALLS SEED: the same engine by the vendor's own
// interface, from FILE, and by the library.
// overhead images BUNDLE TARGET PRECISION WIDTH HEIGHT CHANNELS BLOCKS CALLS SEED: the library with
// an image, which its input gives, and without; and the model's input that the image becomes.
// overhead memory BUNDLE TARGET PRECISION FILE RUNS: what resident memory grows by, in bytes, over so
// many calls of the vendor's own interface, as soak tells it of the library.
//
// Callers take turns in random order; each turn gives the median of its calls, in nanoseconds.
#include <edgekd/edgekd.hpp>

#ifdef OVERHEAD_ONNXRUNTIME
#include <onnxruntime_c_api.h>
#endif
#ifdef OVERHEAD_OPENVINO
#include <openvino/openvino.hpp>
#endif

#include <dlfcn.h>
#include <execinfo.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int REACQUAINT = 10;  // calls at the beginning of a turn that are not timed
constexpr int COUNTED = 20;     // calls whose allocations are counted

// The calls of one kind.
struct Caller {
    std::string name;
    std::function<void()> call;
    std::vector<double> medians = {};
    double all = 0;  // allocations in a call
    long ours = 0;   // of those in all of COUNTED calls, who made them not being the runtime
};

std::atomic<bool> counting{false};
std::atomic<long> all{0}, ours{0};  // allocations, of all threads

// Whether EdgeKD or this program asks for memory: their frames are nearer than any runtime's.
bool is_ours() {
    void *frames[64];
    const int count = backtrace(frames, 64);
    for (int frame = 1; frame < count; ++frame) {
        Dl_info found{};
        if (dladdr(frames[frame], &found) == 0 || found.dli_fname == nullptr) return false;
        const char *slash = std::strrchr(found.dli_fname, '/');
        const char *file = slash != nullptr ? slash + 1 : found.dli_fname;
        const auto is = [&](const char *name) { return std::strncmp(file, name, std::strlen(name)) == 0; };
        if (is("libedgekd")) return true;
        if (!is("overhead") && !is("libstdc++") && !is("libc.so") && !is("libc-")) return false;
    }
    return true;
}

void count_allocation() {
    static thread_local bool within = false;
    if (within || !counting) return;
    within = true;
    ++all;
    if (is_ours()) ++ours;
    within = false;
}

// Memory as the library has it.
struct Free {
    void operator()(void *memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory memory_of(std::size_t bytes) { return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64)); }

// An engine by its vendor's own interface, as a program without the library would run it.
class Vendor {
public:
    virtual ~Vendor() = default;
    virtual void run() = 0;    // in memory that was bound before
    virtual void afresh() = 0;  // as samples are written: what comes out is made anew in each call
    void *input = nullptr;
    const void *output = nullptr;     // of `run`
    const void *made_anew = nullptr;  // of `afresh`
};

#ifdef OVERHEAD_ONNXRUNTIME
class OnnxRuntime : public Vendor {
public:
    OnnxRuntime(const std::string &file, const edgekd_tensor &in, const edgekd_tensor &out)
        : input_name_(in.name), output_name_(out.name), input_memory_(memory_of(in.bytes)),
          output_memory_(memory_of(out.bytes)) {
        const char *named = std::getenv("EDGEKD_ONNXRUNTIME_LIBRARY");
        void *library = dlopen(named != nullptr ? named : OVERHEAD_ONNXRUNTIME, RTLD_NOW | RTLD_LOCAL);
        if (library == nullptr) throw std::runtime_error(dlerror());
        api_ = reinterpret_cast<decltype(&OrtGetApiBase)>(dlsym(library, "OrtGetApiBase"))()->GetApi(ORT_API_VERSION);
        OrtEnv *environment = nullptr;
        OrtSessionOptions *options = nullptr;
        OrtMemoryInfo *kind = nullptr;
        check(api_->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "overhead", &environment));
        check(api_->CreateSessionOptions(&options));
        check(api_->SetIntraOpNumThreads(options, 1));
        check(api_->SetInterOpNumThreads(options, 1));
        check(api_->CreateSession(environment, file.c_str(), options, &session_));
        check(api_->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &kind));
        const auto value = [&](const edgekd_tensor &each, void *memory) {
            OrtValue *made = nullptr;
            check(api_->CreateTensorWithDataAsOrtValue(
                kind, memory, each.bytes, each.shape, each.rank, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &made));
            return made;
        };
        input_ = value(in, input = input_memory_.get());
        output_ = value(out, output_memory_.get());
        output = output_memory_.get();
    }

    void run() override {
        check(api_->Run(session_, nullptr, &input_name_, &input_, 1, &output_name_, 1, &output_));
    }

    // What `Ort::Session::Run` with the outputs' names alone does.
    void afresh() override {
        if (last_ != nullptr) api_->ReleaseValue(last_);
        last_ = nullptr;
        check(api_->Run(session_, nullptr, &input_name_, &input_, 1, &output_name_, 1, &last_));
        void *data = nullptr;
        check(api_->GetTensorMutableData(last_, &data));
        made_anew = data;
    }

private:
    void check(OrtStatus *status) const {
        if (status != nullptr) throw std::runtime_error(api_->GetErrorMessage(status));
    }

    const char *input_name_, *output_name_;
    Memory input_memory_, output_memory_;
    const OrtApi *api_ = nullptr;
    OrtSession *session_ = nullptr;
    OrtValue *input_ = nullptr, *output_ = nullptr, *last_ = nullptr;
};
#endif

#ifdef OVERHEAD_OPENVINO
class OpenVino : public Vendor {
public:
    OpenVino(const std::string &file, const edgekd_tensor &in, const edgekd_tensor &out)
        : input_memory_(memory_of(in.bytes)), output_memory_(memory_of(out.bytes)) {
        auto compiled = core_.compile_model(
            file, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
            ov::inference_num_threads(1), ov::hint::inference_precision(ov::element::f32));
        bound_ = compiled.create_infer_request();
        fresh_ = compiled.create_infer_request();
        shape_.assign(in.shape, in.shape + in.rank);
        input = input_memory_.get();
        bound_.set_input_tensor(0, ov::Tensor(ov::element::f32, shape_, input));
        bound_.set_output_tensor(
            0, ov::Tensor(ov::element::f32, ov::Shape(out.shape, out.shape + out.rank), output_memory_.get()));
        output = output_memory_.get();
    }

    void run() override { bound_.infer(); }

    void afresh() override {
        fresh_.set_input_tensor(0, ov::Tensor(ov::element::f32, shape_, input));
        fresh_.infer();
        made_anew = fresh_.get_output_tensor(0).data();
    }

private:
    Memory input_memory_, output_memory_;
    ov::Core core_;
    ov::InferRequest bound_, fresh_;
    ov::Shape shape_;
};
#endif

std::unique_ptr<Vendor> vendor_of(
    const std::string &backend, const std::string &file, const edgekd_tensor &in, const edgekd_tensor &out) {
#ifdef OVERHEAD_ONNXRUNTIME
    if (backend == "onnxruntime") return std::make_unique<OnnxRuntime>(file, in, out);
#endif
#ifdef OVERHEAD_OPENVINO
    if (backend == "openvino") return std::make_unique<OpenVino>(file, in, out);
#endif
    throw std::runtime_error("this program was built without " + backend);
}

double turn(const Caller &caller, std::vector<double> &times) {
    using Clock = std::chrono::steady_clock;
    for (int call = 0; call < REACQUAINT; ++call) caller.call();
    for (double &time : times) {
        const auto before = Clock::now();
        caller.call();
        const auto after = Clock::now();
        time = std::chrono::duration<double, std::nano>(after - before).count();
    }
    const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
    std::nth_element(times.begin(), middle, times.end());
    return *middle;
}

// A first round is not kept.
void take_turns(std::vector<Caller> &callers, int blocks, std::size_t calls, std::mt19937 &random) {
    std::vector<double> times(calls);
    std::vector<Caller *> order;
    for (Caller &each : callers) order.push_back(&each);
    for (int block = -1; block < blocks; ++block) {
        std::shuffle(order.begin(), order.end(), random);
        for (Caller *each : order) {
            const double median = turn(*each, times);
            if (block >= 0) each->medians.push_back(median);
        }
    }
    is_ours();  // the first asks for memory itself
    for (Caller &each : callers) {
        all = ours = 0;
        counting = true;
        for (int call = 0; call < COUNTED; ++call) each.call();
        counting = false;
        each.all = static_cast<double>(all) / COUNTED;
        each.ours = ours;
    }
}

void print(const std::vector<Caller> &callers, const std::string &more) {
    std::printf("{%s, \"callers\": {", more.c_str());
    const char *between = "";
    for (const Caller &each : callers) {
        std::printf(
            "%s\"%s\": {\"all\": %g, \"ours\": %ld, \"p50_ns\": [", between, each.name.c_str(), each.all, each.ours);
        between = ", ";
        for (std::size_t place = 0; place < each.medians.size(); ++place) {
            std::printf("%s%.0f", place == 0 ? "" : ", ", each.medians[place]);
        }
        std::printf("]}");
    }
    std::printf("}}\n");
}

edgekd::Engine opened(char **words) {
    edgekd::Options options;
    options.target = words[1];
    options.precision = words[2];
    return edgekd::Engine::open(words[0], options);
}

void calls(char **words) {
    const int blocks = std::atoi(words[4]);
    std::mt19937 random(static_cast<std::uint32_t>(std::atol(words[6])));
    auto engine = opened(words);
    auto &context = engine.own();
    const edgekd_tensor in = context.input(), out = context.output();
    if (in.dtype != EDGEKD_FLOAT32 || out.dtype != EDGEKD_FLOAT32) throw std::runtime_error("the model is not in float32");
    const auto info = engine.info();
    const auto vendor = vendor_of(info.backend, words[3], in, out);
    // Times depend on where memory happens to lie; a second one shows by how much.
    const auto again = vendor_of(info.backend, words[3], in, out);
    std::normal_distribution<float> drawn;
    auto *values = static_cast<float *>(in.data);
    std::generate_n(values, in.bytes / sizeof(float), [&] { return drawn(random); });
    for (const auto *each : {&vendor, &again}) std::memcpy((*each)->input, values, in.bytes);

    edgekd_context *handle = context.handle();
    std::vector<Caller> callers = {
        {"bare", [&] { vendor->run(); }},
        {"bare, opened again", [&] { again->run(); }},
        {"bare, outputs made anew", [&] { vendor->afresh(); }},
        {"edgekd_context_run", [=] { edgekd::check(edgekd_context_run(handle, 1)); }},
        {"edgekd::Context::run", [&] { context.run(); }},
    };
    take_turns(callers, blocks, static_cast<std::size_t>(std::atol(words[5])), random);
    bool same = true;
    for (const void *each : {vendor->output, again->output, vendor->made_anew}) {
        same = same && std::memcmp(each, out.data, out.bytes) == 0;
    }
    print(callers, std::string("\"runtime\": \"") + info.runtime + "\", \"same\": " + (same ? "true" : "false"));
}

void images(char **words) {
    const auto number = [&](int place) { return static_cast<std::uint32_t>(std::atol(words[place])); };
    std::mt19937 random(number(8));
    auto engine = opened(words);
    auto &context = engine.own();
    std::vector<std::uint8_t> pixels(std::size_t{number(3)} * number(4) * number(5));
    if (std::fread(pixels.data(), 1, pixels.size(), stdin) != pixels.size()) throw std::runtime_error("no image came");
    const edgekd::Image image{pixels.data(), number(3), number(4), number(5)};
    std::vector<Caller> callers = {
        {"tensor", [&] { context.run(); }},
        {"image", [&] { context.run(image); }},
    };
    take_turns(callers, std::atoi(words[6]), number(7), random);
    const edgekd_tensor in = context.input();
    std::string bits;
    for (std::size_t place = 0; place < in.bytes / sizeof(std::uint32_t); ++place) {
        bits += (place == 0 ? "" : ", ") + std::to_string(static_cast<const std::uint32_t *>(in.data)[place]);
    }
    print(callers, "\"bits\": [" + bits + "]");
}

long resident() {
    malloc_trim(0);  // what is free may stay with the allocator, which is no growth
    long pages = 0;
    if (std::FILE *file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
        std::fclose(file);
    }
    return pages * sysconf(_SC_PAGESIZE);
}

void memory(char **words) {
    const long runs = std::atol(words[4]);
    auto engine = opened(words);
    const auto vendor = vendor_of(engine.info().backend, words[3], engine.own().input(), engine.own().output());
    for (long run = 0; run < runs / 100 + 10; ++run) vendor->run();
    const long before = resident();
    for (long run = 0; run < runs; ++run) vendor->run();
    std::printf("{\"runs\": %ld}\n", resident() - before);
}

}  // namespace

// Whoever in this process asks for memory comes by here; a sanitizer has its own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
extern "C" {
void *__libc_malloc(std::size_t);
void *__libc_calloc(std::size_t, std::size_t);
void *__libc_realloc(void *, std::size_t);
void *__libc_memalign(std::size_t, std::size_t);
void *malloc(std::size_t size) {
    count_allocation();
    return __libc_malloc(size);
}
void *calloc(std::size_t count, std::size_t size) {
    count_allocation();
    return __libc_calloc(count, size);
}
void *realloc(void *memory, std::size_t size) {
    count_allocation();
    return __libc_realloc(memory, size);
}
void *aligned_alloc(std::size_t alignment, std::size_t size) {
    count_allocation();
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, std::size_t alignment, std::size_t size) {
    count_allocation();
    *memory = __libc_memalign(alignment, size);
    return *memory != nullptr ? 0 : ENOMEM;
}
}
#endif

int main(int count, char **words) try {
    const std::string mode = count > 1 ? words[1] : "";
    if (mode == "calls" && count == 9) {
        calls(words + 2);
    } else if (mode == "images" && count == 11) {
        images(words + 2);
    } else if (mode == "memory" && count == 7) {
        memory(words + 2);
    } else {
        return 2;
    }
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
