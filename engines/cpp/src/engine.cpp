#include "engine.hpp"

#include "error.hpp"
#include "npy.hpp"
#include "plugin.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <stdexcept>

namespace edgekd::core {
namespace {

std::uint64_t now() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000u +
           static_cast<std::uint64_t>(time.tv_nsec);
}

edgekd_tensor described(const Tensor &tensor) {
    edgekd_tensor found{};
    found.size = sizeof found;
    found.name = tensor.name.c_str();
    found.dtype = tensor.type();
    found.rank = static_cast<std::uint32_t>(tensor.shape.size());
    std::copy(tensor.shape.begin(), tensor.shape.end(), found.shape);
    return found;
}

// A number among an engine's options, such as its largest batch.
std::uint32_t number(const EngineRecord &record, const char *key, std::uint32_t otherwise) {
    const auto found = record.options.find(key);
    if (found == record.options.end()) return otherwise;
    const std::string &text = found->second;
    if (text.empty() || text.size() > 9 || text.find_first_not_of("0123456789") != std::string::npos) {
        corrupt("the engine's option " + std::string(key) + " is '" + text + "', which is no number");
    }
    return static_cast<std::uint32_t>(std::stoul(text));
}

[[noreturn]] void failed(edgekd_status status, const edgekd_message &message, const char *otherwise) {
    const std::string text(message.text, strnlen(message.text, sizeof message.text));
    throw Failure(status, text.empty() ? otherwise : text);
}

bool may_be_passed_over(edgekd_status status) {
    return status == EDGEKD_UNAVAILABLE || status == EDGEKD_INCOMPATIBLE;
}

}  // namespace

std::shared_ptr<Engine> Engine::open(const std::string &path, const Options &options) {
    const auto folder = std::make_shared<const Folder>(path);
    const auto manifest = std::make_shared<const Manifest>(parse(folder->manifest().text(), path));
    for (const auto &[name, file] : manifest->files) folder->refuse_link(name);
    for (const EngineRecord &record : manifest->engines) {
        folder->refuse_link(record.file.path);
        for (const File &part : record.parts) folder->refuse_link(part.path);
    }
    std::unique_ptr<Failure> refusal;
    for (const EngineRecord &record : manifest->engines) {
        if (!options.target.empty() && options.target != record.target) continue;
        if (!options.precision.empty() && options.precision != record.precision) continue;
        try {
            return std::make_shared<Engine>(manifest, record, folder, options);
        } catch (const Failure &failure) {
            if (!may_be_passed_over(failure.status())) throw;
            if (refusal == nullptr) refusal = std::make_unique<Failure>(failure);
        }
    }
    if (refusal != nullptr) throw Failure(*refusal);
    const auto asked = [](const std::string &text) { return text.empty() ? "any" : text; };
    refuse(
        path + " holds no engine for target " + asked(options.target) + ", precision " +
        asked(options.precision));
}

// Which batches the engine takes, and of them a context. What does not fit here is passed over.
void Engine::fit_batches() {
    min_batch_ = std::max(1u, number(record_, "min_batch", 1));
    std::uint32_t largest = std::max(min_batch_, number(record_, "max_batch", UINT32_MAX));
    for (const auto *tensors : {&manifest_->inputs, &manifest_->outputs}) {
        for (const Tensor &each : *tensors) {
            for (std::size_t axis = 1; axis < each.shape.size(); ++axis) {
                if (each.shape[axis] < 0) {
                    refuse(folder_->path() + ": '" + each.name + "' varies in more than its batch, which Python alone can run");
                }
            }
            if (each.shape[0] > 0) min_batch_ = largest = static_cast<std::uint32_t>(each.shape[0]);
        }
    }
    if (options_.max_batch > largest) {
        throw Failure(
            EDGEKD_INCOMPATIBLE, folder_->path() + ": a batch of " + std::to_string(options_.max_batch) +
                                     " is asked for, and " + record_.target + " " + record_.precision +
                                     " was built for " + std::to_string(largest));
    }
    max_batch_ = std::max(options_.max_batch, min_batch_);
}

