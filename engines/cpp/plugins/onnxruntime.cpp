// ONNX Runtime on the CPU, by its C interface. The library is opened when it is first needed: the
// one that EDGEKD_ONNXRUNTIME_LIBRARY names, the one of the build, or the system's.
#include "common.hpp"

#include <onnxruntime_c_api.h>

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <strings.h>
#include <memory>
#include <mutex>
#include <vector>

namespace {

using edgekd::plugins::Failure;
using edgekd::plugins::guarded;

struct Runtime {
    const OrtApi *api = nullptr;
    std::string version;
    OrtEnv *environment = nullptr;
    OrtMemoryInfo *memory = nullptr;
};

// Filled once by `runtime`, and never given back: ONNX Runtime's threads may outlive main.
const OrtApi *ort = nullptr;

void check(OrtStatus *status, edgekd_status kind = EDGEKD_FAILED) {
    if (status == nullptr) return;
    std::string text = ort->GetErrorMessage(status);
    ort->ReleaseStatus(status);
    std::replace(text.begin(), text.end(), '\n', ' ');
    throw Failure(kind, "ONNX Runtime: " + text);
}

[[noreturn]] void unavailable(const std::string &reason) {
    throw Failure(EDGEKD_UNAVAILABLE, "onnxruntime is unavailable: " + reason);
}

void *open_library() {
    std::vector<std::string> names;
    if (const char *given = secure_getenv("EDGEKD_ONNXRUNTIME_LIBRARY"); given != nullptr && *given != '\0') {
        names = {given};
    } else {
#ifdef EDGEKD_ONNXRUNTIME_LIBRARY
        names.push_back(EDGEKD_ONNXRUNTIME_LIBRARY);
#endif
        names.insert(names.end(), {"libonnxruntime.so.1", "libonnxruntime.so"});
    }
    std::string reason;
    for (const std::string &each : names) {
        if (void *found = dlopen(each.c_str(), RTLD_NOW | RTLD_LOCAL)) return found;
        if (reason.empty()) reason = dlerror();
    }
    unavailable(
        "its library cannot be loaded (" + reason + "): install it, or name it in EDGEKD_ONNXRUNTIME_LIBRARY");
}

const Runtime &runtime() {
    static std::mutex &lock = *new std::mutex;
    static Runtime &known = *new Runtime;
    const std::lock_guard<std::mutex> held(lock);
    if (known.memory != nullptr) return known;
    if (known.api == nullptr) {
        void *library = open_library();
        const auto ask = reinterpret_cast<decltype(&OrtGetApiBase)>(dlsym(library, "OrtGetApiBase"));
        const OrtApiBase *base = ask != nullptr ? ask() : nullptr;
        if (base == nullptr) unavailable("its library is none of ONNX Runtime's");
        known.version = base->GetVersionString();
        known.api = base->GetApi(ORT_API_VERSION);
        if (known.api == nullptr) {
            unavailable(
                "version " + known.version + " is older than the headers that the plugin was built with (1." +
                std::to_string(ORT_API_VERSION) + ")");
        }
    }
    ort = known.api;
    if (known.environment == nullptr) {
        check(ort->CreateEnv(ORT_LOGGING_LEVEL_FATAL, "edgekd", &known.environment));
        check(ort->DisableTelemetryEvents(known.environment));
    }
    check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &known.memory));
    return known;
}

ONNXTensorElementDataType element(edgekd_dtype type) {
    switch (type) {
        case EDGEKD_FLOAT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        case EDGEKD_FLOAT16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case EDGEKD_FLOAT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
        case EDGEKD_UINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case EDGEKD_INT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
        case EDGEKD_INT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        case EDGEKD_INT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        case EDGEKD_BOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
        default: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    }
}

std::size_t width(edgekd_dtype type) {
    switch (type) {
        case EDGEKD_FLOAT64:
        case EDGEKD_INT64: return 8;
        case EDGEKD_FLOAT32:
        case EDGEKD_INT32: return 4;
        case EDGEKD_FLOAT16: return 2;
        default: return 1;
    }
}

