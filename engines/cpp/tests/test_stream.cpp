// Streams: which frames are answered under each policy. The engine of `slow` takes 60 ms, so that
// what is submitted in one go finds it busy. EDGEKD_TEST_BUNDLES names the folder of the bundles.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <edgekd/stream.hpp>

#include <cstdlib>
#include <future>
#include <string>
#include <vector>

namespace {

constexpr std::uint32_t WIDTH = 5, HEIGHT = 4;

edgekd::Engine engine(const std::string &name) {
    const char *folder = std::getenv("EDGEKD_TEST_BUNDLES");
    edgekd::Options options;
    options.warmup = 0;
    return edgekd::Engine::open(std::string(folder != nullptr ? folder : ".") + "/" + name + ".edgekd", options);
}

struct Seen {
    std::vector<std::uint64_t> frames;
    std::vector<float> values;
    std::vector<std::string> errors;
    std::promise<void> first_begun;
};

// Submits so many frames of one grey each; tells which were answered and what was counted.
edgekd::Stream::Counts submit(
    const edgekd::Engine &opened, edgekd::Policy policy, std::size_t depth, int frames, Seen &seen) {
    std::vector<std::uint8_t> pixels(WIDTH * HEIGHT * 3);
    edgekd::Stream stream(opened, policy, [&](const edgekd::Answer &answer) {
        seen.frames.push_back(answer.frame);
        seen.errors.push_back(answer.error);
        if (answer.error.empty()) seen.values.push_back(answer.output[0]);
    }, depth);
    for (int frame = 0; frame < frames; ++frame) {
        std::fill(pixels.begin(), pixels.end(), static_cast<std::uint8_t>(frame * 10));
        CHECK(stream.submit({pixels.data(), WIDTH, HEIGHT}) == static_cast<std::uint64_t>(frame));
        // The first must be at work before the others come.
        if (frame == 0) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    stream.finish();
    return stream.counts();
}

}  // namespace

TEST_CASE("queue: every frame is answered, in order, as it was when it came") {
    const auto opened = engine("slow");
    Seen seen;
    const auto counts = submit(opened, edgekd::Policy::queue, 2, 5, seen);
    CHECK(seen.frames == std::vector<std::uint64_t>{0, 1, 2, 3, 4});
    CHECK(counts.answered == 5);
    CHECK(counts.dropped == 0);
    CHECK(counts.late == 5);  // 60 ms, and 5 are allowed
    const auto stats = opened.stats();  // from submit to answer
    CHECK(stats.count == 5);
    CHECK(stats.p50_ns > 90'000'000);
    for (std::size_t frame = 0; frame < 5; ++frame) {
        const double value = (static_cast<double>(frame) * 10 / 255 - 0.5) / 0.25;
        CHECK(seen.values[frame] == doctest::Approx(value).epsilon(1e-4));
    }
}

TEST_CASE("drop_oldest: the newest that wait are answered") {
    const auto opened = engine("slow");
    Seen seen;
    auto counts = submit(opened, edgekd::Policy::drop_oldest, 1, 5, seen);
    CHECK(opened.stats().misses == 5);  // two late, three dropped
    CHECK(seen.frames == std::vector<std::uint64_t>{0, 4});
    CHECK(counts.dropped == 3);
    Seen two;
    counts = submit(opened, edgekd::Policy::drop_oldest, 2, 5, two);
    CHECK(two.frames == std::vector<std::uint64_t>{0, 3, 4});
    CHECK(counts.dropped == 2);
}

TEST_CASE("skip: what comes meanwhile is never seen") {
    const auto opened = engine("slow");
    Seen seen;
    const auto counts = submit(opened, edgekd::Policy::skip, 1, 5, seen);
    CHECK(seen.frames == std::vector<std::uint64_t>{0});
    CHECK(counts.answered == 1);
    CHECK(counts.dropped == 4);
}

TEST_CASE("what the runtime fails with is told to the callback") {
    const auto opened = engine("failing");
    Seen seen;
    const auto counts = submit(opened, edgekd::Policy::queue, 1, 2, seen);
    CHECK(seen.errors == std::vector<std::string>{"it broke", "it broke"});
    CHECK(counts.answered == 0);
    CHECK(counts.failed == 2);
    CHECK(opened.stats().count == 0);
    CHECK(opened.stats().misses == 2);
}

TEST_CASE("a callback that throws ends nothing, and is told at the end") {
    const auto opened = engine("null");
    const std::vector<std::uint8_t> pixels(WIDTH * HEIGHT * 3);
    int calls = 0;
    edgekd::Stream stream(opened, edgekd::Policy::queue, [&](const edgekd::Answer &) {
        ++calls;
        throw std::runtime_error("thrown");
    });
    stream.submit({pixels.data(), WIDTH, HEIGHT});
    stream.submit({pixels.data(), WIDTH, HEIGHT});
    CHECK_THROWS_WITH(stream.finish(), "thrown");
    CHECK(calls == 2);
    CHECK_THROWS_AS(stream.submit({pixels.data(), WIDTH, HEIGHT}), std::logic_error);
    stream.finish();  // a second time does nothing
}

TEST_CASE("a frame that cannot be taken is refused where it is submitted") {
    const auto opened = engine("null");
    edgekd::Stream stream(opened, edgekd::Policy::queue, [](const edgekd::Answer &) {});
    CHECK_THROWS_AS(stream.submit({nullptr, WIDTH, HEIGHT}), std::invalid_argument);
    const std::vector<std::uint8_t> pixels(WIDTH * HEIGHT * 3);
    CHECK_THROWS_AS(stream.submit({pixels.data(), WIDTH, HEIGHT, 3, EDGEKD_RGB, 7}), std::invalid_argument);
    CHECK_THROWS_AS(stream.submit({pixels.data(), 1u << 31, 1u << 31, 4}), std::invalid_argument);
}

TEST_CASE("a callback that would wait for itself is told") {
    const auto opened = engine("null");
    const std::vector<std::uint8_t> pixels(WIDTH * HEIGHT * 3);
    edgekd::Stream *self = nullptr;
    edgekd::Stream stream(opened, edgekd::Policy::queue, [&](const edgekd::Answer &) {
        self->submit({pixels.data(), WIDTH, HEIGHT});
    });
    self = &stream;
    stream.submit({pixels.data(), WIDTH, HEIGHT});
    CHECK_THROWS_AS(stream.finish(), std::logic_error);
}
