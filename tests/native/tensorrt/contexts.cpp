// What TensorRT for RTX has of its own, which TensorRT's headers lack: with the calls of NVIDIA's
// reference for IRuntimeConfig and IRuntimeCache in stand-ins for them.
#include "tensorrt_contexts.hpp"

#include <cassert>
#include <cstdio>
#include <string>
#include <vector>

namespace {

enum class Allocation { kSTATIC, kUSER_MANAGED };
enum class CudaGraphs { kDISABLED, kWHOLE_GRAPH_CAPTURE };

std::string told;

struct Context {
    bool isStreamCapturable(int stream) const { return stream == 7; }
};

struct Cache {
    ~Cache() { told += "cache ends;"; }
    bool deserialize(const void *data, std::size_t bytes) noexcept {
        told += "deserialize " + std::string(static_cast<const char *>(data), bytes) + ";";
        return true;
    }
};

struct Config {
    ~Config() { told += "config ends;"; }
    void setExecutionContextAllocationStrategy(Allocation) noexcept {}
    Cache *createRuntimeCache() const noexcept { return new Cache; }
    bool setRuntimeCache(const Cache &) noexcept {
        told += "set cache;";
        return true;
    }
    bool setCudaGraphStrategy(CudaGraphs) noexcept { return takes; }
    static inline bool takes = true;
};

// Of TensorRT for RTX before 1.3.
struct OlderConfig {
    void setExecutionContextAllocationStrategy(Allocation) noexcept {}
    Cache *createRuntimeCache() const noexcept { return nullptr; }
    bool setRuntimeCache(const Cache &) noexcept { return true; }
};

// Of TensorRT from 10.13 on.
struct PlainConfig {
    void setExecutionContextAllocationStrategy(Allocation) noexcept {}
};

template <class Config>
struct Engine {
    Config *createRuntimeConfig() noexcept { return new Config; }
    Context *createExecutionContext(Allocation) noexcept {
        told += "plain;";
        return nullptr;
    }
    Context *createExecutionContext(Config *) noexcept {
        told += "configured;";
        return nullptr;
    }
};

// Of TensorRT before that.
struct OldEngine {
    Context *createExecutionContext(Allocation) noexcept {
        told += "plain;";
        return nullptr;
    }
};

template <class Engine>
std::string use(bool graphs, bool own) {
    told.clear();
    {
        Engine engine;
        edgekd::trt::Contexts<Engine> contexts(engine, "jit", 3, graphs);
        assert(contexts.own_graphs() == own);
        assert(contexts.make(Allocation::kSTATIC) == nullptr);
    }
    return told;
}

} // namespace

int main() {
    const std::string all = "deserialize jit;set cache;configured;config ends;cache ends;";
    assert(use<Engine<Config>>(true, true) == all);
    assert(use<Engine<Config>>(false, false) == all);
    Config::takes = false;
    assert(use<Engine<Config>>(true, false) == all);
    assert(use<Engine<OlderConfig>>(true, false) == "configured;");
    assert(use<Engine<PlainConfig>>(true, false) == "plain;");
    assert(use<OldEngine>(true, false) == "plain;");
    Context context;
    assert(edgekd::trt::is_capturable(context, 7));
    assert(!edgekd::trt::is_capturable(context, 8));
    OldEngine has_no_say;
    assert(edgekd::trt::is_capturable(has_no_say, 8));
    std::puts("all as it should be");
}
