// From an image of any size to a model's input, bit for bit as training and calibration saw it.
#pragma once

#include "manifest.hpp"

#include <edgekd/edgekd.h>

#include <array>
#include <cstdint>
#include <vector>

namespace edgekd::core {

// Which share each input pixel has in each output pixel along one axis: Pillow's bilinear filter
// with antialias, in fixed point (Pillow, src/libImaging/Resample.c).
struct Weights {
    int taps = 0;
    std::vector<int> begins;            // of each output pixel: the first input pixel
    std::vector<int> counts;            // and how many
    std::vector<std::int32_t> factors;  // taps for each output pixel, of 2^22

    Weights() = default;
    Weights(int in, int out);
};

struct Box {
    int left, top, width, height;
};

// The part of an image that is used: its middle, of the model's aspect ratio, or all of it.
Box crop_box(int width, int height, int to_width, int to_height, const std::optional<double> &crop);

// Brings images to one model's input. Of one thread; keeps tables for the sizes that it saw last.
class Preparer {
public:
    // Throws EDGEKD_ARGUMENT where the model's input is no image.
    Preparer(const Preprocessing &preprocessing, const Tensor &input);

    // An image into the place of one sample, float32. Throws EDGEKD_ARGUMENT for an image that
    // cannot be taken.
    void prepare(const edgekd_image &image, float *sample);

    // Pixels that have the model's size already, channel by channel, as golden images are kept.
    void normalise(const std::uint8_t *planes, float *sample) const;

    int width() const { return width_; }
    int height() const { return height_; }
    int channels() const { return channels_; }

private:
    void check(const edgekd_image &image) const;
    // What is to be done with images of a size.
    struct Way {
        int width = 0, height = 0;  // of the image
        std::uint64_t used = 0;     // when it was last
        Box box{};
        Weights across, down;
    };

    const Way &way(int width, int height);
    const std::uint8_t *row(const edgekd_image &image, const Box &box, int y);

    int width_ = 0, height_ = 0, channels_ = 0;
    bool last_ = false;  // channels are the last axis
    std::optional<std::string> color_;
    std::optional<double> crop_;
    std::vector<std::array<float, 256>> tables_;  // a channel each: what a pixel becomes

    std::array<Way, 4> ways_;
    std::uint64_t turn_ = 0;
    std::vector<std::uint8_t> colours_;  // a row in the model's colours
    std::vector<std::uint8_t> middle_;   // all rows, as wide as the model's input
    std::vector<std::int32_t> sums_;     // of one row
    std::vector<std::uint8_t> whole_;    // as the model's input, before it is normalised
};

}  // namespace edgekd::core
