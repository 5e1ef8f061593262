// The parts of the library that need no bundle.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "../src/error.hpp"
#include "../src/files.hpp"
#include "../src/image.hpp"
#include "../src/npy.hpp"
#include "../src/tally.hpp"

#include <cmath>
#include <random>
#include <thread>
#include <vector>

using namespace edgekd::core;

TEST_CASE("sha256 gives FIPS 180-2's examples") {
    CHECK(sha256("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(sha256("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST_CASE("a path stays inside a bundle") {
    for (const char *each : {"a", "engines/cpu/int8.onnx", "..a/b..", "a/...", "ä/ö"}) {
        CAPTURE(each);
        CHECK(is_inside(each));
    }
    for (const char *each : {"", "/a", "../a", "a/../b", "a/..", ".", "./a", "a//b", "a/", "a\\b", "a\nb"}) {
        CAPTURE(each);
        CHECK_FALSE(is_inside(each));
    }
    CHECK_FALSE(is_inside(std::string_view("a\0b", 3)));
    CHECK(is_inside(std::string(4096, 'a')));
    CHECK_FALSE(is_inside(std::string(4097, 'a')));
}

TEST_CASE("a bucket's middle is within 1.6 % of what fell into it") {
    std::mt19937_64 random(7);
    for (int exponent = 0; exponent < 62; ++exponent) {
        for (int draw = 0; draw < 200; ++draw) {
            const std::uint64_t value = (std::uint64_t{1} << exponent) + (random() & ((std::uint64_t{1} << exponent) - 1));
            const double found = static_cast<double>(value_of(bucket_of(value))), wanted = static_cast<double>(value);
            REQUIRE(std::fabs(found - wanted) <= wanted / 64);
        }
    }
    for (std::uint64_t value = 0; value < 5000; ++value) REQUIRE(bucket_of(value + 1) - bucket_of(value) <= 1);
    CHECK(bucket_of(UINT64_MAX) == BUCKETS - 1);
}

TEST_CASE("quantiles and misses of known times") {
    Tally tally;
    CHECK(tally.quantiles().count == 0);
    CHECK(tally.quantiles().p99 == 0);
    for (std::uint64_t value = 1; value <= 60; ++value) tally.add(value, 50);
    CHECK(tally.quantiles().count == 60);
    CHECK(tally.quantiles().p50 == 30);
    CHECK(tally.quantiles().p99 == 60);
    CHECK(tally.misses() == 10);
    tally.add(1'000'000, 0);
    CHECK(tally.misses() == 10);
}

TEST_CASE("threads that add at once lose nothing") {
    Tally tally;
    std::vector<std::thread> threads;
    for (int each = 0; each < 4; ++each) {
        threads.emplace_back([&] {
            for (std::uint64_t value = 0; value < 10'000; ++value) tally.add(value, 4'999);
        });
    }
    for (auto &each : threads) each.join();
    CHECK(tally.quantiles().count == 40'000);
    CHECK(tally.misses() == 20'000);
}

TEST_CASE("the crop is the middle, of the model's aspect ratio") {
    const auto same = [](Box a, Box b) {
        return a.left == b.left && a.top == b.top && a.width == b.width && a.height == b.height;
    };
    CHECK(same(crop_box(640, 480, 224, 224, std::nullopt), {0, 0, 640, 480}));
    CHECK(same(crop_box(640, 480, 224, 224, 1.0), {80, 0, 480, 480}));
    CHECK(same(crop_box(480, 640, 224, 224, 0.875), {30, 110, 420, 420}));
    CHECK(same(crop_box(3, 100, 224, 224, 0.001), {1, 49, 1, 1}));
    CHECK(same(crop_box(65535, 1, 1, 65535, 1.0), {32767, 0, 1, 1}));
}

TEST_CASE("the shares of an output pixel make one") {
    for (const auto &[in, out] : {std::pair{640, 224}, {3, 7}, {1, 9}, {9, 1}, {1000, 3}}) {
        const Weights weights(in, out);
        for (std::size_t place = 0; place < static_cast<std::size_t>(out); ++place) {
            std::int64_t sum = 0;
            for (int tap = 0; tap < weights.counts[place]; ++tap) {
                sum += weights.factors[place * static_cast<std::size_t>(weights.taps) + static_cast<std::size_t>(tap)];
            }
            CHECK(std::llabs(sum - (1 << 22)) <= weights.taps);
            CHECK(weights.begins[place] >= 0);
            CHECK(weights.begins[place] + weights.counts[place] <= in);
        }
    }
}

TEST_CASE("an array file is read, and nothing else is") {
    const std::string header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3), }";
    const auto file = [](std::string text, std::string data) {
        text.resize(118, ' ');
        text.back() = '\n';
        return std::string("\x93NUMPY\x01\x00", 8) + static_cast<char>(118) + '\0' + text + data;
    };
    const std::string good = file(header, "abcdef");
    const Array found = read_npy(good, "|u1", "x");
    CHECK(found.shape == std::vector<std::int64_t>{2, 3});
    CHECK(found.count == 6);
    CHECK(found.data[5] == 'f');
    for (const std::string &bad : {
             std::string(), good.substr(0, 9), good.substr(0, 60), good.substr(0, good.size() - 1), good + "g",
             file("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "abcdef"),
             file("{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }", "abcdef"),
             file("{'descr': '|u1', 'fortran_order': False, 'shape': (2, -3), }", "abcdef"),
             file("{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", ""),
             file("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3", "abcdef"),
         }) {
        CAPTURE(bad);
        CHECK_THROWS_AS(read_npy(bad, "|u1", "x"), Failure);
    }
}
