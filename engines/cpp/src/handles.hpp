// Handles that can be checked: a number of a place in a table, and of who is there.
//
// A handle is never followed as a pointer. Places are used again and never given back, so that
// one that was closed, and one that never was, can be told from one that is open.
//
// An engine is shared: who asks for it gets a share under a lock, whose holder inherits the priority
// of who waits. A context is one thread's at a time: nobody ever waits for it.
#pragma once

#include "error.hpp"

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace edgekd::core {

// A mutex with priority inheritance: a real-time thread that waits lifts whoever holds it.
class Lock {
public:
    Lock() {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT);
        pthread_mutex_init(&mutex_, &attributes);
        pthread_mutexattr_destroy(&attributes);
    }
    ~Lock() { pthread_mutex_destroy(&mutex_); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;
    void lock() { pthread_mutex_lock(&mutex_); }
    void unlock() { pthread_mutex_unlock(&mutex_); }

private:
    pthread_mutex_t mutex_;
};

// Handle is the opaque type, Object what it stands for, KIND tells tables apart.
template <class Handle, class Object, std::uint64_t KIND>
class Table {
    struct Place {
        // Twice the turn, which is odd while somebody is there, and one while a thread has him. A
        // handle of an earlier turn never fits, and so disturbs nobody.
        std::atomic<std::uint64_t> state{0};
        std::shared_ptr<Object> object;  // of the thread that has it; of a shared one, of the lock
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

    private:
        friend class Table;
        Lease(Place *place, std::uint64_t after) : place_(place), after_(after) {}
        Place *place_;
        std::uint64_t after_;  // the state that it leaves
    };

    Handle *add(std::shared_ptr<Object> object) {
        const std::lock_guard<Lock> held(lock_);
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

    // A share of what a handle stands for.
    std::shared_ptr<Object> share(const Handle *handle, const char *what) {
        Place &place = place_of(handle, what);
        const std::lock_guard<Lock> held(lock_);
        if (place.state.load(std::memory_order_relaxed) != turn_of(handle) * 2) closed(what);
        return place.object;
    }

    // What a handle stands for, for this thread alone. Throws EDGEKD_BUSY where another has it.
    Lease take(const Handle *handle, const char *what) {
        Place &place = place_of(handle, what);
        const std::uint64_t turn = turn_of(handle);
        for (;;) {
            std::uint64_t state = turn * 2;
            if (place.state.compare_exchange_weak(
                    state, turn * 2 + 1, std::memory_order_acquire, std::memory_order_relaxed)) {
                return Lease(&place, turn * 2);
            }
            if (state / 2 != turn) closed(what);
            if (state % 2 == 1) {
                throw Failure(EDGEKD_BUSY, std::string("another thread is using this ") + what);
            }
        }
    }

    // Ends a handle and gives what it stood for, which goes with the last who needs it.
    std::shared_ptr<Object> remove(const Handle *handle, const char *what) {
        const std::lock_guard<Lock> held(lock_);
        Lease lease = take(handle, what);
        lease.after_ += 2;
        free_.push_back(index_of(handle));
        return std::move(lease.place_->object);
    }

private:
    [[noreturn]] static void closed(const char *what) {
        throw Failure(EDGEKD_CLOSED, std::string("this ") + what + " was closed, or never was one");
    }

    static std::uint64_t turn_of(const Handle *handle) {
        return reinterpret_cast<std::uint64_t>(handle) >> (KIND_BITS + INDEX_BITS);
    }

    Place &place_of(const Handle *handle, const char *what) {
        if (handle == nullptr) refuse(std::string("the ") + what + " is a null pointer");
        const std::uint64_t kind = reinterpret_cast<std::uint64_t>(handle) % (1u << KIND_BITS);
        Place *place = kind == KIND ? find(index_of(handle)) : nullptr;
        if (place == nullptr || turn_of(handle) % 2 == 0) closed(what);
        return *place;
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

    Lock lock_;
    std::uint64_t count_ = 0;
    std::vector<std::uint64_t> free_;
    std::array<std::atomic<std::array<Place, CHUNK> *>, MOST / CHUNK> chunks_{};
};

}  // namespace edgekd::core
