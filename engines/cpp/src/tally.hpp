// How long answers took: counts in log-linear buckets, added to by any number of threads.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

namespace edgekd::core {

// Below 64 ns a bucket each; above, 32 to each power of two, so that a value is told to 1.6 %.
constexpr int BUCKETS = 64 + 57 * 32;

inline int bucket_of(std::uint64_t nanoseconds) {
    if (nanoseconds < 64) return static_cast<int>(nanoseconds);
    const int exponent = 63 - __builtin_clzll(nanoseconds);
    if (exponent > 62) return BUCKETS - 1;
    return 64 + (exponent - 6) * 32 + static_cast<int>((nanoseconds >> (exponent - 5)) - 32);
}

// The middle of a bucket.
inline std::uint64_t value_of(int bucket) {
    if (bucket < 64) return static_cast<std::uint64_t>(bucket);
    const int exponent = (bucket - 64) / 32 + 6;
    const auto lower = static_cast<std::uint64_t>((bucket - 64) % 32 + 32) << (exponent - 5);
    return lower + (std::uint64_t{1} << (exponent - 5)) / 2;
}

class Tally {
public:
    // Takes no lock, and waits for nobody.
    void add(std::uint64_t nanoseconds, std::uint64_t deadline) {
        counts_[static_cast<std::size_t>(bucket_of(nanoseconds))].fetch_add(1, std::memory_order_relaxed);
        if (deadline != 0 && nanoseconds > deadline) misses_.fetch_add(1, std::memory_order_relaxed);
    }

    // A frame that was never answered.
    void drop() { misses_.fetch_add(1, std::memory_order_relaxed); }

    std::uint64_t misses() const { return misses_.load(std::memory_order_relaxed); }

    struct Quantiles {
        std::uint64_t count, p50, p99;
    };

    Quantiles quantiles() const {
        std::array<std::uint64_t, BUCKETS> counts;
        std::uint64_t count = 0;
        for (std::size_t place = 0; place < counts.size(); ++place) {
            count += counts[place] = counts_[place].load(std::memory_order_relaxed);
        }
        return {count, quantile(counts, count, 50), quantile(counts, count, 99)};
    }

private:
    static std::uint64_t quantile(
        const std::array<std::uint64_t, BUCKETS> &counts, std::uint64_t count, std::uint64_t percent) {
        if (count == 0) return 0;
        const std::uint64_t rank = (count / 100) * percent + ((count % 100) * percent + 99) / 100;
        std::uint64_t below = 0;
        int bucket = 0;
        while ((below += counts[static_cast<std::size_t>(bucket)]) < rank) ++bucket;
        return value_of(bucket);
    }

    std::array<std::atomic<std::uint64_t>, BUCKETS> counts_{};
    alignas(64) std::atomic<std::uint64_t> misses_{0};
};

}  // namespace edgekd::core
