// EdgeKD in C++17: a header over the C interface.
//
//     auto engine = edgekd::Engine::open("model.edgekd");
//     auto logits = engine.run({pixels, width, height});  // RGB, a byte a channel
//     std::cout << engine.label(logits.best()) << '\n';
//
// An Engine runs in one thread at a time; for each further thread make a Context of it. Whatever
// fails throws edgekd::Error. Nothing is allocated in a run, but for tables where an image comes whose
// size is none of the last few.
#pragma once

#include <edgekd/edgekd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace edgekd {

// What went wrong, in one line.
class Error : public std::runtime_error {
public:
    explicit Error(edgekd_status status) : std::runtime_error(edgekd_last_error()), status_(status) {}
    Error(edgekd_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    edgekd_status status() const noexcept { return status_; }

private:
    edgekd_status status_;
};

inline void check(edgekd_status status) {
    if (status != EDGEKD_OK) throw Error(status);
}

// How an engine is chosen and run; see edgekd_options.
struct Options {
    std::string target = {};
    std::string precision = {};
    std::string device = {};
    std::string plugins = {};
    std::uint32_t threads = 1;
    std::uint32_t streams = 1;
    std::uint32_t max_batch = 1;
    std::uint32_t warmup = 10;
    double deadline_ms = 0;  // 0: the bundle's budget; INFINITY: none
};

// An image of any size that lies elsewhere: rows of pixels, channels side by side, a byte each.
struct Image {
    const std::uint8_t *data = nullptr;
    std::uint32_t width = 0;
    std::uint32_t height = 0;
    std::uint32_t channels = 3;
    edgekd_order order = EDGEKD_RGB;
    std::size_t stride = 0;  // bytes from a row to the next; 0: rows follow each other
};

// The first output of the last run, where the runtime wrote it: a row for each image, one after the
// other. The next run of the context overwrites it.
class Output {
public:
    Output(const float *data, std::size_t size, std::size_t rows = 1)
        : data_(data), size_(size), rows_(rows) {}
    const float *data() const { return data_; }
    std::size_t size() const { return size_; }
    const float *begin() const { return data_; }
    const float *end() const { return data_ + size_; }
    float operator[](std::size_t index) const { return data_[index]; }

    std::size_t rows() const { return rows_; }
    Output row(std::size_t index) const {
        return {data_ + index * (size_ / rows_), size_ / rows_};
    }

    // The place of the largest value of an image's row.
    std::size_t best(std::size_t index = 0) const {
        const Output one = row(index);
        return static_cast<std::size_t>(std::max_element(one.begin(), one.end()) - one.begin());
    }

private:
    const float *data_;
    std::size_t size_, rows_;
};

namespace detail {

template <class Handle, edgekd_status (*Close)(Handle *)>
class Owner {
public:
    Owner() = default;
    explicit Owner(Handle *handle) : handle_(handle) {}
    Owner(Owner &&other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owner &operator=(Owner &&other) noexcept {
        Owner(std::move(other)).swap(*this);
        return *this;
    }
    Owner(const Owner &) = delete;
    Owner &operator=(const Owner &) = delete;
    ~Owner() {
        if (handle_ != nullptr) Close(handle_);
    }
    Handle *get() const { return handle_; }
    void swap(Owner &other) noexcept { std::swap(handle_, other.handle_); }

private:
    Handle *handle_ = nullptr;
};

template <class Struct>
Struct sized() {
    Struct made{};
    made.size = sizeof made;
    return made;
}

inline edgekd_image image(const Image &from) {
    return {sizeof(edgekd_image), from.data, from.width, from.height, from.channels, from.order, from.stride};
}

}  // namespace detail

// What one thread runs an engine with. It keeps its engine alive.
class Context {
public:
    explicit Context(edgekd_engine *engine) {
        edgekd_context *made = nullptr;
        check(edgekd_context_create(engine, &made));
        handle_ = detail::Owner<edgekd_context, edgekd_context_destroy>(made);
        auto output = detail::sized<edgekd_tensor>();
        check(edgekd_context_output(made, 0, &output));
        logits_ = output.dtype == EDGEKD_FLOAT32 ? static_cast<const float *>(output.data) : nullptr;
        values_ = output.bytes / sizeof(float) / static_cast<std::size_t>(output.shape[0]);
        images_.resize(static_cast<std::size_t>(output.shape[0]), detail::sized<edgekd_image>());
    }

