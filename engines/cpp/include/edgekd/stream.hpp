// Frames of a camera, answered by a thread of their own; those that come too soon are dropped by
// one of the policies that `edgekd bench` measures with.
//
//     edgekd::Stream stream(engine, edgekd::Policy::drop_oldest, [&](const edgekd::Answer &answer) {
//         if (answer.error.empty()) show(answer.frame, answer.output.best());
//     });
//     while (camera.read(pixels)) stream.submit({pixels, width, height});
#pragma once

#include <edgekd/edgekd.hpp>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace edgekd {

enum class Policy {
    queue,        // every frame waits for its turn; one that finds the queue full waits to get in
    drop_oldest,  // a frame that finds the queue full takes the place of the oldest in it
    skip,         // a frame that comes while another is worked on is never seen
};

struct Answer {
    std::uint64_t frame;               // the number that `submit` gave
    Output output;                     // until the callback returns
    std::chrono::nanoseconds latency;  // from submit to answer
    std::string error;                 // what the runtime failed with; empty where it did not
};

// Calls back in its own thread, a frame at a time. Ends when what waits has been answered.
class Stream {
public:
    using Clock = std::chrono::steady_clock;

    struct Counts {
        std::uint64_t answered = 0, dropped = 0;
        std::uint64_t late = 0;  // answered after the engine's deadline; dropped frames are not in it
    };

    Stream(const Engine &engine, Policy policy, std::function<void(const Answer &)> answered, std::size_t depth = 1)
        : context_(engine.context()), policy_(policy), answered_(std::move(answered)),
          depth_(depth < 1 || policy == Policy::skip ? 1 : depth), deadline_(engine.info().deadline_ns),
          thread_([this] { work(); }) {}

    ~Stream() {
        {
            const std::lock_guard<std::mutex> held(lock_);
            ended_ = true;
        }
        changed_.notify_all();
        thread_.join();
    }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    // Copies a frame and gives it a number; returns while it waits. Numbers are given to frames
    // that are dropped too, whose callback never comes.
    std::uint64_t submit(const Image &image) {
        const auto now = Clock::now();
        std::unique_lock<std::mutex> held(lock_);
        const std::uint64_t number = next_++;
        if (policy_ == Policy::skip && (busy_ || !waiting_.empty())) {
            ++counts_.dropped;
            return number;
        }
        if (policy_ == Policy::queue) changed_.wait(held, [&] { return waiting_.size() < depth_; });
        if (waiting_.size() >= depth_) {
            ++counts_.dropped;
            spare_.push_back(std::move(waiting_.front().pixels));
            waiting_.pop_front();
        }
        Frame frame{number, now, image, {}};
        if (!spare_.empty()) {
            frame.pixels = std::move(spare_.back());
            spare_.pop_back();
        }
        const std::size_t row = std::size_t{image.width} * image.channels;
        const std::size_t stride = image.stride != 0 ? image.stride : row;
        frame.pixels.resize(row * image.height);
        for (std::size_t y = 0; y < image.height; ++y) {
            std::memcpy(frame.pixels.data() + y * row, image.data + y * stride, row);
        }
        frame.image.stride = 0;
        waiting_.push_back(std::move(frame));
        held.unlock();
        changed_.notify_all();
        return number;
    }

    Counts counts() const {
        const std::lock_guard<std::mutex> held(lock_);
        return counts_;
    }

private:
    struct Frame {
        std::uint64_t number;
        Clock::time_point due;
        Image image;
        std::vector<std::uint8_t> pixels;
    };

    void work() {
        for (;;) {
            std::unique_lock<std::mutex> held(lock_);
            changed_.wait(held, [&] { return ended_ || !waiting_.empty(); });
            if (waiting_.empty()) return;
            Frame frame = std::move(waiting_.front());
            waiting_.pop_front();
            busy_ = true;
            held.unlock();
            changed_.notify_all();
            frame.image.data = frame.pixels.data();
            Answer answer{frame.number, {nullptr, 0}, {}, {}};
            try {
                answer.output = context_.run(frame.image);
            } catch (const Error &error) {
                answer.error = error.what();
            }
            answer.latency = Clock::now() - frame.due;
            held.lock();
            busy_ = false;
            ++counts_.answered;
            counts_.late += deadline_ != 0 && static_cast<std::uint64_t>(answer.latency.count()) > deadline_;
            spare_.push_back(std::move(frame.pixels));
            held.unlock();
            answered_(answer);
        }
    }

    Context context_;
    Policy policy_;
    std::function<void(const Answer &)> answered_;
    std::size_t depth_;
    std::uint64_t deadline_;
    mutable std::mutex lock_;
    std::condition_variable changed_;
    std::deque<Frame> waiting_;
    std::vector<std::vector<std::uint8_t>> spare_;  // memory of frames that are done
    std::uint64_t next_ = 0;
    bool busy_ = false, ended_ = false;
    Counts counts_;
    std::thread thread_;  // the last, since it uses the others
};

}  // namespace edgekd