struct Session {
    OrtSession *session = nullptr;
    std::vector<edgekd_tensor> inputs, outputs;
    std::vector<const char *> input_names, output_names;
    std::uint32_t min_batch = 1, max_batch = 1;

    ~Session() {
        if (session != nullptr) ort->ReleaseSession(session);
    }
};

// What the engine itself says of a tensor must be what the manifest says.
void check_tensor(const Session &opened, bool input, std::size_t index, const edgekd_tensor &wanted) {
    OrtTypeInfo *type = nullptr;
    check(
        input ? ort->SessionGetInputTypeInfo(opened.session, index, &type)
              : ort->SessionGetOutputTypeInfo(opened.session, index, &type));
    const std::unique_ptr<OrtTypeInfo, decltype(ort->ReleaseTypeInfo)> held(type, ort->ReleaseTypeInfo);
    const OrtTensorTypeAndShapeInfo *tensor = nullptr;
    check(ort->CastTypeInfoToTensorInfo(type, &tensor));
    ONNXTensorElementDataType found = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::size_t rank = 0;
    std::vector<std::int64_t> shape(EDGEKD_MAX_RANK, 0);
    if (tensor != nullptr) {
        check(ort->GetTensorElementType(tensor, &found));
        check(ort->GetDimensionsCount(tensor, &rank));
        if (rank <= EDGEKD_MAX_RANK) check(ort->GetDimensions(tensor, shape.data(), rank));
    }
    bool same = tensor != nullptr && rank == wanted.rank && found == element(wanted.dtype);
    for (std::size_t axis = 0; same && axis < rank; ++axis) {
        same = shape[axis] < 0 || wanted.shape[axis] < 0 || shape[axis] == wanted.shape[axis];
    }
    OrtAllocator *allocator = nullptr;
    check(ort->GetAllocatorWithDefaultOptions(&allocator));
    char *name = nullptr;
    check(
        input ? ort->SessionGetInputName(opened.session, index, allocator, &name)
              : ort->SessionGetOutputName(opened.session, index, allocator, &name));
    same = same && std::strcmp(name, wanted.name) == 0;
    allocator->Free(allocator, name);
    if (!same) {
        throw Failure(
            EDGEKD_CORRUPT, std::string("the engine's ") + (input ? "input " : "output ") +
                                std::to_string(index) + " is not the manifest's '" + wanted.name + "'");
    }
}

void check_count(std::size_t found, std::size_t wanted, const char *what) {
    if (found == wanted) return;
    throw Failure(
        EDGEKD_CORRUPT, "the engine has " + std::to_string(found) + " " + what + ", and the manifest " +
                            std::to_string(wanted));
}

edgekd_status open(
    const edgekd_source *source, edgekd_session **session, int *, edgekd_message *message) {
    return guarded(message, [&] {
        if (const char *provider = edgekd::plugins::option(*source, "provider"); provider != nullptr) {
            unavailable(std::string("the plugin runs CPU engines, and this one is for ") + provider);
        }
        edgekd::plugins::need_cpu(*source);
        if (source->chosen != nullptr && strcasecmp(source->chosen, "cpu") != 0) {
            unavailable(std::string("it has no device '") + source->chosen + "' here; it has: cpu");
        }
        const Runtime &here = runtime();
        auto opened = std::make_unique<Session>();
        OrtSessionOptions *options = nullptr;
        check(ort->CreateSessionOptions(&options));
        const std::unique_ptr<OrtSessionOptions, decltype(ort->ReleaseSessionOptions)> held(
            options, ort->ReleaseSessionOptions);
        check(ort->SetIntraOpNumThreads(options, static_cast<int>(source->threads)));
        check(ort->SetInterOpNumThreads(options, 1));
        check(ort->SetSessionLogSeverityLevel(options, ORT_LOGGING_LEVEL_FATAL));
        // Tensors in files of their own were hashed by nobody: there is no folder that they could be in.
        check(ort->AddSessionConfigEntry(
            options, "session.model_external_initializers_file_folder_path", "/dev/null"));
        check(ort->CreateSessionFromArray(
            here.environment, source->files[0].data, source->files[0].bytes, options, &opened->session));
        opened->inputs.assign(source->inputs, source->inputs + source->input_count);
        opened->outputs.assign(source->outputs, source->outputs + source->output_count);
        std::size_t count = 0;
        check(ort->SessionGetInputCount(opened->session, &count));
        check_count(count, source->input_count, "inputs");
        check(ort->SessionGetOutputCount(opened->session, &count));
        check_count(count, source->output_count, "outputs");
        for (std::size_t index = 0; index < source->input_count; ++index) {
            check_tensor(*opened, true, index, source->inputs[index]);
            opened->input_names.push_back(source->inputs[index].name);
        }
        for (std::size_t index = 0; index < source->output_count; ++index) {
            check_tensor(*opened, false, index, source->outputs[index]);
            opened->output_names.push_back(source->outputs[index].name);
        }
        opened->min_batch = edgekd::plugins::min_batch(*source);
        opened->max_batch = source->max_batch;
        *session = reinterpret_cast<edgekd_session *>(opened.release());
    });
}

