#include "plugin.hpp"

#include "error.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

namespace edgekd::core {
namespace {

// The library's folder. Found when it is loaded: its name may be relative to where the program was
// started, and that is no place to load code from later.
std::string own_folder() {
    Dl_info facts{};
    if (dladdr(reinterpret_cast<const void *>(&plugin), &facts) == 0 || facts.dli_fname == nullptr) return {};
    char *whole = realpath(facts.dli_fname, nullptr);
    if (whole == nullptr) return {};
    const std::string library = whole;
    std::free(whole);
    return library.substr(0, library.rfind('/'));
}

const std::string &own = *new std::string(own_folder());

// Installed, plugins lie in a folder beside the library; where it was just built, beside it.
std::vector<std::string> places(const std::string &folder) {
    if (!folder.empty()) return {folder};
    if (const char *given = secure_getenv("EDGEKD_PLUGINS"); given != nullptr && *given != '\0') {
        return {given};
    }
    if (own.empty()) return {};
    return {own + "/edgekd", own};
}

[[noreturn]] void unavailable(const std::string &backend, const std::string &reason) {
    throw Failure(EDGEKD_UNAVAILABLE, backend + " is unavailable: " + reason);
}

const edgekd_backend_api &load(const std::string &backend, const std::string &folder) {
    const std::string file = "libedgekd_" + backend + ".so";
    const auto looked = places(folder);
    std::string path;
    for (const std::string &each : looked) {
        path = each + "/" + file;
        if (access(path.c_str(), F_OK) == 0) break;
        path.clear();
    }
    if (path.empty()) {
        unavailable(
            backend, "there is no plugin " + file + " in " + (looked.empty() ? "." : looked[0]) +
                         ": build it with its SDK, or name its folder in EDGEKD_PLUGINS");
    }
    void *library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) unavailable(backend, std::string("its plugin cannot be loaded: ") + dlerror());
    const auto ask = reinterpret_cast<decltype(&edgekd_backend)>(dlsym(library, "edgekd_backend"));
    const edgekd_backend_api *api = ask != nullptr ? ask() : nullptr;
    std::string fault;
    if (api == nullptr) {
        fault = path + " is no plugin of EdgeKD";
    } else if (api->abi != EDGEKD_BACKEND_ABI || api->size < sizeof(edgekd_backend_api)) {
        fault = path + " speaks version " + std::to_string(api->abi) + " of the plugin interface, and this library " +
                std::to_string(EDGEKD_BACKEND_ABI) + ": build both from one EdgeKD";
    } else if (api->name == nullptr || backend != api->name) {
        fault = path + " is the plugin of another backend";
    }
    if (!fault.empty()) {
        dlclose(library);
        unavailable(backend, fault);
    }
    return *api;
}

}  // namespace

const edgekd_backend_api &plugin(const std::string &backend, const std::string &folder) {
    // Neither is ever destroyed: engines may be closed while the process ends.
    static auto &lock = *new std::mutex;
    static auto &known = *new std::map<std::pair<std::string, std::string>, const edgekd_backend_api *>;
    const std::lock_guard<std::mutex> held(lock);
    auto &found = known[{backend, folder}];
    if (found == nullptr) found = &load(backend, folder);
    return *found;
}

}  // namespace edgekd::core