Engine::Engine(
    std::shared_ptr<const Manifest> manifest, const EngineRecord &record,
    std::shared_ptr<const Folder> folder, const Options &options)
    : manifest_(std::move(manifest)), record_(record), options_(options), folder_(std::move(folder)) {
    fit_batches();
    const double own_ms = options_.deadline_ms;
    deadline_ns_ = std::isinf(own_ms) ? 0
                   : own_ms > 0       ? static_cast<std::uint64_t>(std::nearbyint(own_ms * 1e6))
                                      : manifest_->budget.deadline_ns();
    std::vector<edgekd_file> files;
    std::vector<File> all{record_.file};
    all.insert(all.end(), record_.parts.begin(), record_.parts.end());
    for (const File &each : all) files_.push_back(folder_->read(each.path, each.bytes, each.sha256));
    api_ = &plugin(record_.backend, options_.plugins);
    std::vector<std::string> names;
    for (const File &each : all) names.push_back(each.path.substr(each.path.rfind('/') + 1));
    for (std::size_t place = 0; place < all.size(); ++place) {
        files.push_back({names[place].c_str(), files_[place].data.get(), files_[place].size});
    }
    for (const auto &[key, value] : record_.options) pairs_.push_back({key.c_str(), value.c_str()});
    for (const Tensor &each : manifest_->inputs) inputs_.push_back(described(each));
    for (const Tensor &each : manifest_->outputs) outputs_.push_back(described(each));
    edgekd_source source{};
    source.size = sizeof source;
    source.backend = record_.backend.c_str();
    source.target = record_.target.c_str();
    source.version = record_.version.c_str();
    source.precision = record_.precision.c_str();
    source.device = record_.device.c_str();
    source.files = files.data();
    source.file_count = files.size();
    source.options = pairs_.data();
    source.option_count = pairs_.size();
    source.inputs = inputs_.data();
    source.input_count = inputs_.size();
    source.outputs = outputs_.data();
    source.output_count = outputs_.size();
    source.chosen = options_.device.empty() ? nullptr : options_.device.c_str();
    source.threads = options_.threads;
    source.streams = options_.streams;
    source.max_batch = max_batch_;
    edgekd_message message{};
    int keeps_files = 0;
    const edgekd_status status = api_->open(&source, &session_, &keeps_files, &message);
    if (status != EDGEKD_OK) failed(status, message, "the plugin does not open the engine");
    if (keeps_files == 0) files_.clear();
    runtime_ = api_->runtime(session_);
}

Engine::~Engine() {
    if (session_ != nullptr) api_->close(session_);
}

double Engine::check_golden(const std::shared_ptr<Engine> &engine) {
    const Manifest &manifest = *engine->manifest_;
    const std::string &root = engine->folder_->path();
    const auto file = [&](const std::string &name) {
        const File &known = manifest.files.at(name);
        return engine->folder_->read(name, known.bytes, known.sha256);
    };
    const Bytes image_file = file(manifest.golden_images), output_file = file(engine->record_.golden);
    const Array images = read_npy(image_file.text(), "|u1", manifest.golden_images);
    const Array expected = read_npy(output_file.text(), "<f4", engine->record_.golden);
    Context context(engine, 0);
    Preparer &preparer = context.preparer();
    const auto count = static_cast<std::size_t>(images.shape.empty() ? 0 : images.shape[0]);
    const std::size_t pixels = static_cast<std::size_t>(preparer.width()) *
                               static_cast<std::size_t>(preparer.height()) *
                               static_cast<std::size_t>(preparer.channels());
    const Tensor &output = manifest.outputs[0];
    if (output.type() != EDGEKD_FLOAT32) {
        refuse(root + ": golden outputs are float32, and '" + output.name + "' is " + output.dtype);
    }
    const std::size_t values = output.sample_bytes() / sizeof(float);
    if (count == 0 || images.count != count * pixels || expected.count != count * values) {
        corrupt(root + ": the golden images do not fit the model");
    }
    double largest = 0;
    bool finite = true;
    for (std::size_t index = 0; index < count; ++index) {
        preparer.normalise(images.data + index * pixels, static_cast<float *>(context.input(0)));
        context.infer(1);
        const auto *found = static_cast<const float *>(context.output(0));
        for (std::size_t place = 0; place < values; ++place) {
            float wanted;
            std::memcpy(&wanted, expected.data + (index * values + place) * sizeof wanted, sizeof wanted);
            const double difference = std::fabs(static_cast<double>(found[place]) - static_cast<double>(wanted));
            finite = finite && std::isfinite(difference);
            largest = std::max(largest, difference);
        }
    }
    if (!finite) largest = HUGE_VAL;
    const double allowed = engine->record_.tolerance;
    if (!(largest <= allowed)) {
        char told[256];
        std::snprintf(
            told, sizeof told, " differs from the golden outputs by %.3g, and %.3g is allowed: this machine's "
            "runtime computes something else; build the bundle again here", largest, allowed);
        throw Failure(
            EDGEKD_CORRUPT, root + ": " + engine->record_.target + " " + engine->record_.precision + told);
    }
    return largest;
}

Context::Context(std::shared_ptr<Engine> engine, std::uint32_t warmup) : engine_(std::move(engine)) {
    const edgekd_backend_api &api = *engine_->api_;
    try {
        for (const auto *tensors : {&engine_->manifest_->inputs, &engine_->manifest_->outputs}) {
            for (const Tensor &each : *tensors) {
                const std::size_t bytes = each.sample_bytes() * engine_->max_batch_;
                if (api.allocate != nullptr) {
                    buffers_.push_back(api.allocate(engine_->session_, bytes));
                    if (buffers_.back() == nullptr) throw std::bad_alloc();
                } else {
                    own_.push_back(allocate(bytes));
                    buffers_.push_back(own_.back().data.get());
                }
                std::memset(buffers_.back(), 0, bytes);
            }
        }
        const edgekd_buffers memory{
            sizeof memory, buffers_.data(), buffers_.data() + engine_->inputs_.size()};
        edgekd_message message{};
        const edgekd_status status = api.create(engine_->session_, &memory, &runner_, &message);
        if (status != EDGEKD_OK) failed(status, message, "the plugin makes no context");
        if (engine_->manifest_->inputs.size() == 1 && engine_->inputs_[0].rank == 4 &&
            engine_->inputs_[0].dtype == EDGEKD_FLOAT32) {
            preparer_ = std::make_unique<Preparer>(engine_->manifest_->preprocessing, engine_->manifest_->inputs[0]);
        }
        for (std::uint32_t run = 0; run < warmup; ++run) infer(engine_->min_batch_);
        if (warmup != 0 && engine_->max_batch_ != engine_->min_batch_) infer(engine_->max_batch_);
    } catch (...) {
        free_buffers();
        throw;
    }
}

