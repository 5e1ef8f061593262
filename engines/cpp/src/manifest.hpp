// manifest.json as the library reads it; engines/README.md has the rules.
#pragma once

#include <edgekd/edgekd.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace edgekd::core {

struct Tensor {
    std::string name;
    std::string dtype;
    std::vector<std::int64_t> shape;  // -1 where it may vary
    std::vector<std::string> free;    // what those dimensions are called, "" for the others

    edgekd_dtype type() const;
    // Bytes of one sample: all dimensions but the first.
    std::size_t sample_bytes() const;
};

// Bytes of an element.
std::size_t size_of(edgekd_dtype type);

struct Preprocessing {
    std::optional<std::string> color;  // "L", "RGB"; nothing where the data are no pictures
    std::optional<double> crop;
    std::string resize;
    std::vector<double> mean;
    std::vector<double> std;
    std::string layout;
    std::string dtype;
};

struct File {
    std::string path;
    std::uint64_t bytes = 0;
    std::string sha256;
};

struct EngineRecord {
    std::string target, backend, version, precision, device;
    bool executed = false;
    File file;
    std::vector<File> parts;
    std::map<std::string, std::string> options;
    std::string source, golden;
    double tolerance = 0;
};

struct Budget {
    std::optional<double> fps, deadline_ms, max_drop;

    // For each frame; 0 where there is none.
    std::uint64_t deadline_ns() const;
};

struct Manifest {
    std::string schema, name;
    std::vector<Tensor> inputs, outputs;
    Preprocessing preprocessing;
    std::vector<std::string> labels;
    std::vector<EngineRecord> engines;  // the best measured first
    std::string golden_images;
    Budget budget;
    std::string verdict;
    std::map<std::string, std::string> provenance;
    std::map<std::string, File> files;
    std::string content;
};

// Throws EDGEKD_CORRUPT, or EDGEKD_NOT_A_BUNDLE for another major version of the schema.
// `where` names the bundle in what is said.
Manifest parse(std::string_view text, const std::string &where);

}  // namespace edgekd::core
