// soak BUNDLE TARGET PRECISION RUNS OPENS: tells how much resident memory grows, in bytes, over so
// many inferences and over so many times that the engine is opened, run once and closed.
#include <edgekd/edgekd.hpp>

#include <malloc.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

long resident() {
    malloc_trim(0);  // what is free may stay with the allocator, which is no growth
    long pages = 0;
    if (std::FILE *file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%*d %ld", &pages) != 1) pages = 0;
        std::fclose(file);
    }
    return pages * sysconf(_SC_PAGESIZE);
}

}  // namespace

int main(int count, char **words) try {
    if (count != 6) return 2;
    edgekd::Options options;
    options.target = words[2];
    options.precision = words[3];
    const long runs = std::atol(words[4]), opens = std::atol(words[5]);
    const std::vector<std::uint8_t> pixels(64 * 48 * 3, 128);
    const edgekd::Image image{pixels.data(), 64, 48};
    long before = 0, ran = 0;
    {
        auto engine = edgekd::Engine::open(words[1], options);
        for (long run = 0; run < runs / 100 + 10; ++run) engine.run(image);
        before = resident();
        for (long run = 0; run < runs; ++run) engine.run(image);
        ran = resident() - before;
    }
    for (long open = 0; open < opens / 10 + 3; ++open) edgekd::Engine::open(words[1], options).run(image);
    before = resident();
    for (long open = 0; open < opens; ++open) edgekd::Engine::open(words[1], options).run(image);
    std::printf("{\"runs\": %ld, \"opens\": %ld}\n", ran, resident() - before);
    return 0;
} catch (const edgekd::Error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
