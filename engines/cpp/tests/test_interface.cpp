// The C interface with the null backend: what is right works and allocates nothing, and whatever is
// wrong gives a status and a sentence. EDGEKD_TEST_BUNDLES names the folder of the bundles.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <edgekd/edgekd.hpp>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTS_ALLOCATIONS 0
#else
#define COUNTS_ALLOCATIONS 1
#endif

namespace {

thread_local long allocations = 0;

std::string bundle(const std::string &name) {
    const char *folder = std::getenv("EDGEKD_TEST_BUNDLES");
    return std::string(folder != nullptr ? folder : ".") + "/" + name + ".edgekd";
}

std::string last_error() { return edgekd_last_error(); }

bool tells(const std::string &words) {
    const bool found = last_error().find(words) != std::string::npos;
    if (!found) MESSAGE("it was told: ", last_error());
    return found;
}

constexpr std::uint32_t WIDTH = 5, HEIGHT = 4, CHANNELS = 3;  // of the null bundle's input

edgekd_engine *opened(const std::string &name = "null", edgekd_options options = edgekd::detail::sized<edgekd_options>()) {
    edgekd_engine *engine = nullptr;
    const edgekd_status status = edgekd_open(bundle(name).c_str(), &options, &engine);
    INFO(last_error());
    REQUIRE(status == EDGEKD_OK);
    return engine;
}

struct Pixels {
    std::vector<std::uint8_t> bytes = std::vector<std::uint8_t>(WIDTH * HEIGHT * CHANNELS, 128);
    edgekd_image image{sizeof(edgekd_image), bytes.data(), WIDTH, HEIGHT, CHANNELS, EDGEKD_RGB, 0};
};

}  // namespace

#if COUNTS_ALLOCATIONS
extern "C" {
void *__libc_malloc(std::size_t);
void *__libc_calloc(std::size_t, std::size_t);
void *__libc_realloc(void *, std::size_t);
void *__libc_memalign(std::size_t, std::size_t);
void *aligned_alloc(std::size_t alignment, std::size_t size) {
    ++allocations;
    return __libc_memalign(alignment, size);
}
int posix_memalign(void **memory, std::size_t alignment, std::size_t size) {
    ++allocations;
    *memory = __libc_memalign(alignment, size);
    return 0;
}
void *malloc(std::size_t size) {
    ++allocations;
    return __libc_malloc(size);
}
void *calloc(std::size_t count, std::size_t size) {
    ++allocations;
    return __libc_calloc(count, size);
}
void *realloc(void *memory, std::size_t size) {
    ++allocations;
    return __libc_realloc(memory, size);
}
}
#endif

TEST_CASE("an image becomes the outputs of its mean") {
    auto engine = edgekd::Engine::open(bundle("null"));
    const Pixels white;
    const auto info = engine.info();
    CHECK(std::string(info.backend) == "null");
    CHECK(info.labels == 7);
    CHECK(info.height == HEIGHT);
    CHECK(info.width == WIDTH);
    CHECK(info.channels == CHANNELS);
    CHECK(info.deadline_ns == 5'000'000);
    // The bundle's mean is 0.5 and its deviation 0.25 in every channel.
    const double value = (128 / 255.0 - 0.5) / 0.25;
    const auto output = engine.run({white.bytes.data(), WIDTH, HEIGHT});
    REQUIRE(output.size() == 7);
    for (std::size_t place = 0; place < output.size(); ++place) {
        CHECK(output[place] == doctest::Approx(value * static_cast<double>(place + 1)).epsilon(1e-5));
    }
    CHECK(output.best() == 6);
    CHECK(engine.label(output.best()) == "g");
    CHECK(engine.check_golden() <= 1e-5);
}

