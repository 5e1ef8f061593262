// outputs BUNDLE TARGET PRECISION WIDTH HEIGHT CHANNELS ORDER BATCH: reads images from its input,
// one after the other, and writes the first output for each, as the machine keeps numbers.
#include <edgekd/edgekd.hpp>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

int main(int count, char **words) try {
    if (count != 9) return 2;
    edgekd::Options options;
    options.target = words[2];
    options.precision = words[3];
    const auto number = [&](int place) { return static_cast<std::uint32_t>(std::atoi(words[place])); };
    const std::uint32_t width = number(4), height = number(5), channels = number(6), batch = number(8);
    const edgekd_order order = std::strcmp(words[7], "BGR") == 0 ? EDGEKD_BGR : EDGEKD_RGB;
    options.max_batch = batch;
    auto engine = edgekd::Engine::open(words[1], options);
    const std::size_t size = std::size_t{width} * height * channels;
    std::vector<std::uint8_t> pixels(size * batch);
    std::vector<edgekd::Image> images(batch);
    for (;;) {
        const std::size_t read = std::fread(pixels.data(), 1, pixels.size(), stdin) / size;
        if (read == 0) break;
        for (std::size_t index = 0; index < read; ++index) {
            images[index] = {pixels.data() + index * size, width, height, channels, order};
        }
        const auto output = engine.run(images.data(), read);
        std::fwrite(output.data(), sizeof(float), output.size(), stdout);
    }
    return 0;
} catch (const edgekd::Error &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
