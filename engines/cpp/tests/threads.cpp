// threads BUNDLE TARGET PRECISION THREADS RUNS: contexts that run at once give what one gives alone.
#include <edgekd/edgekd.hpp>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <thread>
#include <vector>

int main(int count, char **words) try {
    if (count != 6) return 2;
    const auto threads = static_cast<std::uint32_t>(std::atoi(words[4]));
    const int runs = std::atoi(words[5]);
    edgekd::Options options;
    options.target = words[2];
    options.precision = words[3];
    options.streams = threads;
    auto engine = edgekd::Engine::open(words[1], options);
    constexpr std::size_t IMAGES = 16;
    constexpr std::uint32_t WIDTH = 40, HEIGHT = 30;
    std::mt19937 random(3);
    std::vector<std::vector<std::uint8_t>> images(IMAGES, std::vector<std::uint8_t>(WIDTH * HEIGHT * 3));
    for (auto &image : images) {
        for (auto &pixel : image) pixel = static_cast<std::uint8_t>(random());
    }
    std::vector<std::vector<float>> alone;
    for (const auto &image : images) {
        const auto output = engine.run({image.data(), WIDTH, HEIGHT});
        alone.emplace_back(output.begin(), output.end());
    }
    std::atomic<long> wrong{0};
    std::vector<std::thread> all;
    for (std::uint32_t thread = 0; thread < threads; ++thread) {
        all.emplace_back([&, thread] {
            auto context = engine.context();
            for (int run = 0; run < runs; ++run) {
                const std::size_t place = (static_cast<std::size_t>(run) * 7 + thread) % IMAGES;
                const auto output = context.run({images[place].data(), WIDTH, HEIGHT});
                if (std::memcmp(output.data(), alone[place].data(), output.size() * sizeof(float)) != 0) ++wrong;
            }
        });
    }
    for (auto &each : all) each.join();
    const auto stats = engine.stats();
    const auto expected = IMAGES + static_cast<std::uint64_t>(threads) * static_cast<std::uint64_t>(runs);
    std::cout << stats.count << " runs, " << wrong << " wrong\n";
    return wrong == 0 && stats.count == expected ? 0 : 1;
} catch (const edgekd::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
