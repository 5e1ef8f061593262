#include "image.hpp"

#include "error.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

namespace edgekd::core {
namespace {

constexpr int PRECISION_BITS = 22;
constexpr std::int32_t HALF = 1 << (PRECISION_BITS - 1);
constexpr std::uint32_t LONGEST_SIDE = 65535;

std::uint8_t clipped(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> PRECISION_BITS, 0, 255));
}

double triangle(double x) { return std::max(0.0, 1.0 - std::fabs(x)); }

// Pillow's convert("L"): ITU-R 601-2 luma in 16 bits.
std::uint8_t luma(int red, int green, int blue) {
    return static_cast<std::uint8_t>((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
}

// One row along its length; CHANNELS is 0 where their number is known at run time alone.
template <std::size_t CHANNELS>
void narrow(const Weights &across, const std::uint8_t *pixels, std::uint8_t *to, std::size_t channels) {
    if (CHANNELS != 0) channels = CHANNELS;
    constexpr std::size_t AT_ONCE = CHANNELS != 0 ? CHANNELS : 1;
    for (std::size_t x = 0; x < across.begins.size(); ++x) {
        const std::int32_t *factors = &across.factors[x * static_cast<std::size_t>(across.taps)];
        const std::uint8_t *from = pixels + static_cast<std::size_t>(across.begins[x]) * channels;
        const auto count = static_cast<std::size_t>(across.counts[x]);
        for (std::size_t first = 0; first < channels; first += AT_ONCE) {
            std::int32_t sums[AT_ONCE];
            std::fill_n(sums, AT_ONCE, HALF);
            for (std::size_t tap = 0; tap < count; ++tap) {
                for (std::size_t each = 0; each < AT_ONCE; ++each) {
                    sums[each] += from[tap * channels + first + each] * factors[tap];
                }
            }
            for (std::size_t each = 0; each < AT_ONCE; ++each) *to++ = clipped(sums[each]);
        }
    }
}

std::string by(std::uint64_t height, std::uint64_t width) {
    return std::to_string(height) + "×" + std::to_string(width);
}

}  // namespace

Weights::Weights(int in, int out) {
    const double scale = static_cast<double>(in) / out;
    const double filter_scale = std::max(scale, 1.0);
    const double support = filter_scale;
    const double shrink = 1.0 / filter_scale;
    taps = static_cast<int>(std::ceil(support)) * 2 + 1;
    begins.resize(static_cast<std::size_t>(out));
    counts.resize(static_cast<std::size_t>(out));
    factors.assign(static_cast<std::size_t>(out) * static_cast<std::size_t>(taps), 0);
    std::vector<double> shares(static_cast<std::size_t>(taps));
    for (int place = 0; place < out; ++place) {
        const double center = (place + 0.5) * scale;
        const int begin = std::max(0, static_cast<int>(center - support + 0.5));
        const int count = std::min(in, static_cast<int>(center + support + 0.5)) - begin;
        double sum = 0;
        for (int tap = 0; tap < count; ++tap) {
            const double share = triangle((tap + begin - center + 0.5) * shrink);
            shares[static_cast<std::size_t>(tap)] = share;
            sum += share;
        }
        const auto at = static_cast<std::size_t>(place);
        begins[at] = begin;
        counts[at] = count;
        for (int tap = 0; tap < count; ++tap) {
            double share = shares[static_cast<std::size_t>(tap)];
            if (sum != 0.0) share /= sum;
            factors[at * static_cast<std::size_t>(taps) + static_cast<std::size_t>(tap)] =
                static_cast<std::int32_t>(0.5 + share * (1 << PRECISION_BITS));
        }
    }
}

Box crop_box(int width, int height, int to_width, int to_height, const std::optional<double> &crop) {
    if (!crop) return {0, 0, width, height};
    const std::int64_t wide = width, high = height, w = to_width, h = to_height;
    std::int64_t box_width = wide, box_height = high;
    if (wide * h > high * w) {
        box_width = (2 * high * w + h) / (2 * h);
    } else {
        box_height = (2 * wide * h + w) / (2 * w);
    }
    const auto part = [&](std::int64_t side) {
        const double kept = std::floor(static_cast<double>(side) * *crop + 0.5);
        return std::max<std::int64_t>(1, static_cast<std::int64_t>(kept));
    };
    box_width = part(box_width);
    box_height = part(box_height);
    return {static_cast<int>((wide - box_width) / 2), static_cast<int>((high - box_height) / 2),
            static_cast<int>(box_width), static_cast<int>(box_height)};
}

Preparer::Preparer(const Preprocessing &preprocessing, const Tensor &input)
    : last_(preprocessing.layout == "NHWC"), color_(preprocessing.color), crop_(preprocessing.crop) {
    if (input.shape.size() != 4 || input.type() != EDGEKD_FLOAT32) {
        refuse("the input '" + input.name + "' is no image of float32: give it tensors");
    }
    const std::int64_t high = input.shape[last_ ? 1 : 2], wide = input.shape[last_ ? 2 : 3];
    if (high < 1 || wide < 1 || high > LONGEST_SIDE || wide > LONGEST_SIDE) {
        refuse("the input '" + input.name + "' has no fixed size: give it tensors");
    }
    width_ = static_cast<int>(wide);
    height_ = static_cast<int>(high);
    channels_ = static_cast<int>(preprocessing.mean.size());
    for (int channel = 0; channel < channels_; ++channel) {
        const auto at = static_cast<std::size_t>(channel);
        const auto deviation = static_cast<float>(preprocessing.std[at]);
        const auto mean = static_cast<float>(preprocessing.mean[at]);
        const float scale = static_cast<float>(1.0 / 255.0) / deviation;
        const float shift = mean / deviation;
        std::array<float, 256> table{};
        for (int pixel = 0; pixel < 256; ++pixel) {
            const float scaled = static_cast<float>(pixel) * scale;  // rounded before the next step
            table[static_cast<std::size_t>(pixel)] = scaled - shift;
        }
        tables_.push_back(table);
    }
    const std::size_t row = static_cast<std::size_t>(width_) * static_cast<std::size_t>(channels_);
    whole_.resize(row * static_cast<std::size_t>(height_));
    sums_.resize(row);
}

void Preparer::check(const edgekd_image &image) const {
    if (image.data == nullptr) refuse("the image has no data");
    if (image.width < 1 || image.height < 1 || image.width > LONGEST_SIDE ||
        image.height > LONGEST_SIDE) {
        refuse("the image is " + by(image.height, image.width) + ": a side is 1 to 65535 pixels");
    }
    const auto own = static_cast<std::uint32_t>(channels_);
    const bool colours = color_ && (image.channels == 1 || image.channels == 3);
    if (!colours && image.channels != own) {
        refuse("the image has " + std::to_string(image.channels) + " channels, and the model takes " +
               std::to_string(own) + (image.channels == 4 ? ": leave out its alpha" : ""));
    }
    if (image.order != EDGEKD_RGB && image.order != EDGEKD_BGR) {
        refuse("the image's order is neither EDGEKD_RGB nor EDGEKD_BGR");
    }
    if (image.stride != 0 && image.stride < std::size_t{image.width} * image.channels) {
        refuse("the image's stride of " + std::to_string(image.stride) + " bytes is less than a row");
    }
}

const Preparer::Way &Preparer::way(int width, int height) {
    ++turn_;
    Way *oldest = &ways_[0];
    for (Way &each : ways_) {
        if (each.width == width && each.height == height) {
            each.used = turn_;
            return each;
        }
        if (each.used < oldest->used) oldest = &each;
    }
    Way made;
    made.box = crop_box(width, height, width_, height_, crop_);
    if (made.box.width != width_) made.across = Weights(made.box.width, width_);
    if (made.box.height != height_) made.down = Weights(made.box.height, height_);
    const auto channels = static_cast<std::size_t>(channels_);
    const std::size_t row = static_cast<std::size_t>(made.box.width) * channels;
    const std::size_t rows = static_cast<std::size_t>(made.box.height);
    if (colours_.size() < row) colours_.resize(row);
    if (middle_.size() < rows * static_cast<std::size_t>(width_) * channels) {
        middle_.resize(rows * static_cast<std::size_t>(width_) * channels);
    }
    made.width = width;
    made.height = height;
    made.used = turn_;
    *oldest = std::move(made);
    return *oldest;
}

// The used part of a row, in the model's colours.
const std::uint8_t *Preparer::row(const edgekd_image &image, const Box &box, int y) {
    const std::size_t stride =
        image.stride != 0 ? image.stride : std::size_t{image.width} * image.channels;
    const std::uint8_t *pixels = image.data + stride * static_cast<std::size_t>(box.top + y) +
                                 std::size_t{image.channels} * static_cast<std::size_t>(box.left);
    const bool swapped = image.channels == 3 && image.order == EDGEKD_BGR && color_;
    if (static_cast<int>(image.channels) == channels_ && !swapped) return pixels;
    std::uint8_t *to = colours_.data();
    const int first = swapped ? 2 : 0, third = 2 - first;
    for (int x = 0; x < box.width; ++x, pixels += image.channels) {
        if (channels_ == 1) {
            *to++ = luma(pixels[first], pixels[1], pixels[third]);
        } else if (image.channels == 1) {
            to = std::fill_n(to, 3, *pixels);
        } else {
            *to++ = pixels[first];
            *to++ = pixels[1];
            *to++ = pixels[third];
        }
    }
    return colours_.data();
}

void Preparer::prepare(const edgekd_image &image, float *sample) {
    check(image);
    const auto &[width, height, used, box, across, down] =
        way(static_cast<int>(image.width), static_cast<int>(image.height));
    const auto channels = static_cast<std::size_t>(channels_);
    const std::size_t row_bytes = static_cast<std::size_t>(width_) * channels;
    for (int y = 0; y < box.height; ++y) {
        const std::uint8_t *pixels = row(image, box, y);
        std::uint8_t *to = middle_.data() + row_bytes * static_cast<std::size_t>(y);
        if (across.taps == 0) {
            std::memcpy(to, pixels, row_bytes);
            continue;
        }
        switch (channels) {  // a number that the compiler knows makes one and three channels fast
            case 1: narrow<1>(across, pixels, to, channels); break;
            case 3: narrow<3>(across, pixels, to, channels); break;
            default: narrow<0>(across, pixels, to, channels);
        }
    }
    const std::uint8_t *finished = middle_.data();
    if (down.taps != 0) {
        for (std::size_t y = 0; y < static_cast<std::size_t>(height_); ++y) {
            std::fill(sums_.begin(), sums_.end(), HALF);
            for (int tap = 0; tap < down.counts[y]; ++tap) {
                const std::uint8_t *from =
                    middle_.data() + row_bytes * static_cast<std::size_t>(down.begins[y] + tap);
                const std::int32_t factor =
                    down.factors[y * static_cast<std::size_t>(down.taps) + static_cast<std::size_t>(tap)];
                for (std::size_t x = 0; x < row_bytes; ++x) sums_[x] += from[x] * factor;
            }
            std::transform(sums_.begin(), sums_.end(), whole_.begin() + static_cast<std::ptrdiff_t>(y * row_bytes), clipped);
        }
        finished = whole_.data();
    }
    const std::size_t pixels = static_cast<std::size_t>(width_) * static_cast<std::size_t>(height_);
    for (std::size_t channel = 0; channel < channels; ++channel) {
        const auto &table = tables_[channel];
        float *to = last_ ? sample + channel : sample + channel * pixels;
        const std::size_t step = last_ ? channels : 1;
        for (std::size_t place = 0; place < pixels; ++place) {
            to[place * step] = table[finished[place * channels + channel]];
        }
    }
}

void Preparer::normalise(const std::uint8_t *planes, float *sample) const {
    const auto channels = static_cast<std::size_t>(channels_);
    const std::size_t pixels = static_cast<std::size_t>(width_) * static_cast<std::size_t>(height_);
    for (std::size_t channel = 0; channel < channels; ++channel) {
        const auto &table = tables_[channel];
        float *to = last_ ? sample + channel : sample + channel * pixels;
        const std::size_t step = last_ ? channels : 1;
        for (std::size_t place = 0; place < pixels; ++place) {
            to[place * step] = table[planes[channel * pixels + place]];
        }
    }
}

}  // namespace edgekd::core
