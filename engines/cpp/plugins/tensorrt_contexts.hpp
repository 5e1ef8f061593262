// Execution contexts, made as well as the library can. What TensorRT for RTX has of its own is read
// from the headers, never from a version number: a runtime cache, which keeps what it compiled on
// this device, and CUDA graphs of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <type_traits>
#include <utility>

namespace edgekd::trt {

template <class Engine, class = void>
struct ConfigOf {
    using type = void;
};
template <class Engine>
struct ConfigOf<Engine, std::void_t<decltype(std::declval<Engine &>().createRuntimeConfig())>> {
    using type = std::remove_pointer_t<decltype(std::declval<Engine &>().createRuntimeConfig())>;
};

template <class Config, class = void>
inline constexpr bool HAS_CACHE = false;
template <class Config>
inline constexpr bool
    HAS_CACHE<Config, std::void_t<decltype(std::declval<Config &>().createRuntimeCache())>> = true;

template <class Config, class = void>
inline constexpr bool HAS_GRAPHS = false;
template <class Config>
inline constexpr bool
    HAS_GRAPHS<Config, std::void_t<decltype(&Config::setCudaGraphStrategy)>> = true;

template <class Config, class Strategy>
Strategy argument_of(bool (Config::*)(Strategy));

template <class Context, class Stream, class = void>
inline constexpr bool TELLS_CAPTURABLE = false;
template <class Context, class Stream>
inline constexpr bool TELLS_CAPTURABLE<
    Context, Stream,
    std::void_t<decltype(std::declval<Context &>().isStreamCapturable(std::declval<Stream>()))>> =
    true;

// Whether the library says that what this context does can be captured; where it has no say, yes.
template <class Context, class Stream>
bool is_capturable(Context &context, Stream stream) {
    if constexpr (TELLS_CAPTURABLE<Context, Stream>) return context.isStreamCapturable(stream);
    return true;
}

// Makes the contexts of one engine, of any thread; none may outlive it.
template <class Engine>
class Contexts {
public:
    // `compiled` is what was compiled before, or null; the library refuses what it cannot use, and
    // compiles anew. `graphs`: whether it should capture CUDA graphs, if it can by itself.
    Contexts(Engine &engine, const void *compiled, std::size_t bytes, bool graphs)
        : engine_(engine) {
        using Config = typename ConfigOf<Engine>::type;
        if constexpr (HAS_CACHE<Config>) {
            std::shared_ptr<Config> config(engine.createRuntimeConfig());
            if (config == nullptr) return;
            using Cache = std::remove_pointer_t<decltype(config->createRuntimeCache())>;
            std::shared_ptr<Cache> cache(config->createRuntimeCache());
            if (cache != nullptr) {
                if (bytes > 0) cache->deserialize(compiled, bytes);
                config->setRuntimeCache(*cache);
            }
            if constexpr (HAS_GRAPHS<Config>) {
                using Strategy = decltype(argument_of(&Config::setCudaGraphStrategy));
                own_graphs_ =
                    graphs && config->setCudaGraphStrategy(Strategy::kWHOLE_GRAPH_CAPTURE);
            }
            cache_ = std::move(cache);
            config_ = std::move(config);
        }
    }

    // Whether the library captures CUDA graphs by itself.
    bool own_graphs() const { return own_graphs_; }

    // Null where the library refuses.
    template <class Strategy>
    auto make(Strategy strategy) {
        using Config = typename ConfigOf<Engine>::type;
        const std::lock_guard<std::mutex> held(mutex_);
        if constexpr (HAS_CACHE<Config>) {
            if (config_ != nullptr) {
                auto &config = *static_cast<Config *>(config_.get());
                config.setExecutionContextAllocationStrategy(strategy);
                return engine_.createExecutionContext(&config);
            }
        }
        return engine_.createExecutionContext(strategy);
    }

private:
    Engine &engine_;
    std::mutex mutex_;
    std::shared_ptr<void> cache_; // outlives the configuration, which refers to it
    std::shared_ptr<void> config_;
    bool own_graphs_ = false;
};

} // namespace edgekd::trt
