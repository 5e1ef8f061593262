// The C interface: handles to objects, failures to a status and a sentence.
#include "engine.hpp"
#include "error.hpp"
#include "handles.hpp"

#include <edgekd/edgekd.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

using edgekd::core::Context;
using edgekd::core::Engine;
using edgekd::core::Failure;
using edgekd::core::Options;
using edgekd::core::refuse;

namespace {

// Neither is ever destroyed: a program may close engines while it ends.
auto &engines = *new edgekd::core::Table<edgekd_engine, Engine, 5>;
auto &contexts = *new edgekd::core::Table<edgekd_context, Context, 10>;

thread_local char last_error[2048];

void tell(const char *text) {
    std::strncpy(last_error, text, sizeof last_error - 1);
    last_error[sizeof last_error - 1] = '\0';
}

// Runs one call of the interface; nothing leaves it but a status.
template <class Call>
edgekd_status guarded(Call call) noexcept {
    try {
        call();
        return EDGEKD_OK;
    } catch (const Failure &failure) {
        tell(failure.what());
        return failure.status();
    } catch (const std::bad_alloc &) {
        tell("there is not enough memory");
        return EDGEKD_NO_MEMORY;
    } catch (const std::exception &error) {
        tell(error.what());
        return EDGEKD_INTERNAL;
    } catch (...) {
        tell("something was thrown that is no exception");
        return EDGEKD_INTERNAL;
    }
}

auto engine_of(const edgekd_engine *handle) { return engines.share(handle, "engine"); }

auto context_of(const edgekd_context *handle) { return contexts.take(handle, "context"); }

template <class Given>
void need(const Given *given, const char *what) {
    if (given == nullptr) refuse(std::string(what) + " is a null pointer");
}

// A struct of the caller's, whose size he has set. All of them are those of the first version; where
// one grows, its first size is what is asked for here.
template <class Struct>
void need_sized(const Struct *given, const char *what) {
    need(given, what);
    if (given->size < sizeof(Struct)) {
        refuse(
            std::string(what) + " is of size " + std::to_string(given->size) + ": set its size to sizeof(" +
            what + ")");
    }
}

// Fills a struct of the caller's, who may know fewer fields of it, or more.
template <class Struct>
void give(Struct *to, Struct found) {
    found.size = to->size;
    std::memcpy(to, &found, std::min(sizeof found, found.size));
}

void need_index(std::size_t index, std::size_t count, const char *what) {
    if (index >= count) {
        refuse("there is no " + std::string(what) + " " + std::to_string(index) + ": there are " + std::to_string(count));
    }
}

Options options_of(const edgekd_options *given) {
    Options options;
    if (given == nullptr) return options;
    need_sized(given, "edgekd_options");
    const auto text = [](const char *value) { return std::string(value != nullptr ? value : ""); };
    options.target = text(given->target);
    options.precision = text(given->precision);
    options.device = text(given->device);
    options.plugins = text(given->plugins);
    const auto count = [](std::uint32_t value, std::uint32_t most, const char *what) {
        if (value > most) {
            refuse(std::string(what) + " is " + std::to_string(value) + ": at most " + std::to_string(most));
        }
        return value == 0 ? 1 : value;
    };
    options.threads = count(given->threads, 1024, "threads");
    options.streams = count(given->streams, 1024, "streams");
    options.max_batch = count(given->max_batch, 65536, "max_batch");
    if (given->warmup == EDGEKD_NO_WARMUP) {
        options.warmup = 0;
    } else if (given->warmup != 0) {
        options.warmup = count(given->warmup, 1'000'000, "warmup");
    }
    if (!(given->deadline_ms >= 0 && (given->deadline_ms < 1e9 || std::isinf(given->deadline_ms)))) {
        refuse("deadline_ms is no number of milliseconds");
    }
    options.deadline_ms = given->deadline_ms;
    return options;
}

void describe(
    const edgekd::core::Tensor &from, void *data, std::uint32_t batch, edgekd_tensor *tensor) {
    edgekd_tensor found{};
    found.name = from.name.c_str();
    found.dtype = from.type();
    found.rank = static_cast<std::uint32_t>(from.shape.size());
    for (std::size_t axis = 0; axis < from.shape.size(); ++axis) found.shape[axis] = from.shape[axis];
    if (data != nullptr) {
        found.data = data;
        found.shape[0] = batch;
        found.bytes = from.sample_bytes() * batch;
    }
    give(tensor, found);
}

}  // namespace

