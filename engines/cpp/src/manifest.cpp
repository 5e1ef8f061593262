#include "manifest.hpp"

#include "error.hpp"
#include "files.hpp"

#include <nlohmann/json.hpp>

#include <array>
#include <cfloat>
#include <climits>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

namespace edgekd::core {
namespace {

using nlohmann::json;

constexpr int DEEPEST = 64;
constexpr std::uint64_t LARGEST_INTEGER = std::uint64_t{1} << 53;
constexpr std::uint64_t LARGEST_TENSOR = std::uint64_t{1} << 40;
constexpr std::int64_t LARGEST_DIMENSION = std::numeric_limits<std::int32_t>::max();
constexpr std::size_t DIGEST = 64;

struct Type {
    const char *name;
    edgekd_dtype code;
    std::size_t bytes;
};
constexpr std::array<Type, 8> TYPES = {{
    {"float32", EDGEKD_FLOAT32, 4},
    {"float16", EDGEKD_FLOAT16, 2},
    {"float64", EDGEKD_FLOAT64, 8},
    {"uint8", EDGEKD_UINT8, 1},
    {"int8", EDGEKD_INT8, 1},
    {"int32", EDGEKD_INT32, 4},
    {"int64", EDGEKD_INT64, 8},
    {"bool", EDGEKD_BOOL, 1},
}};

// Where in the manifest something is wrong; the caller adds which manifest.
struct Fault {
    std::string text;
};

[[noreturn]] void misstated(const std::string &place) { throw Fault{"lacks or misstates " + place}; }

// The text as JSON: no key twice, nothing too deep.
json read(std::string_view text) {
    if (text.substr(0, 3) == "\xEF\xBB\xBF") throw Fault{"begins with a byte order mark"};
    std::vector<std::set<std::string>> keys;
    const auto watch = [&](int depth, json::parse_event_t event, json &value) {
        switch (event) {
            case json::parse_event_t::object_start:
            case json::parse_event_t::array_start:
                if (depth >= DEEPEST) throw Fault{"is nested too deep"};
                if (event == json::parse_event_t::object_start) keys.emplace_back();
                break;
            case json::parse_event_t::object_end:
                keys.pop_back();
                break;
            case json::parse_event_t::key:
                if (!keys.back().insert(value.get_ref<const std::string &>()).second) {
                    throw Fault{"has the key '" + value.get<std::string>() + "' twice"};
                }
                break;
            default:
                break;
        }
        return true;
    };
    try {
        return json::parse(text.begin(), text.end(), watch);
    } catch (const json::exception &) {
        throw Fault{"is not JSON"};
    }
}

// One value of the manifest, and how it is called in what is said.
class Value {
public:
    Value(const json &value, std::string place) : value_(&value), place_(std::move(place)) {}

    Value operator[](const char *key) const {
        object();
        const auto found = value_->find(key);
        const std::string place = place_.empty() ? key : place_ + "." + key;
        if (found == value_->end()) misstated("'" + place + "'");
        return {*found, place};
    }

    bool has(const char *key) const {
        object();
        return value_->contains(key);
    }

    bool is_null() const { return value_->is_null(); }
    bool is_string() const { return value_->is_string(); }

    std::string text() const {
        if (!value_->is_string()) wrong();
        return value_->get<std::string>();
    }

    // Text that names something: no control characters.
    std::string name() const {
        std::string found = text();
        for (const char each : found) {
            if (static_cast<unsigned char>(each) < 0x20) wrong();
        }
        return found;
    }

    std::string path() const {
        std::string found = text();
        if (!is_inside(found)) throw Fault{"names '" + found + "', outside the bundle"};
        return found;
    }

    std::string digest() const {
        std::string found = text();
        if (found.size() != DIGEST || found.find_first_not_of("0123456789abcdef") != found.npos) wrong();
        return found;
    }

    bool boolean() const {
        if (!value_->is_boolean()) wrong();
        return value_->get<bool>();
    }

    std::uint64_t integer() const {
        if (!value_->is_number_integer()) wrong();
        if (!value_->is_number_unsigned() && value_->get<std::int64_t>() < 0) wrong();
        const auto found = value_->get<std::uint64_t>();
        if (found > LARGEST_INTEGER) wrong();
        return found;
    }

    double number() const {
        if (!value_->is_number()) wrong();
        const double found = value_->get<double>();
        if (!std::isfinite(found)) wrong();
        return found;
    }

    std::optional<double> maybe_number() const {
        if (is_null()) return std::nullopt;
        return number();
    }

    std::vector<Value> list() const {
        if (!value_->is_array()) wrong();
        std::vector<Value> found;
        for (std::size_t index = 0; index < value_->size(); ++index) {
            found.emplace_back((*value_)[index], place_ + "[" + std::to_string(index) + "]");
        }
        return found;
    }

    std::vector<std::pair<std::string, Value>> items() const {
        object();
        std::vector<std::pair<std::string, Value>> found;
        for (const auto &[key, value] : value_->items()) {
            found.emplace_back(key, Value(value, place_ + "." + key));
        }
        return found;
    }

