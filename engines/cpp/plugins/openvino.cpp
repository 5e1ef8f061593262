// OpenVINO, by its C++ interface: an IR from memory, a request for each context.
#include "common.hpp"

#include <openvino/openvino.hpp>

#include <cstring>
#include <memory>
#include <vector>

namespace {

using edgekd::plugins::Failure;
using edgekd::plugins::guarded;

// One for the process, never given back: its plugins' threads may outlive main.
ov::Core &core() {
    static auto &found = *new ov::Core;
    return found;
}

// OpenVINO's errors have many lines, of which the last says what is wrong.
std::string last_line(const std::exception &error) {
    std::string text = error.what();
    while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
    return "OpenVINO: " + text.substr(text.rfind('\n') + 1);
}

template <class Call>
edgekd_status told(edgekd_message *message, Call call) noexcept {
    return guarded(message, [&] {
        try {
            call();
        } catch (const Failure &) {
            throw;
        } catch (const ov::Exception &error) {
            throw Failure(EDGEKD_FAILED, last_line(error));
        }
    });
}

ov::element::Type element(edgekd_dtype type) {
    switch (type) {
        case EDGEKD_FLOAT32: return ov::element::f32;
        case EDGEKD_FLOAT16: return ov::element::f16;
        case EDGEKD_FLOAT64: return ov::element::f64;
        case EDGEKD_UINT8: return ov::element::u8;
        case EDGEKD_INT8: return ov::element::i8;
        case EDGEKD_INT32: return ov::element::i32;
        case EDGEKD_INT64: return ov::element::i64;
        case EDGEKD_BOOL: return ov::element::boolean;
        default: return ov::element::dynamic;
    }
}

struct Session {
    ov::CompiledModel compiled;
    std::vector<edgekd_tensor> inputs, outputs;
    std::uint32_t min_batch = 1, max_batch = 1;
};

// What the engine itself says of a tensor must be what the manifest says.
void check_tensor(const ov::Output<const ov::Node> &found, const edgekd_tensor &wanted, const char *side) {
    const ov::PartialShape &shape = found.get_partial_shape();
    const auto &names = found.get_names();
    bool same = found.get_element_type() == element(wanted.dtype) && shape.rank().is_static() &&
                static_cast<std::size_t>(shape.rank().get_length()) == wanted.rank &&
                (names.empty() || names.count(wanted.name) != 0);
    for (std::size_t axis = 0; same && axis < wanted.rank; ++axis) {
        same = shape[axis].is_dynamic() || wanted.shape[axis] < 0 ||
               shape[axis].get_length() == wanted.shape[axis];
    }
    if (!same) {
        throw Failure(
            EDGEKD_CORRUPT, std::string("an ") + side + " of the engine is not the manifest's '" + wanted.name + "'");
    }
}

std::string device_of(const edgekd_source &source) {
    if (source.chosen == nullptr) return "CPU";
    std::string wanted = source.chosen, here;
    for (char &each : wanted) each = static_cast<char>(std::toupper(static_cast<unsigned char>(each)));
    for (const std::string &each : core().get_available_devices()) {
        if (wanted == each || wanted == each.substr(0, each.find('.'))) return wanted;
        here += (here.empty() ? "" : ", ") + each;
    }
    throw Failure(
        EDGEKD_UNAVAILABLE, "openvino is unavailable: it has no device '" + wanted + "' here; it has: " + here);
}

bool ends_with(const std::string &name, const std::string &with) {
    return name.size() >= with.size() && name.compare(name.size() - with.size(), with.size(), with) == 0;
}

edgekd_status open(
    const edgekd_source *source, edgekd_session **session, int *keeps_files, edgekd_message *message) {
    return told(message, [&] {
        edgekd::plugins::need_cpu(*source);
        // Other kinds of models may name files of their own, which nobody has hashed.
        if (!ends_with(source->files[0].name, ".xml")) {
            throw Failure(EDGEKD_CORRUPT, std::string(source->files[0].name) + " is no IR of OpenVINO");
        }
        const edgekd_file *weights = nullptr;
        for (std::size_t index = 1; index < source->file_count; ++index) {
            if (!ends_with(source->files[index].name, ".bin")) continue;
            if (weights != nullptr) throw Failure(EDGEKD_CORRUPT, "the engine has several files of weights");
            weights = &source->files[index];
        }
        const std::string description(static_cast<const char *>(source->files[0].data), source->files[0].bytes);
        ov::Tensor constants;
        if (weights != nullptr) {
            constants = ov::Tensor(
                ov::element::u8, {weights->bytes}, const_cast<void *>(weights->data));  // read alone
        }
        const auto model = core().read_model(description, constants);
        const std::string device = device_of(*source);
        ov::AnyMap settings{
            ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
            ov::num_streams(static_cast<std::int32_t>(source->streams)),
        };
        if (device == "CPU") {
            // Threads are shared out among the streams. Left to itself the plugin runs fp32 models
            // in bf16 where the processor can.
            settings.insert(ov::inference_num_threads(static_cast<std::int32_t>(source->threads * source->streams)));
            settings.insert(ov::hint::inference_precision(ov::element::f32));
        }
        auto opened = std::make_unique<Session>();
        opened->compiled = core().compile_model(model, device, settings);
        const auto inputs = opened->compiled.inputs(), outputs = opened->compiled.outputs();
        if (inputs.size() != source->input_count || outputs.size() != source->output_count) {
            throw Failure(EDGEKD_CORRUPT, "the engine has other inputs and outputs than the manifest");
        }
        for (std::size_t index = 0; index < inputs.size(); ++index) {
            check_tensor(inputs[index], source->inputs[index], "input");
        }
        for (std::size_t index = 0; index < outputs.size(); ++index) {
            check_tensor(outputs[index], source->outputs[index], "output");
        }
        opened->inputs.assign(source->inputs, source->inputs + source->input_count);
        opened->outputs.assign(source->outputs, source->outputs + source->output_count);
        opened->min_batch = edgekd::plugins::min_batch(*source);
        opened->max_batch = source->max_batch;
        *keeps_files = 1;  // constants lie in them
        *session = reinterpret_cast<edgekd_session *>(opened.release());
    });
}

void close(edgekd_session *session) { delete reinterpret_cast<Session *>(session); }

const char *version(edgekd_session *) {
    // Such as 2026.4.1, without the commit that follows.
    static const std::string &whole = *new std::string(ov::get_openvino_version().buildNumber);
    static const std::string &found = *new std::string(whole.substr(0, whole.find('-')));
    return found.c_str();
}

struct Runner {
    ov::InferRequest request;
    std::uint32_t min_batch;
    std::size_t bound = 0;  // the batch that the request has now
    // For each batch from the smallest on: the context's memory as tensors of that shape.
    std::vector<std::vector<ov::Tensor>> inputs, outputs;
};

std::vector<ov::Tensor> tensors(
    const std::vector<edgekd_tensor> &described, void *const *memory, std::size_t batch) {
    std::vector<ov::Tensor> found;
    for (std::size_t index = 0; index < described.size(); ++index) {
        const edgekd_tensor &each = described[index];
        ov::Shape shape;
        for (std::size_t axis = 0; axis < each.rank; ++axis) {
            shape.push_back(axis == 0 ? batch : static_cast<std::size_t>(each.shape[axis]));
        }
        found.emplace_back(element(each.dtype), shape, memory[index]);
    }
    return found;
}

void bind(Runner &made, std::size_t batch) {
    const std::size_t place = batch - made.min_batch;
    made.bound = 0;  // until all are
    for (std::size_t index = 0; index < made.inputs[place].size(); ++index) {
        made.request.set_input_tensor(index, made.inputs[place][index]);
    }
    for (std::size_t index = 0; index < made.outputs[place].size(); ++index) {
        made.request.set_output_tensor(index, made.outputs[place][index]);
    }
    made.bound = batch;
}

edgekd_status create(
    edgekd_session *session, const edgekd_buffers *buffers, edgekd_runner **runner,
    edgekd_message *message) {
    return told(message, [&] {
        auto *opened = reinterpret_cast<Session *>(session);
        auto made = std::make_unique<Runner>();
        made->request = opened->compiled.create_infer_request();
        made->min_batch = opened->min_batch;
        for (std::size_t batch = opened->min_batch; batch <= opened->max_batch; ++batch) {
            made->inputs.push_back(tensors(opened->inputs, buffers->inputs, batch));
            made->outputs.push_back(tensors(opened->outputs, buffers->outputs, batch));
        }
        bind(*made, opened->min_batch);
        *runner = reinterpret_cast<edgekd_runner *>(made.release());
    });
}

void destroy(edgekd_runner *runner) { delete reinterpret_cast<Runner *>(runner); }

edgekd_status run(edgekd_runner *runner, std::size_t batch, edgekd_message *message) {
    auto &made = *reinterpret_cast<Runner *>(runner);
    return told(message, [&] {
        if (batch != made.bound) bind(made, batch);
        made.request.infer();
    });
}

constexpr edgekd_backend_api API = {
    sizeof(edgekd_backend_api), EDGEKD_BACKEND_ABI, "openvino", open, close, version, nullptr, nullptr,
    create, destroy, run,
};

}  // namespace

extern "C" const edgekd_backend_api *edgekd_backend(void) { return &API; }
