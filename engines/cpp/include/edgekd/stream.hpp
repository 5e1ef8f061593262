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
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
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

// Calls back in its own thread, a frame at a time. One thread submits, and ends it; the callback does
// neither. What the engine counts is from submit to answer; frames that were dropped, or that the
// runtime failed at, are misses.
class Stream {
public:
    using Clock = std::chrono::steady_clock;

    struct Counts {
        std::uint64_t answered = 0, failed = 0, dropped = 0;
        std::uint64_t late = 0;  // of those that were answered: after the engine's deadline
    };

    Stream(const Engine &engine, Policy policy, std::function<void(const Answer &)> answered, std::size_t depth = 1)
        : engine_(engine), context_(engine.context()), policy_(policy), answered_(std::move(answered)),
          depth_(depth < 1 || policy == Policy::skip ? 1 : depth), deadline_(engine.info().deadline_ns),
          thread_([this] { work(); }) {}

    // Its engine must outlive it. As `finish`, but for what the callback has thrown, of which nobody hears then.
    ~Stream() { end(); }
    Stream(const Stream &) = delete;
    Stream &operator=(const Stream &) = delete;

    // Returns when all that waits has been answered. Throws what the callback has thrown first.
    void finish() {
        refuse_own_thread();
        end();
        if (thrown_ != nullptr) std::rethrow_exception(std::exchange(thrown_, nullptr));
    }

    // Copies a frame and gives it a number; returns while it waits. Numbers are given to frames
    // that are dropped too, whose callback never comes.
    std::uint64_t submit(const Image &image) {
        const auto now = Clock::now();
        constexpr std::uint32_t LONGEST_SIDE = 65535, MOST_CHANNELS = 64;
        const std::size_t row = std::size_t{image.width} * image.channels;
        const std::size_t stride = image.stride != 0 ? image.stride : row;
        if (image.data == nullptr || image.width > LONGEST_SIDE || image.height > LONGEST_SIDE ||
            image.channels > MOST_CHANNELS || stride < row) {
            throw std::invalid_argument(
                "the frame has no data, a side of more than 65535, or a stride that is less than a row");
        }
        refuse_own_thread();
        std::unique_lock<std::mutex> held(lock_);
        if (ended_) throw std::logic_error("the stream has ended");
        const std::uint64_t number = next_++;
        if (policy_ == Policy::skip && (busy_ || !waiting_.empty())) {
            drop();
            return number;
        }
        if (policy_ == Policy::queue) changed_.wait(held, [&] { return waiting_.size() < depth_; });
        Frame frame{number, now, image, {}};
        if (!spare_.empty()) {
            frame.pixels = std::move(spare_.back());
            spare_.pop_back();
        }
        held.unlock();
        frame.pixels.resize(row * image.height);
        for (std::size_t y = 0; y < image.height; ++y) {
            std::memcpy(frame.pixels.data() + y * row, image.data + y * stride, row);
        }
        frame.image.stride = 0;
        held.lock();
        if (waiting_.size() >= depth_) {
            drop();
            spare_.push_back(std::move(waiting_.front().pixels));
            waiting_.pop_front();
        }
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

    void refuse_own_thread() const {
        if (std::this_thread::get_id() == thread_.get_id()) {
            throw std::logic_error("a stream's callback would wait for itself: let another thread submit");
        }
    }

    void drop() {
        ++counts_.dropped;
        check(edgekd_engine_drop(engine_.handle()));
    }

    void end() {
        {
            const std::lock_guard<std::mutex> held(lock_);
            ended_ = true;
        }
        changed_.notify_all();
        if (thread_.joinable()) thread_.join();
    }

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
                const auto since = frame.due.time_since_epoch();  // steady_clock is CLOCK_MONOTONIC on Linux
                answer.output = context_.answer(
                    frame.image, static_cast<std::uint64_t>(std::chrono::nanoseconds(since).count()));
            } catch (const Error &error) {
                answer.error = error.what();
            }
            answer.latency = Clock::now() - frame.due;
            try {
                answered_(answer);  // while the output is there
            } catch (...) {
                if (thrown_ == nullptr) thrown_ = std::current_exception();
            }
            held.lock();
            busy_ = false;
            if (answer.error.empty()) {
                ++counts_.answered;
                counts_.late += deadline_ != 0 && static_cast<std::uint64_t>(answer.latency.count()) > deadline_;
            } else {
                ++counts_.failed;
                edgekd_engine_drop(engine_.handle());  // nobody got an answer
            }
            spare_.push_back(std::move(frame.pixels));
        }
    }

    const Engine &engine_;
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
    std::exception_ptr thrown_;  // by the callback; of the thread until it has ended
    std::thread thread_;  // the last, since it uses the others
};

}  // namespace edgekd