    [[noreturn]] void wrong() const { misstated("'" + place_ + "'"); }

private:
    void object() const {
        if (!value_->is_object()) wrong();
    }

    const json *value_;
    std::string place_;
};

const Type *type_named(const std::string &name) {
    for (const Type &each : TYPES) {
        if (name == each.name) return &each;
    }
    return nullptr;
}

Tensor tensor(const Value &value) {
    Tensor found;
    found.name = value["name"].name();
    found.dtype = value["dtype"].text();
    const Type *type = type_named(found.dtype);
    if (type == nullptr) value["dtype"].wrong();
    std::uint64_t bytes = type->bytes;
    const auto dimensions = value["shape"].list();
    if (dimensions.empty() || dimensions.size() > EDGEKD_MAX_RANK) value["shape"].wrong();
    for (const Value &each : dimensions) {
        if (each.is_string()) {
            found.shape.push_back(-1);
            found.free.push_back(each.name());
            continue;
        }
        const std::uint64_t extent = each.integer();
        if (extent < 1 || extent > static_cast<std::uint64_t>(LARGEST_DIMENSION)) each.wrong();
        if (bytes > LARGEST_TENSOR / extent) value["shape"].wrong();
        bytes *= extent;
        found.shape.push_back(static_cast<std::int64_t>(extent));
        found.free.emplace_back();
    }
    return found;
}

std::vector<Tensor> tensors(const Value &value) {
    std::vector<Tensor> found;
    for (const Value &each : value.list()) found.push_back(tensor(each));
    if (found.empty()) value.wrong();
    return found;
}

std::vector<double> numbers(const Value &value) {
    std::vector<double> found;
    for (const Value &each : value.list()) found.push_back(each.number());
    return found;
}

Preprocessing preprocessing(const Value &value, const Tensor &input) {
    Preprocessing found;
    if (!value["color"].is_null()) found.color = value["color"].text();
    found.crop = value["crop"].maybe_number();
    found.resize = value["resize"].text();
    found.mean = numbers(value["mean"]);
    found.std = numbers(value["std"]);
    found.layout = value["layout"].text();
    found.dtype = value["dtype"].text();
    if (found.crop && !(*found.crop > 0 && *found.crop <= 1)) value["crop"].wrong();
    if (found.resize != "bilinear") value["resize"].wrong();
    if (found.layout != "NCHW" && found.layout != "NHWC") value["layout"].wrong();
    if (found.dtype != "float32") value["dtype"].wrong();
    for (const double each : found.mean) {
        if (std::fabs(each) > FLT_MAX) value["mean"].wrong();
    }
    for (const double each : found.std) {
        if (each < FLT_MIN || each > FLT_MAX) value["std"].wrong();
    }
    const std::size_t channels = found.mean.size();
    if (found.std.size() != channels) value["std"].wrong();
    if (found.color && *found.color != "L" && *found.color != "RGB") value["color"].wrong();
    const bool picture = channels == 1 || channels == 3;
    const std::string fitting = channels == 1 ? "L" : "RGB";
    if (found.color ? (!picture || *found.color != fitting) : picture) value["color"].wrong();
    if (input.shape.size() == 4) {
        const std::size_t axis = found.layout == "NCHW" ? 1 : 3;
        if (input.shape[axis] != static_cast<std::int64_t>(channels)) value["mean"].wrong();
    }
    return found;
}

File file(const Value &value) {
    return {value["path"].path(), value["bytes"].integer(), value["sha256"].digest()};
}

std::map<std::string, std::string> texts(const Value &value) {
    std::map<std::string, std::string> found;
    for (const auto &[key, each] : value.items()) found[key] = each.text();
    return found;
}

bool is_backend(const std::string &name) {
    constexpr char LETTERS[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    return !name.empty() && std::string_view(LETTERS).find(name[0]) != std::string_view::npos &&
           name.find_first_not_of(std::string(LETTERS) + "_-") == std::string::npos;
}

// One of the batches among an engine's options; none gives `otherwise`.
unsigned long batch(const Value &options, const char *key, unsigned long otherwise) {
    if (!options.has(key)) return otherwise;
    const std::string text = options[key].text();
    const bool digits = text.find_first_not_of("0123456789") == text.npos;
    if (text.empty() || text.size() > 9 || !digits) options[key].wrong();
    const unsigned long found = std::stoul(text);
    if (found < 1) options[key].wrong();
    return found;
}

EngineRecord engine(const Value &value) {
    EngineRecord found;
    found.target = value["target"].name();
    found.backend = value["backend"].name();
    if (!is_backend(found.backend)) value["backend"].wrong();
    found.version = value["version"].name();
    found.precision = value["precision"].name();
    found.device = value["device"].name();
    found.executed = value["executed"].boolean();
    found.file = file(value);
    for (const Value &each : value["parts"].list()) found.parts.push_back(file(each));
    found.options = texts(value["options"]);
    const Value options = value["options"];
    const unsigned long least = batch(options, "min_batch", 1);
    batch(options, "opt_batch", 1);
    if (least > batch(options, "max_batch", ULONG_MAX)) options["min_batch"].wrong();
    found.source = value["source"].text();
    if (!found.source.empty()) found.source = value["source"].path();
    found.golden = value["golden"].path();
    found.tolerance = value["tolerance"].number();
    if (!(found.tolerance > 0)) value["tolerance"].wrong();
    return found;
}

std::string replaced(std::string text, const std::string &what, const std::string &with) {
    for (std::size_t place = 0; (place = text.find(what, place)) != std::string::npos;
         place += with.size()) {
        text.replace(place, what.size(), with);
    }
    return text;
}

bool is_sealed(const std::string &text, const std::string &content) {
    const std::string zeros(DIGEST, '0');
    const std::string open = replaced(text, content, zeros);
    return sha256(open) == content && replaced(open, zeros, content) == text;
}

// "1.0" gives 1; anything that is no version is a fault.
std::uint64_t major_of(const Value &schema) {
    const std::string text = schema.text();
    const std::size_t dot = text.find('.');
    if (dot == std::string::npos) schema.wrong();
    for (const std::string &part : {text.substr(0, dot), text.substr(dot + 1)}) {
        if (part.empty() || part.size() > 9) schema.wrong();
        if (part.find_first_not_of("0123456789") != std::string::npos) schema.wrong();
    }
    return std::stoull(text.substr(0, dot));
}

Manifest checked(std::string_view text, const std::string &where) {
    const json whole = read(text);
    const Value root(whole, "");
    Manifest found;
    const std::uint64_t major = major_of(root["schema"]);
    found.schema = root["schema"].text();
    if (major != 1) {
        throw Failure(
            EDGEKD_NOT_A_BUNDLE, where + " has schema " + found.schema +
                                     ", and this version reads 1: update edgekd");
    }
    found.content = root["content"].digest();
    found.name = root["name"].name();
    found.inputs = tensors(root["inputs"]);
    found.outputs = tensors(root["outputs"]);
    found.preprocessing = preprocessing(root["preprocessing"], found.inputs[0]);
    for (const Value &each : root["labels"].list()) found.labels.push_back(each.text());
    if (found.labels.size() < 2) root["labels"].wrong();
    const std::vector<std::int64_t> &classes = found.outputs[0].shape;
    if (classes.size() == 2 && classes[1] >= 0 &&
        static_cast<std::size_t>(classes[1]) != found.labels.size()) {
        root["labels"].wrong();
    }
    for (const Value &each : root["engines"].list()) found.engines.push_back(engine(each));
    found.golden_images = root["golden"]["images"].path();
    const Value budget = root["budget"];
    found.budget.fps = budget["fps"].maybe_number();
    found.budget.max_drop = budget["max_drop"].maybe_number();
    if (budget.has("deadline_ms")) found.budget.deadline_ms = budget["deadline_ms"].maybe_number();
    found.verdict = root["verdict"]["status"].text();
    for (const auto &[key, each] : root["provenance"].items()) found.provenance[key] = each.digest();
    for (const auto &[name, each] : root["files"].items()) {
        const auto pair = each.list();
        if (!is_inside(name)) throw Fault{"names '" + name + "', outside the bundle"};
        if (pair.size() != 2) each.wrong();
        found.files[name] = {name, pair[0].integer(), pair[1].digest()};
    }
    if (found.files.count(found.golden_images) == 0) root["golden"]["images"].wrong();
    for (const EngineRecord &each : found.engines) {
        if (found.files.count(each.golden) == 0) misstated("'engines' golden '" + each.golden + "'");
    }
    if (!is_sealed(std::string(text), found.content)) throw Fault{"was changed"};
    return found;
}

}  // namespace

edgekd_dtype Tensor::type() const { return type_named(dtype)->code; }

std::size_t Tensor::sample_bytes() const {
    std::size_t bytes = size_of(type());
    for (std::size_t axis = 1; axis < shape.size(); ++axis) {
        bytes *= static_cast<std::size_t>(std::max<std::int64_t>(shape[axis], 1));
    }
    return bytes;
}

std::size_t size_of(edgekd_dtype type) {
    for (const Type &each : TYPES) {
        if (each.code == type) return each.bytes;
    }
    return 0;
}

std::uint64_t Budget::deadline_ns() const {
    const double milliseconds = deadline_ms ? *deadline_ms : fps && *fps > 0 ? 1000.0 / *fps : 0.0;
    if (!(milliseconds > 0 && milliseconds < 1e9)) return 0;
    return static_cast<std::uint64_t>(std::nearbyint(milliseconds * 1e6));
}

Manifest parse(std::string_view text, const std::string &where) {
    try {
        return checked(text, where);
    } catch (const Fault &fault) {
        corrupt(where + "/manifest.json " + fault.text);
    }
}

}  // namespace edgekd::core
