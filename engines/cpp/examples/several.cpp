// several BUNDLE...: each bundle's engine in two threads, all at once.
#include <edgekd/edgekd.hpp>

#include <iostream>
#include <thread>
#include <vector>

int main(int count, char **words) try {
    if (count < 2) {
        std::cerr << "usage: several BUNDLE...\n";
        return 2;
    }
    constexpr int THREADS = 2, RUNS = 200;
    edgekd::Options options;
    options.streams = THREADS;
    std::vector<edgekd::Engine> engines;
    for (int place = 1; place < count; ++place) engines.push_back(edgekd::Engine::open(words[place], options));
    std::vector<std::thread> threads;
    for (auto &engine : engines) {
        for (int thread = 0; thread < THREADS; ++thread) {
            threads.emplace_back([context = engine.context()]() mutable {
                for (int run = 0; run < RUNS; ++run) context.run();  // what its input holds: fill it first
            });
        }
    }
    for (auto &thread : threads) thread.join();
    for (const auto &engine : engines) {
        const auto stats = engine.stats();
        std::cout << engine.info().name << ": " << stats.count << " runs, p50 "
                  << static_cast<double>(stats.p50_ns) / 1e3 << " µs\n";
    }
    return 0;
} catch (const edgekd::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
