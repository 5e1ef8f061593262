// classify BUNDLE IMAGE...: what each image file shows. A photograph that is turned by its EXIF alone
// is taken as it lies.
#include <edgekd/edgekd.hpp>

#define STB_IMAGE_IMPLEMENTATION
#include <stb/stb_image.h>

#include <iostream>
#include <memory>

int main(int count, char **words) try {
    if (count < 3) {
        std::cerr << "usage: classify BUNDLE IMAGE...\n";
        return 2;
    }
    auto engine = edgekd::Engine::open(words[1]);
    for (int place = 2; place < count; ++place) {
        int width = 0, height = 0, found = 0;
        const std::unique_ptr<stbi_uc, void (*)(void *)> pixels(
            stbi_load(words[place], &width, &height, &found, 3), stbi_image_free);
        if (pixels == nullptr) {
            std::cerr << words[place] << ": " << stbi_failure_reason() << '\n';
            return 1;
        }
        const auto logits = engine.run(
            {pixels.get(), static_cast<std::uint32_t>(width), static_cast<std::uint32_t>(height)});
        std::cout << words[place] << ": " << engine.label(logits.best()) << '\n';
    }
    return 0;
} catch (const edgekd::Error &error) {
    std::cerr << error.what() << '\n';
    return 1;
}
