#include "tensorrt_sidecar.hpp"

#include "../src/files.hpp"
#include "common.hpp"

#include <sys/utsname.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace edgekd::trt {
namespace {

using nlohmann::json;

constexpr char HOST_CODE[] = "EDGEKD_HOST_CODE";
constexpr std::size_t LARGEST = std::size_t{1} << 20;

[[noreturn]] void damaged(const std::string &text) {
    throw plugins::Failure(
        EDGEKD_CORRUPT,
        text + ": build the engine again; `edgekd verify BUNDLE --rebuild` does so on the device");
}

[[noreturn]] void incompatible(const std::string &expected, const std::string &found) {
    throw plugins::Failure(
        EDGEKD_INCOMPATIBLE,
        "this engine is for " + expected + ", and this is " + found +
            ": build it again here, or load another engine of the bundle");
}

std::string_view text_of(const edgekd_file &file) {
    return {static_cast<const char *>(file.data), file.bytes};
}

bool is_number(std::string_view text) {
    return !text.empty() && text.size() <= 9 && std::all_of(text.begin(), text.end(), [](char each) {
        return each >= '0' && each <= '9';
    });
}

// The numbers of a version: "10.3.0.26" is 10, 3, 0, 26.
std::vector<long> numbers(const std::string &version) {
    std::vector<long> found;
    for (std::size_t begin = 0; begin <= version.size();) {
        const std::size_t end = std::min(version.find('.', begin), version.size());
        const std::string part = version.substr(begin, end - begin);
        if (is_number(part)) found.push_back(std::stol(part));
        begin = end + 1;
    }
    return found;
}

// A plan belongs to one build; a version-compatible one to what follows in its major (NVIDIA,
// TensorRT developer guide, "Version Compatibility").
bool takes_version(const SideCar &facts, const std::string &version) {
    if (!facts.version_compatible) return facts.version == version;
    const std::vector<long> built = numbers(facts.version);
    const std::vector<long> here = numbers(version);
    return !built.empty() && !here.empty() && built.front() == here.front() && built <= here;
}

// NVIDIA, TensorRT developer guide, "Hardware Compatibility".
bool takes_gpu(const SideCar &facts, const std::string &sm) {
    if (facts.hardware == "ampere+") return std::stol(sm.substr(3)) >= 80;
    return ('+' + facts.device + '+').find('+' + sm + '+') != std::string::npos;
}

} // namespace

SideCar read_sidecar(const edgekd_file &file) {
    const std::string name = file.name;
    const std::string_view text = text_of(file);
    if (text.size() > LARGEST) damaged(name + " is not a side-car (it has more than 1 MiB)");
    const json record = json::parse(text.begin(), text.end(), nullptr, false);
    if (!record.is_object()) damaged(name + " is not a side-car");
    const auto field = [&](const char *key, json::value_t kind) -> const json & {
        const auto found = record.find(key);
        const bool natural = found != record.end() && found->type() == json::value_t::number_unsigned;
        if (found == record.end() || (found->type() != kind && !(natural && kind == json::value_t::number_integer))) {
            damaged(name + " lacks or misstates " + key);
        }
        return *found;
    };
    const auto words = [&](const char *key) {
        return field(key, json::value_t::string).get<std::string>();
    };
    const std::string schema = words("schema");
    const std::string major = schema.substr(0, schema.find('.'));
    if (!is_number(major)) damaged(name + " lacks or misstates schema");
    if (std::stol(major) > 1) damaged(name + " has schema " + schema + ", later than 1.0");
    SideCar facts;
    for (const auto &[key, value] : {
             std::pair{"sha256", &facts.sha256},
             std::pair{"library", &facts.library},
             std::pair{"version", &facts.version},
             std::pair{"system", &facts.system},
             std::pair{"device", &facts.device},
             std::pair{"gpu", &facts.gpu},
             std::pair{"hardware", &facts.hardware},
             std::pair{"compiled_sha256", &facts.compiled_sha256},
         }) {
        *value = words(key);
    }
    for (const char *key : {"precision", "onnx_sha256", "calibration_sha256"}) words(key);
    for (const char *key : {"inputs", "outputs"}) field(key, json::value_t::array);
    field("bytes", json::value_t::number_integer);
    facts.version_compatible = field("version_compatible", json::value_t::boolean).get<bool>();
    const json &flags = field("flags", json::value_t::object);
    if (const auto core = flags.find("dla_core"); core != flags.end()) {
        if (!core->is_string() || !is_number(core->get_ref<const std::string &>())) {
            damaged(name + " lacks or misstates flags.dla_core");
        }
        facts.dla_core = std::stoi(core->get_ref<const std::string &>());
    }
    return facts;
}

void check_bytes(const edgekd_file &file, const std::string &sha256) {
    if (core::sha256(text_of(file)) != sha256) {
        damaged(std::string(file.name) + " is not the file that its side-car names");
    }
}

void check_sidecar(const SideCar &facts, const Here &here) {
    if (facts.library != here.library || !takes_version(facts, here.version)) {
        incompatible(facts.library + ' ' + facts.version, here.library + ' ' + here.version);
    }
    if (facts.system != here.system) incompatible(facts.system, here.system);
    if (!here.sm.empty() && !takes_gpu(facts, here.sm)) {
        const bool later = facts.hardware == "ampere+";
        incompatible(later ? "sm_80 and later" : facts.device, "a GPU of " + here.sm);
    }
    if (!here.model.empty() && !facts.gpu.empty() && facts.hardware == "none" &&
        facts.gpu != here.model) {
        incompatible(facts.gpu, here.model);
    }
    if (facts.version_compatible && !here.host_code) {
        throw plugins::Failure(
            EDGEKD_INCOMPATIBLE,
            std::string("this engine is for a runtime that lets it bring host code, and this is one "
                        "that does not: set ") +
                HOST_CODE +
                "=1 if you trust where it is from, or build without version_compatible");
    }
}

std::string system_here() {
    utsname facts{};
    if (uname(&facts) != 0) throw plugins::Failure(EDGEKD_INTERNAL, "uname failed");
    std::string text = std::string(facts.sysname) + '-' + facts.machine;
    std::transform(text.begin(), text.end(), text.begin(), [](char each) {
        return each >= 'A' && each <= 'Z' ? static_cast<char>(each - 'A' + 'a') : each;
    });
    return text;
}

bool host_code_allowed() {
    const char *said = secure_getenv(HOST_CODE);
    return said != nullptr && std::strcmp(said, "1") == 0;
}

} // namespace edgekd::trt