    // The first output for an image, or for several as one batch, one after the other.
    Output run(const Image &image) { return run(&image, 1); }
    Output run(std::initializer_list<Image> images) { return run(images.begin(), images.size()); }
    Output run(const Image *images, std::size_t count) {
        const bool fits = images != nullptr && count <= images_.size();  // else the library says so
        for (std::size_t index = 0; fits && index < count; ++index) {
            images_[index] = detail::image(images[index]);
        }
        check(edgekd_context_run_images(handle_.get(), images != nullptr ? images_.data() : nullptr, count));
        return first(count);
    }

    // As `run` of one image, its latency counted from when it came; see edgekd_context_answer.
    Output answer(const Image &image, std::uint64_t since_ns) {
        const edgekd_image given = detail::image(image);
        check(edgekd_context_answer(handle_.get(), &given, since_ns));
        return first(1);
    }

    // The first output for what the inputs hold; see `input`.
    Output run(std::size_t batch = 1) {
        check(edgekd_context_run(handle_.get(), batch));
        return first(batch);
    }

    // A context's own memory, to be filled before a run, or read after it.
    edgekd_tensor input(std::size_t index = 0) const {
        auto tensor = detail::sized<edgekd_tensor>();
        check(edgekd_context_input(handle_.get(), index, &tensor));
        return tensor;
    }
    edgekd_tensor output(std::size_t index = 0) const {
        auto tensor = detail::sized<edgekd_tensor>();
        check(edgekd_context_output(handle_.get(), index, &tensor));
        return tensor;
    }

    // Copies a tensor into an input, its type and shape checked.
    void set(const edgekd_tensor &tensor, std::size_t index = 0) {
        check(edgekd_context_set(handle_.get(), index, &tensor));
    }

    edgekd_context *handle() const { return handle_.get(); }

private:
    Output first(std::size_t batch) const {
        if (logits_ == nullptr) {
            throw Error(EDGEKD_ARGUMENT, "the first output is not float32: run by the C interface, and read Context::output");
        }
        return {logits_, values_ * batch, batch};
    }

    detail::Owner<edgekd_context, edgekd_context_destroy> handle_;
    const float *logits_ = nullptr;
    std::size_t values_ = 0;
    std::vector<edgekd_image> images_;
};

// The best engine of a bundle that can run here, with a context of its own.
class Engine {
public:
    static Engine open(const std::string &bundle, const Options &options = {}) {
        auto given = detail::sized<edgekd_options>();
        const auto text = [](const std::string &value) { return value.empty() ? nullptr : value.c_str(); };
        given.target = text(options.target);
        given.precision = text(options.precision);
        given.device = text(options.device);
        given.plugins = text(options.plugins);
        given.threads = options.threads;
        given.streams = options.streams;
        given.max_batch = options.max_batch;
        given.warmup = options.warmup == 0 ? EDGEKD_NO_WARMUP : options.warmup;
        given.deadline_ms = options.deadline_ms;
        edgekd_engine *made = nullptr;
        check(edgekd_open(bundle.c_str(), &given, &made));
        return Engine(detail::Owner<edgekd_engine, edgekd_close>(made));
    }

    // See Context::run.
    Output run(const Image &image) { return own_.run(image); }
    Output run(std::initializer_list<Image> images) { return own_.run(images); }
    Output run(const Image *images, std::size_t count) { return own_.run(images, count); }

    // For another thread.
    Context context() const { return Context(handle_.get()); }
    // The engine's own, for tensors.
    Context &own() { return own_; }

    edgekd_info info() const {
        auto found = detail::sized<edgekd_info>();
        check(edgekd_engine_info(handle_.get(), &found));
        return found;
    }
    std::string label(std::size_t index) const {
        const char *found = nullptr;
        check(edgekd_engine_label(handle_.get(), index, &found));
        return found;
    }
    edgekd_stats stats() const {
        auto found = detail::sized<edgekd_stats>();
        check(edgekd_engine_stats(handle_.get(), &found));
        return found;
    }
    // The largest difference to the bundle's golden outputs; throws where it is too large.
    double check_golden() const {
        double difference = 0;
        check(edgekd_check_golden(handle_.get(), &difference));
        return difference;
    }

    edgekd_engine *handle() const { return handle_.get(); }

private:
    explicit Engine(detail::Owner<edgekd_engine, edgekd_close> handle)
        : handle_(std::move(handle)), own_(handle_.get()) {}

    detail::Owner<edgekd_engine, edgekd_close> handle_;
    Context own_;
};

}  // namespace edgekd
