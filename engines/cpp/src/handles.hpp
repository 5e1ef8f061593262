// Handles that can be checked: a number of a place in a table, and of who is there.
//
// A handle is never followed as a pointer. Places are used again and never given back, so that
// one that was closed, and one that never was, can be told from one that is open.
#pragma once

#include "error.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace edgekd::core {

// Handle is the opaque type, Object what it stands for, KIND tells tables apart.
template <class Handle, class Object, std::uint64_t KIND>
class Table {
    struct Place {
        // Twice the turn, which is odd while somebody is there, and one while a thread has him. A
        // handle of an earlier turn never fits, and so disturbs nobody.
        std::atomic<std::uint64_t> state{0};
        std::shared_ptr<Object> object;  // of the thread that has it
    };
    static constexpr std::uint64_t INDEX_BITS = 20, KIND_BITS = 4, CHUNK = 1024;
    static constexpr std::uint64_t MOST = std::uint64_t{1} << INDEX_BITS;
    static_assert(sizeof(void *) == 8, "handles need pointers of 64 bits");

public:
    // An object that a thread has alone, until this goes out of scope.
    class Lease {
    public:
        Lease(Lease &&other) noexcept
            : place_(std::exchange(other.place_, nullptr)), after_(other.after_) {}
        Lease(const Lease &) = delete;
        Lease &operator=(const Lease &) = delete;
        ~Lease() {
            if (place_ != nullptr) place_->state.store(after_, std::memory_order_release);
        }
        Object &operator*() const { return *place_->object; }
        Object *operator->() const { return place_->object.get(); }
        const std::shared_ptr<Object> &shared() const { return place_->object; }

    private:
        friend class Table;
        Lease(Place *place, std::uint64_t after) : place_(place), after_(after) {}
        Place *place_;
        std::uint64_t after_;  // the state that it leaves
    };

    Handle *add(std::shared_ptr<Object> object) {
        const std::lock_guard<std::mutex> held(lock_);
        std::uint64_t index;
        if (!free_.empty()) {
            index = free_.back();
            free_.pop_back();
        } else {
            index = count_;
            if (index >= MOST) throw std::bad_alloc();
            free_.reserve(index + 1);  // so that to close never needs memory
            auto &chunk = chunks_[index / CHUNK];
            if (chunk.load(std::memory_order_relaxed) == nullptr) {
                chunk.store(new std::array<Place, CHUNK>, std::memory_order_release);
            }
            ++count_;
        }
        Place &place = at(index);
        place.object = std::move(object);
        const std::uint64_t turn = place.state.load(std::memory_order_acquire) / 2 + 1;
        place.state.store(turn * 2, std::memory_order_release);
        return reinterpret_cast<Handle *>((turn << INDEX_BITS | index) << KIND_BITS | KIND);
    }

    // Takes a handle's object for this thread. Where another has it: EDGEKD_BUSY, or where `waits`,
    // it is waited for, which is for what is done in no time.
    Lease take(const Handle *handle, const char *what, bool waits) {
        if (handle == nullptr) refuse(std::string("the ") + what + " is a null pointer");
        const auto number = reinterpret_cast<std::uint64_t>(handle);
        const std::uint64_t turn = number >> (KIND_BITS + INDEX_BITS);
        Place *place = number % (1u << KIND_BITS) == KIND ? find(index_of(handle)) : nullptr;
        if (place == nullptr || turn % 2 == 0) closed(what);
        for (;;) {
            std::uint64_t state = turn * 2;
            if (place->state.compare_exchange_weak(
                    state, turn * 2 + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
                return Lease(place, turn * 2);
            }
            if (state / 2 != turn) closed(what);
            if (state % 2 == 1 && !waits) {
                throw Failure(EDGEKD_BUSY, std::string("another thread is using this ") + what);
            }
        }
    }

    // Ends a handle and gives what it stood for, which goes with the last who needs it.
    std::shared_ptr<Object> remove(const Handle *handle, const char *what, bool waits) {
        const std::lock_guard<std::mutex> held(lock_);
        Lease lease = take(handle, what, waits);
        lease.after_ += 2;
        free_.push_back(index_of(handle));
        return std::move(lease.place_->object);
    }

private:
    [[noreturn]] static void closed(const char *what) {
        throw Failure(EDGEKD_CLOSED, std::string("this ") + what + " was closed, or never was one");
    }

    static std::uint64_t index_of(const Handle *handle) {
        return reinterpret_cast<std::uint64_t>(handle) >> KIND_BITS & (MOST - 1);
    }

    Place &at(std::uint64_t index) {
        return (*chunks_[index / CHUNK].load(std::memory_order_acquire))[index % CHUNK];
    }

    Place *find(std::uint64_t index) {
        auto *chunk = chunks_[index / CHUNK].load(std::memory_order_acquire);
        return chunk != nullptr ? &(*chunk)[index % CHUNK] : nullptr;
    }

    std::mutex lock_;
    std::uint64_t count_ = 0;
    std::vector<std::uint64_t> free_;
    std::array<std::atomic<std::array<Place, CHUNK> *>, MOST / CHUNK> chunks_{};
};

}  // namespace edgekd::core
