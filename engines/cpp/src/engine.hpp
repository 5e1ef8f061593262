// An opened engine, and the contexts in which threads run it.
#pragma once

#include "files.hpp"
#include "image.hpp"
#include "manifest.hpp"
#include "tally.hpp"

#include <edgekd/backend.h>

#include <memory>
#include <string>
#include <vector>

namespace edgekd::core {

// edgekd_options, its blanks filled in.
struct Options {
    std::string target, precision, device, plugins;
    std::uint32_t threads = 1, streams = 1, max_batch = 1, warmup = 10;
    double deadline_ms = 0;
};

class Engine {
public:
    // The first engine of the bundle that can run here.
    static std::shared_ptr<Engine> open(const std::string &path, const Options &options);

    Engine(
        std::shared_ptr<const Manifest> manifest, const EngineRecord &record,
        std::shared_ptr<const Folder> folder, const Options &options);
    ~Engine();
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    const Manifest &manifest() const { return *manifest_; }
    const EngineRecord &record() const { return record_; }
    const Options &options() const { return options_; }
    const char *runtime() const { return runtime_.c_str(); }
    std::uint32_t min_batch() const { return min_batch_; }
    std::uint32_t max_batch() const { return max_batch_; }
    std::uint64_t deadline_ns() const { return deadline_ns_; }
    Tally &tally() { return tally_; }

    // The largest difference to the golden outputs; throws EDGEKD_CORRUPT where it is too large.
    static double check_golden(const std::shared_ptr<Engine> &engine);

private:
    friend class Context;
    void fit_batches();

    std::shared_ptr<const Manifest> manifest_;
    EngineRecord record_;
    Options options_;
    std::shared_ptr<const Folder> folder_;
    std::vector<Bytes> files_;
    std::vector<edgekd_pair> pairs_;
    std::vector<edgekd_tensor> inputs_, outputs_;
    const edgekd_backend_api *api_ = nullptr;
    edgekd_session *session_ = nullptr;
    std::string runtime_;
    std::uint32_t min_batch_ = 1, max_batch_ = 1;
    std::uint64_t deadline_ns_ = 0;
    Tally tally_;
};

// One thread's memory and its request to the runtime.
class Context {
public:
    Context(std::shared_ptr<Engine> engine, std::uint32_t warmup);
    ~Context();
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    Engine &engine() { return *engine_; }
    void *input(std::size_t index) { return buffers_[index]; }
    void *output(std::size_t index) { return buffers_[engine_->inputs_.size() + index]; }

    void set(std::size_t index, const edgekd_tensor &tensor);
    void run(std::size_t batch);
    // Counted from a moment of CLOCK_MONOTONIC, in nanoseconds; 0 for now.
    void run_images(const edgekd_image *images, std::size_t count, std::uint64_t since);

    // Runs a batch without counting it.
    void infer(std::size_t batch);
    // Where images are made to fit; throws EDGEKD_ARGUMENT where the model takes none.
    Preparer &preparer();

private:
    void check_batch(std::size_t batch) const;
    void free_buffers();

    std::shared_ptr<Engine> engine_;
    std::vector<void *> buffers_;  // of the inputs, then of the outputs
    std::vector<Bytes> own_;       // what they lie in, where the plugin gives no memory
    edgekd_runner *runner_ = nullptr;
    std::unique_ptr<Preparer> preparer_;
};

}  // namespace edgekd::core