TEST_CASE("tensors are taken in place or copied, in batches") {
    edgekd::Options options;
    options.max_batch = 3;
    auto engine = edgekd::Engine::open(bundle("null"), options);
    auto context = engine.context();
    const edgekd_tensor input = context.input();
    CHECK(input.rank == 4);
    CHECK(input.shape[0] == 3);
    CHECK(input.bytes == 3 * WIDTH * HEIGHT * CHANNELS * sizeof(float));
    CHECK(reinterpret_cast<std::uintptr_t>(input.data) % 64 == 0);
    auto *values = static_cast<float *>(input.data);
    for (std::size_t place = 0; place < input.bytes / sizeof(float); ++place) {
        values[place] = static_cast<float>(place / (WIDTH * HEIGHT * CHANNELS) + 1);
    }
    const auto output = context.run(3);
    REQUIRE(output.size() == 21);
    CHECK(output[0] == 1);
    CHECK(output[7] == 2);
    CHECK(output[20] == 21);
    std::vector<float> own(2 * WIDTH * HEIGHT * CHANNELS, 5);
    edgekd_tensor tensor{sizeof tensor, nullptr, own.data(), own.size() * sizeof(float), EDGEKD_FLOAT32, 4,
                         {2, CHANNELS, HEIGHT, WIDTH}};
    context.set(tensor);
    CHECK(context.run(2)[13] == 35);
    const std::vector<edgekd::Image> none;
    CHECK_THROWS_AS(context.run(none.data(), 0), edgekd::Error);
}

TEST_CASE("nothing is allocated in a run") {
    auto engine = edgekd::Engine::open(bundle("null"));
    auto context = engine.context();
    const std::vector<std::uint8_t> large(64 * 48 * 3, 7);
    const edgekd::Image image{large.data(), 64, 48}, other{large.data(), 32, 24};
    context.run(image);  // the first of a size makes its tables
    context.run(other);
    allocations = 0;
    for (int run = 0; run < 100; ++run) {
        context.run(image);
        context.run(other);
        context.run();
    }
    const long in_runs = allocations;
    CHECK(in_runs == 0);
    CHECK(engine.stats().count == 302);
#if COUNTS_ALLOCATIONS
    ::operator delete(::operator new(1));
    const long in_all = allocations;
    CHECK(in_all == in_runs + 1);  // the counter counts
#endif
}