Context::~Context() { free_buffers(); }

void Context::free_buffers() {
    const edgekd_backend_api &api = *engine_->api_;
    if (runner_ != nullptr) api.destroy(runner_);
    runner_ = nullptr;
    if (api.allocate != nullptr) {
        for (void *each : buffers_) {
            if (each != nullptr) api.release(engine_->session_, each);
        }
    }
    buffers_.clear();
}

Preparer &Context::preparer() {
    if (preparer_ == nullptr) refuse("this model takes no images: give it tensors");
    return *preparer_;
}

void Context::set(std::size_t index, const edgekd_tensor &tensor) {
    const edgekd_tensor &wanted = engine_->inputs_[index];
    const auto shape = [](const edgekd_tensor &each) {
        std::string text = "(";
        for (std::uint32_t axis = 0; axis < std::min<std::uint32_t>(each.rank, EDGEKD_MAX_RANK); ++axis) {
            text += (axis ? ", " : "") + std::to_string(each.shape[axis]);
        }
        return text + ")";
    };
    const std::string name = std::string("input '") + wanted.name + "'";
    if (tensor.data == nullptr) refuse(name + " has no data");
    if (tensor.dtype != wanted.dtype) refuse(name + " is of another type than the model's");
    bool fits = tensor.rank == wanted.rank;
    for (std::uint32_t axis = 1; fits && axis < wanted.rank; ++axis) {
        fits = tensor.shape[axis] == wanted.shape[axis];
    }
    if (!fits) refuse(name + " has shape " + shape(tensor) + ", and the model takes " + shape(wanted));
    if (tensor.shape[0] < 1) refuse(name + " is of batch " + std::to_string(tensor.shape[0]));
    const auto batch = static_cast<std::size_t>(tensor.shape[0]);
    check_batch(batch);
    const std::size_t bytes = engine_->manifest_->inputs[index].sample_bytes() * batch;
    if (tensor.bytes != bytes) {
        refuse(
            name + " has " + std::to_string(tensor.bytes) + " bytes, and its shape " +
            std::to_string(bytes));
    }
    std::memcpy(buffers_[index], tensor.data, bytes);
}

void Context::check_batch(std::size_t batch) const {
    if (batch < 1 || batch > engine_->max_batch_) {
        refuse(
            "a batch of " + std::to_string(batch) + " was given to a context for 1 to " +
            std::to_string(engine_->max_batch_) + ": open the engine with a larger max_batch");
    }
}

void Context::infer(std::size_t batch) {
    check_batch(batch);
    edgekd_message message;
    message.text[0] = '\0';
    // An engine with a smallest batch computes that at least; what is not asked for is not read.
    const std::size_t whole = std::max<std::size_t>(batch, engine_->min_batch_);
    const edgekd_status status = engine_->api_->run(runner_, whole, &message);
    if (status != EDGEKD_OK) failed(status, message, "the runtime failed");
}

void Context::run(std::size_t batch) {
    const std::uint64_t begin = now();
    infer(batch);
    engine_->tally_.add(now() - begin, engine_->deadline_ns_);
}

void Context::run_images(const edgekd_image *images, std::size_t count, std::uint64_t since) {
    const std::uint64_t called = now(), begin = since != 0 && since < called ? since : called;
    Preparer &images_to_input = preparer();
    check_batch(count);
    constexpr std::size_t LONGEST = 4096;  // of a struct of any version
    if (images->size % alignof(edgekd_image) != 0 || images->size > LONGEST) {
        refuse("edgekd_image is of size " + std::to_string(images->size) + ", which none is");
    }
    const std::size_t sample = engine_->manifest_->inputs[0].sample_bytes();
    auto *memory = static_cast<std::uint8_t *>(buffers_[0]);
    const auto *image = reinterpret_cast<const std::uint8_t *>(images);
    for (std::size_t index = 0; index < count; ++index) {
        // The caller's struct may be a later, longer one.
        const auto &each = *reinterpret_cast<const edgekd_image *>(image + index * images->size);
        if (each.size != images->size) refuse("the images' sizes differ: set the size of each");
        images_to_input.prepare(each, reinterpret_cast<float *>(memory + index * sample));
    }
    infer(count);
    engine_->tally_.add(now() - begin, engine_->deadline_ns_);
}

}  // namespace edgekd::core