extern "C" {

const char *edgekd_version(void) { return EDGEKD_VERSION; }

const char *edgekd_status_text(edgekd_status status) {
    switch (status) {
        case EDGEKD_OK: return "done";
        case EDGEKD_ARGUMENT: return "a wrong argument";
        case EDGEKD_NOT_A_BUNDLE: return "not a bundle";
        case EDGEKD_CORRUPT: return "a damaged bundle";
        case EDGEKD_UNAVAILABLE: return "no runtime for it here";
        case EDGEKD_INCOMPATIBLE: return "an engine for another machine";
        case EDGEKD_FAILED: return "the runtime failed";
        case EDGEKD_BUSY: return "in use by another thread";
        case EDGEKD_CLOSED: return "closed";
        case EDGEKD_NO_MEMORY: return "not enough memory";
        case EDGEKD_INTERNAL: return "a bug of EdgeKD";
        default: return "no status of EdgeKD";
    }
}

const char *edgekd_last_error(void) { return last_error; }

edgekd_status edgekd_open(const char *bundle, const edgekd_options *options, edgekd_engine **engine) {
    return guarded([&] {
        need(bundle, "the bundle's path");
        need(engine, "where to put the engine");
        *engine = engines.add(Engine::open(bundle, options_of(options)));
    });
}

edgekd_status edgekd_close(edgekd_engine *engine) {
    return guarded([&] { engines.remove(engine, "engine"); });
}

edgekd_status edgekd_engine_info(edgekd_engine *engine, edgekd_info *info) {
    return guarded([&] {
        need_sized(info, "edgekd_info");
        const auto opened = engine_of(engine);
        const auto &manifest = opened->manifest();
        const auto &record = opened->record();
        edgekd_info found{};
        found.name = manifest.name.c_str();
        found.target = record.target.c_str();
        found.backend = record.backend.c_str();
        found.precision = record.precision.c_str();
        found.device = record.device.c_str();
        found.version = record.version.c_str();
        found.runtime = opened->runtime();
        found.labels = manifest.labels.size();
        found.inputs = manifest.inputs.size();
        found.outputs = manifest.outputs.size();
        found.min_batch = opened->min_batch();
        found.max_batch = opened->max_batch();
        if (const auto &shape = manifest.inputs[0].shape; shape.size() == 4) {
            const bool last = manifest.preprocessing.layout == "NHWC";
            const auto extent = [&](std::size_t axis) { return static_cast<std::uint32_t>(shape[axis]); };
            found.height = extent(last ? 1 : 2);
            found.width = extent(last ? 2 : 3);
            found.channels = extent(last ? 3 : 1);
        }
        found.deadline_ns = opened->deadline_ns();
        give(info, found);
    });
}

edgekd_status edgekd_engine_input(edgekd_engine *engine, size_t index, edgekd_tensor *tensor) {
    return guarded([&] {
        need_sized(tensor, "edgekd_tensor");
        const auto opened = engine_of(engine);
        need_index(index, opened->manifest().inputs.size(), "input");
        describe(opened->manifest().inputs[index], nullptr, 0, tensor);
    });
}

edgekd_status edgekd_engine_output(edgekd_engine *engine, size_t index, edgekd_tensor *tensor) {
    return guarded([&] {
        need_sized(tensor, "edgekd_tensor");
        const auto opened = engine_of(engine);
        need_index(index, opened->manifest().outputs.size(), "output");
        describe(opened->manifest().outputs[index], nullptr, 0, tensor);
    });
}

edgekd_status edgekd_engine_label(edgekd_engine *engine, size_t index, const char **label) {
    return guarded([&] {
        need(label, "where to put the label");
        const auto opened = engine_of(engine);
        need_index(index, opened->manifest().labels.size(), "label");
        *label = opened->manifest().labels[index].c_str();
    });
}

edgekd_status edgekd_check_golden(edgekd_engine *engine, double *difference) {
    return guarded([&] {
        const double found = Engine::check_golden(engine_of(engine));
        if (difference != nullptr) *difference = found;
    });
}

edgekd_status edgekd_engine_stats(edgekd_engine *engine, edgekd_stats *stats) {
    return guarded([&] {
        need_sized(stats, "edgekd_stats");
        const auto opened = engine_of(engine);
        const auto quantiles = opened->tally().quantiles();
        give(
            stats, {0, quantiles.count, opened->tally().misses(), quantiles.p50, quantiles.p99,
                    opened->deadline_ns()});
    });
}

edgekd_status edgekd_context_create(edgekd_engine *engine, edgekd_context **context) {
    return guarded([&] {
        need(context, "where to put the context");
        const auto opened = engine_of(engine);
        *context = contexts.add(std::make_shared<Context>(opened, opened->options().warmup));
    });
}

edgekd_status edgekd_context_destroy(edgekd_context *context) {
    return guarded([&] { contexts.remove(context, "context"); });
}

edgekd_status edgekd_context_input(edgekd_context *context, size_t index, edgekd_tensor *tensor) {
    return guarded([&] {
        need_sized(tensor, "edgekd_tensor");
        const auto held = context_of(context);
        const auto &inputs = held->engine().manifest().inputs;
        need_index(index, inputs.size(), "input");
        describe(inputs[index], held->input(index), held->engine().max_batch(), tensor);
    });
}

edgekd_status edgekd_context_output(edgekd_context *context, size_t index, edgekd_tensor *tensor) {
    return guarded([&] {
        need_sized(tensor, "edgekd_tensor");
        const auto held = context_of(context);
        const auto &outputs = held->engine().manifest().outputs;
        need_index(index, outputs.size(), "output");
        describe(outputs[index], held->output(index), held->engine().max_batch(), tensor);
    });
}

edgekd_status edgekd_context_set(edgekd_context *context, size_t index, const edgekd_tensor *tensor) {
    return guarded([&] {
        need_sized(tensor, "edgekd_tensor");
        const auto held = context_of(context);
        need_index(index, held->engine().manifest().inputs.size(), "input");
        held->set(index, *tensor);
    });
}

edgekd_status edgekd_context_run(edgekd_context *context, size_t batch) {
    return guarded([&] { context_of(context)->run(batch); });
}

edgekd_status edgekd_context_run_images(
    edgekd_context *context, const edgekd_image *images, size_t count) {
    return guarded([&] {
        need_sized(images, "edgekd_image");
        context_of(context)->run_images(images, count, 0);
    });
}

edgekd_status edgekd_context_answer(
    edgekd_context *context, const edgekd_image *frame, uint64_t since_ns) {
    return guarded([&] {
        need_sized(frame, "edgekd_image");
        context_of(context)->run_images(frame, 1, since_ns);
    });
}

edgekd_status edgekd_engine_drop(edgekd_engine *engine) {
    return guarded([&] { engine_of(engine)->tally().drop(); });
}

}  // extern "C"