TEST_CASE("every pointer may be null") {
    edgekd_engine *engine = opened();
    edgekd_context *context = nullptr;
    REQUIRE(edgekd_context_create(engine, &context) == EDGEKD_OK);
    edgekd_engine *other = nullptr;
    const std::string path = bundle("null");
    CHECK(edgekd_open(nullptr, nullptr, &other) == EDGEKD_ARGUMENT);
    CHECK(edgekd_open(path.c_str(), nullptr, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_close(nullptr) == EDGEKD_ARGUMENT);
    CHECK(tells("the engine is a null pointer"));
    CHECK(edgekd_engine_info(engine, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_input(engine, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_output(engine, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_label(engine, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_stats(engine, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_check_golden(nullptr, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_check_golden(engine, nullptr) == EDGEKD_OK);
    CHECK(edgekd_context_create(engine, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_create(nullptr, &context) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_destroy(nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_input(context, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_output(context, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_set(context, 0, nullptr) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_run(nullptr, 1) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_run_images(context, nullptr, 1) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_destroy(context) == EDGEKD_OK);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}

TEST_CASE("a struct whose size was not set is refused") {
    edgekd_engine *engine = opened();
    edgekd_info info{};
    CHECK(edgekd_engine_info(engine, &info) == EDGEKD_ARGUMENT);
    CHECK(tells("set its size to sizeof(edgekd_info)"));
    edgekd_stats stats{};
    CHECK(edgekd_engine_stats(engine, &stats) == EDGEKD_ARGUMENT);
    edgekd_options options{};
    edgekd_engine *other = nullptr;
    CHECK(edgekd_open(bundle("null").c_str(), &options, &other) == EDGEKD_ARGUMENT);
    CHECK(other == nullptr);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}

TEST_CASE("a later, longer struct is taken") {
    struct Later {
        edgekd_image image;
        int more;
    };
    auto options = edgekd::detail::sized<edgekd_options>();
    options.max_batch = 2;
    edgekd_engine *engine = opened("null", options);
    edgekd_context *context = nullptr;
    REQUIRE(edgekd_context_create(engine, &context) == EDGEKD_OK);
    Pixels dark, bright;
    std::fill(bright.bytes.begin(), bright.bytes.end(), 255);
    Later images[2] = {{dark.image, 1}, {bright.image, 2}};
    images[0].image.size = images[1].image.size = sizeof(Later);
    CHECK(edgekd_context_run_images(context, &images[0].image, 2) == EDGEKD_OK);
    auto output = edgekd::detail::sized<edgekd_tensor>();
    REQUIRE(edgekd_context_output(context, 0, &output) == EDGEKD_OK);
    CHECK(static_cast<float *>(output.data)[7] == doctest::Approx(2));
    images[1].image.size = sizeof(edgekd_image);
    CHECK(edgekd_context_run_images(context, &images[0].image, 2) == EDGEKD_ARGUMENT);
    images[0].image.size = images[1].image.size = std::size_t{1} << 40;
    CHECK(edgekd_context_run_images(context, &images[0].image, 2) == EDGEKD_ARGUMENT);
    struct LongInfo {
        edgekd_info info;
        long more;
    } info{};
    info.info.size = sizeof info;
    info.more = 7;
    CHECK(edgekd_engine_info(engine, &info.info) == EDGEKD_OK);
    CHECK(info.info.size == sizeof info);
    CHECK(info.more == 7);
    CHECK(edgekd_context_destroy(context) == EDGEKD_OK);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}

TEST_CASE("handles that were closed, or never were any, are told") {
    edgekd_engine *engine = opened();
    edgekd_context *context = nullptr;
    REQUIRE(edgekd_context_create(engine, &context) == EDGEKD_OK);
    auto info = edgekd::detail::sized<edgekd_info>();
    CHECK(edgekd_engine_info(reinterpret_cast<edgekd_engine *>(context), &info) == EDGEKD_CLOSED);
    CHECK(edgekd_context_run(reinterpret_cast<edgekd_context *>(engine), 1) == EDGEKD_CLOSED);
    int elsewhere = 0;
    CHECK(edgekd_close(reinterpret_cast<edgekd_engine *>(&elsewhere)) == EDGEKD_CLOSED);
    CHECK(edgekd_context_run(reinterpret_cast<edgekd_context *>(~std::uintptr_t{0}), 1) == EDGEKD_CLOSED);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
    CHECK(edgekd_close(engine) == EDGEKD_CLOSED);
    CHECK(tells("this engine was closed, or never was one"));
    CHECK(edgekd_engine_info(engine, &info) == EDGEKD_CLOSED);
    CHECK(edgekd_context_run(context, 1) == EDGEKD_OK);  // it keeps its engine
    CHECK(edgekd_context_destroy(context) == EDGEKD_OK);
    CHECK(edgekd_context_destroy(context) == EDGEKD_CLOSED);
    CHECK(edgekd_context_run(context, 1) == EDGEKD_CLOSED);
    edgekd_engine *next = opened();  // in the same place, and another
    CHECK(next != engine);
    CHECK(edgekd_engine_info(engine, &info) == EDGEKD_CLOSED);
    CHECK(edgekd_close(next) == EDGEKD_OK);
}

TEST_CASE("two threads on one context: the second is told") {
    auto engine = edgekd::Engine::open(bundle("slow"), [] {
        edgekd::Options options;
        options.warmup = 0;
        return options;
    }());
    edgekd_context *context = engine.own().handle();
    std::atomic<bool> done{false};
    std::thread first([&] {
        edgekd_status status;
        while ((status = edgekd_context_run(context, 1)) == EDGEKD_BUSY) {
        }
        CHECK(status == EDGEKD_OK);
        done = true;
    });
    int busy = 0;
    auto tensor = edgekd::detail::sized<edgekd_tensor>();
    while (!done && busy == 0) busy += edgekd_context_input(context, 0, &tensor) == EDGEKD_BUSY;
    CHECK(busy == 1);
    CHECK(tells("another thread is using this context"));
    CHECK(edgekd_context_run(context, 1) == EDGEKD_BUSY);
    CHECK(edgekd_context_destroy(context) == EDGEKD_BUSY);
    auto other = engine.context();  // while a context of one's own runs
    other.run();
    first.join();
    CHECK(engine.stats().count == 2);
    CHECK(engine.stats().misses == 2);  // 60 ms, and the budget allows 5
}

TEST_CASE("images that cannot be taken") {
    auto engine = edgekd::Engine::open(bundle("null"));
    edgekd_context *context = engine.own().handle();
    const Pixels good;
    const auto refused = [&](auto change, const char *words) {
        edgekd_image image = good.image;
        change(image);
        CHECK(edgekd_context_run_images(context, &image, 1) == EDGEKD_ARGUMENT);
        CHECK(tells(words));
    };
    refused([](edgekd_image &image) { image.data = nullptr; }, "the image has no data");
    refused([](edgekd_image &image) { image.width = 0; }, "the image is 4×0");
    refused([](edgekd_image &image) { image.height = 65536; }, "a side is 1 to 65535 pixels");
    refused([](edgekd_image &image) { image.channels = 4; }, "4 channels, and the model takes 3: leave out its alpha");
    refused([](edgekd_image &image) { image.channels = 0; }, "0 channels");
    refused([](edgekd_image &image) { image.stride = 14; }, "stride of 14 bytes is less than a row");
    refused([](edgekd_image &image) { image.order = 2; }, "order");
    refused([](edgekd_image &image) { image.size = 4; }, "sizeof(edgekd_image)");
    CHECK(edgekd_context_run_images(context, &good.image, 2) == EDGEKD_ARGUMENT);
    CHECK(tells("a batch of 2 was given to a context for 1 to 1"));
    CHECK(edgekd_context_run_images(context, &good.image, 1) == EDGEKD_OK);
}

TEST_CASE("an image that lies in a larger one, and its order of channels") {
    auto engine = edgekd::Engine::open(bundle("null"));
    std::vector<std::uint8_t> wide(WIDTH * 2 * HEIGHT * 3, 255);
    for (std::uint32_t y = 0; y < HEIGHT; ++y) {
        for (std::uint32_t x = 0; x < WIDTH * 3; ++x) wide[y * WIDTH * 6 + x] = static_cast<std::uint8_t>(x);
    }
    std::vector<std::uint8_t> cut;
    for (std::uint32_t y = 0; y < HEIGHT; ++y) {
        for (std::uint32_t x = 0; x < WIDTH * 3; ++x) cut.push_back(static_cast<std::uint8_t>(x));
    }
    edgekd::Context &context = engine.own();
    const std::size_t bytes = context.input().bytes;
    const auto input = [&] {
        const auto *data = static_cast<const std::uint8_t *>(context.input().data);
        return std::vector<std::uint8_t>(data, data + bytes);
    };
    context.run({wide.data(), WIDTH, HEIGHT, 3, EDGEKD_RGB, WIDTH * 6});
    const auto strided = input();
    context.run({cut.data(), WIDTH, HEIGHT});
    CHECK(input() == strided);
    context.run({cut.data(), WIDTH, HEIGHT, 3, EDGEKD_BGR});
    const auto turned = input();
    CHECK(turned != strided);
    const std::size_t plane = bytes / 3;  // first and last channel change places
    CHECK(std::memcmp(turned.data(), strided.data() + 2 * plane, plane) == 0);
    CHECK(std::memcmp(turned.data() + plane, strided.data() + plane, plane) == 0);
}

TEST_CASE("tensors that cannot be taken") {
    auto engine = edgekd::Engine::open(bundle("null"));
    edgekd_context *context = engine.own().handle();
    std::vector<float> values(WIDTH * HEIGHT * CHANNELS);
    const edgekd_tensor good{sizeof good, nullptr, values.data(), values.size() * sizeof(float), EDGEKD_FLOAT32, 4,
                             {1, CHANNELS, HEIGHT, WIDTH}};
    const auto refused = [&](auto change, const char *words) {
        edgekd_tensor tensor = good;
        change(tensor);
        CHECK(edgekd_context_set(context, 0, &tensor) == EDGEKD_ARGUMENT);
        CHECK(tells(words));
    };
    refused([](edgekd_tensor &tensor) { tensor.data = nullptr; }, "has no data");
    refused([](edgekd_tensor &tensor) { tensor.dtype = EDGEKD_UINT8; }, "another type");
    refused([](edgekd_tensor &tensor) { tensor.rank = 3; }, "the model takes (-1, 3, 4, 5)");
    refused([](edgekd_tensor &tensor) { tensor.rank = 4000; }, "has shape");
    refused([](edgekd_tensor &tensor) { tensor.shape[1] = 1; }, "has shape (1, 1, 4, 5)");
    refused([](edgekd_tensor &tensor) { tensor.shape[0] = 0; }, "batch 0");
    refused([](edgekd_tensor &tensor) { tensor.shape[0] = std::numeric_limits<std::int64_t>::min(); }, "batch -9");
    refused([](edgekd_tensor &tensor) { tensor.shape[0] = 2; }, "a batch of 2");
    refused([](edgekd_tensor &tensor) { tensor.bytes -= 4; }, "bytes");
    CHECK(edgekd_context_set(context, 1, &good) == EDGEKD_ARGUMENT);
    CHECK(tells("there is no input 1: there are 1"));
    CHECK(edgekd_context_set(context, 0, &good) == EDGEKD_OK);
    CHECK(edgekd_context_run(context, 0) == EDGEKD_ARGUMENT);
    CHECK(edgekd_context_run(context, SIZE_MAX) == EDGEKD_ARGUMENT);
}

TEST_CASE("places that are not there") {
    edgekd_engine *engine = opened();
    auto tensor = edgekd::detail::sized<edgekd_tensor>();
    const char *label = nullptr;
    CHECK(edgekd_engine_input(engine, 0, &tensor) == EDGEKD_OK);
    CHECK(std::string(tensor.name) == "image");
    CHECK(tensor.shape[0] == -1);
    CHECK(edgekd_engine_input(engine, 1, &tensor) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_output(engine, 9, &tensor) == EDGEKD_ARGUMENT);
    CHECK(edgekd_engine_label(engine, 7, &label) == EDGEKD_ARGUMENT);
    CHECK(label == nullptr);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}

TEST_CASE("options that mean nothing") {
    const auto refused = [](auto change, edgekd_status wanted, const char *words) {
        auto options = edgekd::detail::sized<edgekd_options>();
        change(options);
        edgekd_engine *engine = nullptr;
        CHECK(edgekd_open(bundle("null").c_str(), &options, &engine) == wanted);
        CHECK(tells(words));
        CHECK(engine == nullptr);
    };
    refused([](edgekd_options &given) { given.target = "tpu"; }, EDGEKD_ARGUMENT, "no engine for target tpu, precision any");
    refused([](edgekd_options &given) { given.precision = "int4"; }, EDGEKD_ARGUMENT, "precision int4");
    refused([](edgekd_options &given) { given.threads = 5000; }, EDGEKD_ARGUMENT, "threads is 5000");
    refused([](edgekd_options &given) { given.max_batch = 1u << 30; }, EDGEKD_ARGUMENT, "max_batch");
    refused([](edgekd_options &given) { given.max_batch = 9; }, EDGEKD_INCOMPATIBLE, "was built for 8");
    refused([](edgekd_options &given) { given.deadline_ms = -1; }, EDGEKD_ARGUMENT, "deadline_ms");
    refused([](edgekd_options &given) { given.deadline_ms = std::nan(""); }, EDGEKD_ARGUMENT, "deadline_ms");
    refused([](edgekd_options &given) { given.plugins = "/nowhere"; }, EDGEKD_UNAVAILABLE, "libedgekd_null.so in /nowhere");
}

TEST_CASE("plugins that are missing or do not fit, and engines that cannot run here") {
    const auto told = [](const char *name, edgekd_status wanted, const char *words) {
        edgekd_engine *engine = nullptr;
        CHECK(edgekd_open(bundle(name).c_str(), nullptr, &engine) == wanted);
        CHECK(tells(words));
    };
    told("missing", EDGEKD_UNAVAILABLE, "there is no plugin libedgekd_missing.so");
    told("newer", EDGEKD_UNAVAILABLE, "speaks version 99 of the plugin interface");
    told("renamed", EDGEKD_UNAVAILABLE, "is the plugin of another backend");
    told("incompatible", EDGEKD_INCOMPATIBLE, "the null backend refuses this engine");
    told("failing-open", EDGEKD_FAILED, "the null backend refuses this engine");
    told("nowhere", EDGEKD_NOT_A_BUNDLE, "is not a bundle");
    // The first engine cannot run here, the second can.
    auto engine = edgekd::Engine::open(bundle("second"));
    CHECK(std::string(engine.info().target) == "other");
}

TEST_CASE("a runtime that fails is told, and the context lives on") {
    auto engine = edgekd::Engine::open(bundle("null"));
    edgekd::Options options;
    options.warmup = 0;
    auto failing = edgekd::Engine::open(bundle("failing"), options);
    CHECK_THROWS_WITH_AS(failing.own().run(), "it broke", edgekd::Error);
    CHECK_THROWS_WITH_AS(failing.own().run(), "it broke", edgekd::Error);
    CHECK(failing.stats().count == 0);
    CHECK_THROWS_AS(edgekd::Engine::open(bundle("failing")), edgekd::Error);  // in the warm-up
    engine.own().run();
}

TEST_CASE("golden outputs that are not given") {
    auto engine = edgekd::Engine::open(bundle("other-golden"));
    CHECK_THROWS_WITH_AS(engine.check_golden(), doctest::Contains("differs from the golden outputs"), edgekd::Error);
    CHECK(engine.stats().count == 0);
}

TEST_CASE("the last error is a thread's own") {
    CHECK(edgekd_close(nullptr) == EDGEKD_ARGUMENT);
    const std::string own = last_error();
    std::thread([] {
        CHECK(last_error().empty());
        edgekd_engine *engine = nullptr;
        CHECK(edgekd_open("/nowhere", nullptr, &engine) == EDGEKD_NOT_A_BUNDLE);
    }).join();
    CHECK(last_error() == own);
}

TEST_CASE("what a batch of several, of none and of no image gives") {
    edgekd::Options options;
    options.max_batch = 2;
    auto engine = edgekd::Engine::open(bundle("null"), options);
    const std::vector<std::uint8_t> dark(60, 0), bright(60, 255);
    const auto both = engine.run({{bright.data(), WIDTH, HEIGHT}, {dark.data(), WIDTH, HEIGHT}});
    CHECK(both.rows() == 2);
    CHECK(both.row(1).size() == 7);
    CHECK(both.best() == 6);
    CHECK(both.best(1) == 0);
    CHECK(both.row(1)[3] == doctest::Approx(-8));
    CHECK_THROWS_AS(engine.run(nullptr, 1), edgekd::Error);
    const edgekd::Image image{dark.data(), WIDTH, HEIGHT};
    CHECK_THROWS_AS(engine.run(&image, SIZE_MAX), edgekd::Error);
    CHECK_THROWS_AS(engine.run(&image, 0), edgekd::Error);
}

TEST_CASE("an engine that is moved to takes the place of the one before") {
    auto first = edgekd::Engine::open(bundle("null"));
    auto second = edgekd::Engine::open(bundle("second"));
    edgekd_engine *gone = first.handle();
    first = std::move(second);
    CHECK(std::string(first.info().target) == "other");
    CHECK_THROWS_AS(second.info(), edgekd::Error);
    CHECK_THROWS_AS(second.run({nullptr, 1, 1}), edgekd::Error);
    auto info = edgekd::detail::sized<edgekd_info>();
    CHECK(edgekd_engine_info(gone, &info) == EDGEKD_CLOSED);
}

TEST_CASE("an engine of one fixed batch, and one of a smallest") {
    auto fixed = edgekd::Engine::open(bundle("fixed"));
    CHECK(fixed.info().min_batch == 4);
    CHECK(fixed.info().max_batch == 4);
    const std::vector<std::uint8_t> bright(60, 255);
    CHECK(fixed.run({bright.data(), WIDTH, HEIGHT})[0] == doctest::Approx(2));
    CHECK(fixed.check_golden() < 1e-4);
    auto least = edgekd::Engine::open(bundle("least"));
    CHECK(least.info().max_batch == 3);
    CHECK(least.run({bright.data(), WIDTH, HEIGHT})[0] == doctest::Approx(2));
    // The first engine takes 8 at most, the second any number.
    edgekd::Options options;
    options.max_batch = 20;
    CHECK(std::string(edgekd::Engine::open(bundle("two"), options).info().target) == "other");
}

TEST_CASE("outputs that are not float32") {
    auto engine = edgekd::Engine::open(bundle("half"));
    CHECK_THROWS_WITH_AS(engine.own().run(), doctest::Contains("is not float32"), edgekd::Error);
    CHECK_THROWS_WITH_AS(engine.check_golden(), doctest::Contains("is float16"), edgekd::Error);
    CHECK(engine.own().output().dtype == EDGEKD_FLOAT16);
}

TEST_CASE("devices and deadlines") {
    auto options = edgekd::detail::sized<edgekd_options>();
    options.deadline_ms = HUGE_VAL;
    edgekd_engine *engine = opened("null", options);
    auto info = edgekd::detail::sized<edgekd_info>();
    REQUIRE(edgekd_engine_info(engine, &info) == EDGEKD_OK);
    CHECK(info.deadline_ns == 0);
    CHECK(edgekd_engine_drop(engine) == EDGEKD_OK);
    auto stats = edgekd::detail::sized<edgekd_stats>();
    REQUIRE(edgekd_engine_stats(engine, &stats) == EDGEKD_OK);
    CHECK(stats.misses == 1);
    CHECK(stats.count == 0);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}

TEST_CASE("many handles, opened and closed by many threads") {
    std::vector<std::thread> threads;
    edgekd_engine *engine = opened();
    for (int each = 0; each < 4; ++each) {
        threads.emplace_back([&] {
            for (int turn = 0; turn < 200; ++turn) {
                edgekd_context *context = nullptr;
                REQUIRE(edgekd_context_create(engine, &context) == EDGEKD_OK);
                REQUIRE(edgekd_context_run(context, 1) == EDGEKD_OK);
                REQUIRE(edgekd_context_destroy(context) == EDGEKD_OK);
                REQUIRE(edgekd_context_run(context, 1) != EDGEKD_OK);
            }
        });
    }
    for (auto &each : threads) each.join();
    auto stats = edgekd::detail::sized<edgekd_stats>();
    REQUIRE(edgekd_engine_stats(engine, &stats) == EDGEKD_OK);
    CHECK(stats.count == 800);
    CHECK(edgekd_close(engine) == EDGEKD_OK);
}
