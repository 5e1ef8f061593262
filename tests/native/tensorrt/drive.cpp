// Opens an engine by a plugin and runs it; says what came as JSON. The engine takes `image` (n, 4)
// and gives `logits` (n, 2).
//
//   drive PLUGIN.so [key=value]... FILE...
//
// batch=N: max_batch; device=NAME; run=1,2,1: batches to run; threads=N: contexts that run at the
// same time; input=NAME, type=CODE, width=N: of the input; any other key is an engine's option.
#include <edgekd/backend.h>

#include <dlfcn.h>

#include <nlohmann/json.hpp>

#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using nlohmann::json;

namespace {

struct Opened {
    const edgekd_backend_api *api;
    edgekd_session *session;
    std::size_t width;
    std::uint32_t batch;
    const char *(*graphs)(const edgekd_runner *, std::size_t *);
};

// One context: what each run gave, and what it said.
json use(const Opened &opened, const std::string &runs, float base) {
    const auto take = [&](std::size_t width) {
        const std::size_t bytes = width * sizeof(float) * opened.batch;
        auto *memory = static_cast<float *>(opened.api->allocate(opened.session, bytes));
        if (memory != nullptr) std::memset(memory, 0, bytes);
        return memory;
    };
    float *image = take(opened.width);
    float *logits = take(2);
    json told;
    if (image == nullptr || logits == nullptr) return {{"status", EDGEKD_NO_MEMORY}};
    void *inputs[] = {image};
    void *outputs[] = {logits};
    const edgekd_buffers buffers{sizeof buffers, inputs, outputs};
    edgekd_runner *runner = nullptr;
    edgekd_message message{};
    const edgekd_status status = opened.api->create(opened.session, &buffers, &runner, &message);
    told = {{"status", status}, {"message", message.text}, {"runs", json::array()}};
    if (status == EDGEKD_OK) {
        std::size_t graphs = 0;
        told["refused"] = opened.graphs(runner, &graphs);
        told["graphs"] = graphs;
        std::istringstream list(runs);
        for (std::string each; std::getline(list, each, ',');) {
            const std::size_t batch = std::stoul(each);
            for (std::size_t place = 0; place < batch * opened.width; ++place) {
                image[place] = base + static_cast<float>(place);
            }
            edgekd_message said{};
            const edgekd_status ran = opened.api->run(runner, batch, &said);
            told["runs"].push_back(
                {{"status", ran},
                 {"message", said.text},
                 {"logits", std::vector<float>(logits, logits + 2 * batch)}});
        }
        opened.api->destroy(runner);
    }
    opened.api->release(opened.session, image);
    opened.api->release(opened.session, logits);
    return told;
}

} // namespace

int main(int count, char **arguments) {
    std::map<std::string, std::string> said{{"batch", "1"}, {"threads", "1"}, {"run", ""},
                                            {"input", "image"}, {"type", "1"}, {"width", "4"}};
    std::vector<std::string> names, contents;
    std::vector<edgekd_pair> options;
    for (int place = 2; place < count; ++place) {
        const std::string text = arguments[place];
        const std::size_t equals = text.find('=');
        if (equals != std::string::npos) {
            said[text.substr(0, equals)] = text.substr(equals + 1);
            continue;
        }
        std::ifstream file(text, std::ios::binary);
        names.push_back(text.substr(text.rfind('/') + 1));
        contents.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
    }
    for (const auto &[key, value] : said) options.push_back({key.c_str(), value.c_str()});
    std::vector<edgekd_file> files;
    for (std::size_t place = 0; place < names.size(); ++place) {
        files.push_back({names[place].c_str(), contents[place].data(), contents[place].size()});
    }
    void *library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::cerr << dlerror() << "\n";
        return 1;
    }
    const auto backend = reinterpret_cast<decltype(&edgekd_backend)>(dlsym(library, "edgekd_backend"));
    Opened opened{};
    opened.api = backend();
    opened.graphs = reinterpret_cast<decltype(opened.graphs)>(dlsym(library, "edgekd_tensorrt_graphs"));
    opened.width = std::stoul(said["width"]);
    opened.batch = static_cast<std::uint32_t>(std::stoul(said["batch"]));
    edgekd_tensor input{};
    input.size = sizeof input;
    input.name = said["input"].c_str();
    input.dtype = std::stoi(said["type"]);
    input.rank = 2;
    input.shape[0] = -1;
    input.shape[1] = static_cast<std::int64_t>(opened.width);
    edgekd_tensor output = input;
    output.name = "logits";
    output.dtype = EDGEKD_FLOAT32;
    output.shape[1] = 2;
    edgekd_source source{};
    source.size = sizeof source;
    source.backend = opened.api->name;
    source.target = "t";
    source.version = "";
    source.precision = "int8";
    source.device = "sm_87";
    source.files = files.data();
    source.file_count = files.size();
    source.options = options.data();
    source.option_count = options.size();
    source.inputs = &input;
    source.input_count = 1;
    source.outputs = &output;
    source.output_count = 1;
    source.chosen = said.count("device") != 0 ? said["device"].c_str() : nullptr;
    source.threads = source.streams = 1;
    source.max_batch = opened.batch;
    edgekd_message message{};
    int keeps_files = -1;
    json told{{"name", opened.api->name}, {"abi", opened.api->abi}};
    told["status"] = opened.api->open(&source, &opened.session, &keeps_files, &message);
    told["message"] = message.text;
    if (told["status"] == EDGEKD_OK) {
        told["runtime"] = opened.api->runtime(opened.session);
        if (keeps_files == 0) { // what it does not keep, it must not read again
            for (std::string &each : contents) std::string().swap(each);
        }
        const std::size_t width = std::stoul(said["threads"]);
        std::vector<json> contexts(width);
        std::vector<std::thread> threads;
        for (std::size_t each = 0; each < width; ++each) {
            threads.emplace_back([&, each] {
                contexts[each] = use(opened, said["run"], static_cast<float>(100 * each));
            });
        }
        for (std::thread &each : threads) each.join();
        told["contexts"] = contexts;
        opened.api->close(opened.session);
    }
    std::cout << told.dump() << "\n";
    return 0;
}
