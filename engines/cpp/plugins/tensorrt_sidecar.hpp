// The side-car: the JSON beside a plan that says what it is and where it may be loaded.
#pragma once

#include <edgekd/backend.h>

#include <optional>
#include <string>

namespace edgekd::trt {

struct SideCar {
    std::string sha256, library, version, system, device, gpu, hardware, compiled_sha256;
    bool version_compatible = false;
    std::optional<int> dla_core;
};

// Reads one; `name` is for what is said. Throws EDGEKD_CORRUPT.
SideCar read_sidecar(const edgekd_file &file);

// Throws EDGEKD_CORRUPT where a file is not the one that the side-car names.
void check_bytes(const edgekd_file &file, const std::string &sha256);

// What is here; `sm` and `model` are empty as long as the GPU is not known.
struct Here {
    std::string library, version, system, sm, model;
    bool host_code = false; // whether the user lets plans bring code for the CPU
};

// Refuses a plan that this library on this GPU must not load: EDGEKD_INCOMPATIBLE.
void check_sidecar(const SideCar &facts, const Here &here);

// The operating system and processor that a plan belongs to, such as "linux-x86_64".
std::string system_here();

// Whether the user allows plans to bring code that runs on the CPU.
bool host_code_allowed();

} // namespace edgekd::trt
