// camera BUNDLE FPS SECONDS: a camera that sends a frame each period, an engine that answers the
// newest, and how many answers came too late. Put your camera's frames where `pixels` are made.
#include <edgekd/stream.hpp>

#include <cstdlib>
#include <iostream>
#include <thread>
#include <vector>

int main(int count, char **words) try {
    if (count != 4) {
        std::cerr << "usage: camera BUNDLE FPS SECONDS\n";
        return 2;
    }
    const double fps = std::atof(words[2]), seconds = std::atof(words[3]);
    if (!(fps > 0 && seconds > 0)) {
        std::cerr << "FPS and SECONDS are numbers above 0\n";
        return 2;
    }
    edgekd::Options options;
    options.deadline_ms = 1000 / fps;
    const auto engine = edgekd::Engine::open(words[1], options);
    constexpr std::uint32_t WIDTH = 640, HEIGHT = 480;
    std::vector<std::uint8_t> pixels(WIDTH * HEIGHT * 3);
    const auto period = std::chrono::nanoseconds(static_cast<long long>(1e9 / fps));
    edgekd::Stream::Counts counts;
    {
        edgekd::Stream stream(engine, edgekd::Policy::drop_oldest, [&](const edgekd::Answer &answer) {
            if (!answer.error.empty()) std::cerr << answer.error << '\n';
        });
        auto due = edgekd::Stream::Clock::now();
        for (long frame = 0; frame < static_cast<long>(fps * seconds); ++frame) {
            std::this_thread::sleep_until(due += period);
            std::fill(pixels.begin(), pixels.end(), static_cast<std::uint8_t>(frame));
            stream.submit({pixels.data(), WIDTH, HEIGHT});
        }
        stream.finish();
        counts = stream.counts();
    }
    const auto stats = engine.stats();
    std::cout << counts.answered << " answered, " << counts.dropped << " dropped, " << counts.late
              << " late; with preprocessing p50 " << static_cast<double>(stats.p50_ns) / 1e6 << " ms, p99 "
              << static_cast<double>(stats.p99_ns) / 1e6 << " ms\n";
    return 0;
} catch (const edgekd::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
