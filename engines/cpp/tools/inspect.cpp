// edgekd-inspect BUNDLE: the manifest as this library reads it, as JSON on one line.
#include "../src/error.hpp"
#include "../src/files.hpp"
#include "../src/manifest.hpp"

#include <nlohmann/json.hpp>

#include <iostream>

namespace {

using nlohmann::json;
using namespace edgekd::core;

json maybe(const std::optional<double> &value) { return value ? json(*value) : json(nullptr); }

json tensors(const std::vector<Tensor> &all) {
    json found = json::array();
    for (const Tensor &each : all) {
        json shape = json::array();
        for (std::size_t axis = 0; axis < each.shape.size(); ++axis) {
            shape.push_back(each.shape[axis] < 0 ? json(each.free[axis]) : json(each.shape[axis]));
        }
        found.push_back({{"name", each.name}, {"dtype", each.dtype}, {"shape", shape}});
    }
    return found;
}

json file(const File &each) { return {{"path", each.path}, {"bytes", each.bytes}, {"sha256", each.sha256}}; }

json engines(const std::vector<EngineRecord> &all) {
    json found = json::array();
    for (const EngineRecord &each : all) {
        json record = file(each.file);
        record.update({
            {"target", each.target}, {"backend", each.backend}, {"version", each.version},
            {"precision", each.precision}, {"device", each.device}, {"executed", each.executed},
            {"options", each.options}, {"source", each.source}, {"golden", each.golden},
            {"tolerance", each.tolerance}, {"parts", json::array()},
        });
        for (const File &part : each.parts) record["parts"].push_back(file(part));
        found.push_back(record);
    }
    return found;
}

json described(const Manifest &manifest) {
    const Preprocessing &images = manifest.preprocessing;
    json files = json::object();
    for (const auto &[name, each] : manifest.files) files[name] = json::array({each.bytes, each.sha256});
    return {
        {"schema", manifest.schema},
        {"name", manifest.name},
        {"inputs", tensors(manifest.inputs)},
        {"outputs", tensors(manifest.outputs)},
        {"preprocessing",
         {{"color", images.color ? json(*images.color) : json(nullptr)}, {"crop", maybe(images.crop)},
          {"resize", images.resize}, {"mean", images.mean}, {"std", images.std},
          {"layout", images.layout}, {"dtype", images.dtype}}},
        {"labels", manifest.labels},
        {"engines", engines(manifest.engines)},
        {"golden", {{"images", manifest.golden_images}}},
        {"budget",
         {{"fps", maybe(manifest.budget.fps)}, {"deadline_ms", maybe(manifest.budget.deadline_ms)},
          {"max_drop", maybe(manifest.budget.max_drop)}}},
        {"deadline_ns", manifest.budget.deadline_ns()},
        {"verdict", {{"status", manifest.verdict}}},
        {"provenance", manifest.provenance},
        {"files", files},
        {"content", manifest.content},
    };
}

}  // namespace

int main(int count, char **words) {
    if (count != 2) {
        std::cerr << "usage: edgekd-inspect BUNDLE\n";
        return 2;
    }
    try {
        const Folder folder(words[1]);
        std::cout << described(parse(folder.manifest().text(), words[1])) << '\n';
        return 0;
    } catch (const Failure &failure) {
        std::cerr << failure.what() << '\n';
        return failure.status() == EDGEKD_NOT_A_BUNDLE ? 2 : 4;
    }
}