void close(edgekd_session *session) { delete reinterpret_cast<Session *>(session); }

const char *version(edgekd_session *) { return runtime().version.c_str(); }

struct Runner {
    Session *session;
    // For each batch from the smallest on: the context's memory as values of that shape.
    std::vector<std::vector<OrtValue *>> inputs, outputs;

    ~Runner() {
        for (const auto *side : {&inputs, &outputs}) {
            for (const auto &values : *side) {
                for (OrtValue *each : values) ort->ReleaseValue(each);
            }
        }
    }
};

std::vector<OrtValue *> values(
    const std::vector<edgekd_tensor> &tensors, void *const *memory, std::size_t batch) {
    std::vector<OrtValue *> found;
    for (std::size_t index = 0; index < tensors.size(); ++index) {
        const edgekd_tensor &each = tensors[index];
        std::int64_t shape[EDGEKD_MAX_RANK];
        std::copy_n(each.shape, each.rank, shape);
        shape[0] = static_cast<std::int64_t>(batch);
        std::size_t bytes = width(each.dtype);
        for (std::size_t axis = 0; axis < each.rank; ++axis) bytes *= static_cast<std::size_t>(shape[axis]);
        OrtValue *value = nullptr;
        check(ort->CreateTensorWithDataAsOrtValue(
            runtime().memory, memory[index], bytes, shape, each.rank, element(each.dtype), &value));
        found.push_back(value);
    }
    return found;
}

edgekd_status create(
    edgekd_session *session, const edgekd_buffers *buffers, edgekd_runner **runner,
    edgekd_message *message) {
    return guarded(message, [&] {
        auto *opened = reinterpret_cast<Session *>(session);
        auto made = std::make_unique<Runner>();
        made->session = opened;
        for (std::size_t batch = opened->min_batch; batch <= opened->max_batch; ++batch) {
            made->inputs.push_back(values(opened->inputs, buffers->inputs, batch));
            made->outputs.push_back(values(opened->outputs, buffers->outputs, batch));
        }
        *runner = reinterpret_cast<edgekd_runner *>(made.release());
    });
}

void destroy(edgekd_runner *runner) { delete reinterpret_cast<Runner *>(runner); }

edgekd_status run(edgekd_runner *runner, std::size_t batch, edgekd_message *message) {
    auto *made = reinterpret_cast<Runner *>(runner);
    Session *opened = made->session;
    const std::size_t place = batch - opened->min_batch;
    OrtStatus *status = ort->Run(
        opened->session, nullptr, opened->input_names.data(), made->inputs[place].data(),
        opened->input_names.size(), opened->output_names.data(), opened->output_names.size(),
        made->outputs[place].data());
    if (status == nullptr) return EDGEKD_OK;
    return guarded(message, [&] { check(status); });
}

constexpr edgekd_backend_api API = {
    sizeof(edgekd_backend_api), EDGEKD_BACKEND_ABI, "onnxruntime", open, close, version, nullptr, nullptr,
    create, destroy, run,
};

}  // namespace

extern "C" const edgekd_backend_api *edgekd_backend(void) { return &API; }
