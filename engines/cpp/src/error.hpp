// What went wrong inside the library; the C interface turns it into a status and a sentence.
#pragma once

#include <edgekd/edgekd.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace edgekd::core {

class Failure : public std::runtime_error {
public:
    Failure(edgekd_status status, std::string text)
        : std::runtime_error(one_line(std::move(text))), status_(status) {}

    edgekd_status status() const { return status_; }

private:
    // What a bundle or a runtime says may hold anything.
    static std::string one_line(std::string text) {
        for (char &each : text) {
            if (static_cast<unsigned char>(each) < 0x20) each = ' ';
        }
        return text;
    }

    edgekd_status status_;
};

// A bundle whose files are not what its manifest says.
[[noreturn]] inline void corrupt(const std::string &text) {
    throw Failure(EDGEKD_CORRUPT, text + ": copy the bundle again, or build it again");
}

[[noreturn]] inline void refuse(const std::string &text) {
    throw Failure(EDGEKD_ARGUMENT, text);
}

}  // namespace edgekd::core
