// A backend for tests: output j of a sample is the mean of its inputs times j + 1.
// An engine's options change that: `fail` makes every run fail with that text, `sleep_ms` makes it
// slow, `refuse` makes opening fail with that status. The name and the interface's version come
// from the build, so that plugins that do not fit can be made of it.
#include "../plugins/common.hpp"

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#ifndef NULL_ABI
#define NULL_ABI EDGEKD_BACKEND_ABI
#endif

namespace {

using edgekd::plugins::Failure;
using edgekd::plugins::guarded;
using edgekd::plugins::option;

struct Session {
    std::size_t in = 1, out = 1;  // out is 0 where it is not float32: then nothing is written
    std::string failure;
    int sleep_ms = 0;
};

struct Runner {
    const Session *session;
    const float *inputs;
    float *outputs;
};

std::size_t sample(const edgekd_tensor &tensor) {
    std::size_t count = 1;
    for (std::uint32_t axis = 1; axis < tensor.rank; ++axis) count *= static_cast<std::size_t>(tensor.shape[axis]);
    return count;
}

edgekd_status open(const edgekd_source *source, edgekd_session **session, int *, edgekd_message *message) {
    return guarded(message, [&] {
        if (const char *status = option(*source, "refuse"); status != nullptr) {
            throw Failure(std::stoi(status), "the null backend refuses this engine");
        }
        auto opened = std::make_unique<Session>();
        opened->in = sample(source->inputs[0]);
        opened->out = source->outputs[0].dtype == EDGEKD_FLOAT32 ? sample(source->outputs[0]) : 0;
        if (const char *text = option(*source, "fail"); text != nullptr) opened->failure = text;
        if (const char *text = option(*source, "sleep_ms"); text != nullptr) opened->sleep_ms = std::stoi(text);
        *session = reinterpret_cast<edgekd_session *>(opened.release());
    });
}

void close(edgekd_session *session) { delete reinterpret_cast<Session *>(session); }

const char *version(edgekd_session *) { return "0"; }

edgekd_status create(
    edgekd_session *session, const edgekd_buffers *buffers, edgekd_runner **runner, edgekd_message *message) {
    return guarded(message, [&] {
        auto made = std::make_unique<Runner>();
        made->session = reinterpret_cast<Session *>(session);
        made->inputs = static_cast<const float *>(buffers->inputs[0]);
        made->outputs = static_cast<float *>(buffers->outputs[0]);
        *runner = reinterpret_cast<edgekd_runner *>(made.release());
    });
}

void destroy(edgekd_runner *runner) { delete reinterpret_cast<Runner *>(runner); }

edgekd_status run(edgekd_runner *runner, std::size_t batch, edgekd_message *message) {
    const auto *made = reinterpret_cast<Runner *>(runner);
    const Session &session = *made->session;
    if (!session.failure.empty()) {
        edgekd::plugins::tell(message, session.failure.c_str());
        return EDGEKD_FAILED;
    }
    if (session.sleep_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(session.sleep_ms));
    for (std::size_t index = 0; index < batch; ++index) {
        float sum = 0;
        for (std::size_t place = 0; place < session.in; ++place) sum += made->inputs[index * session.in + place];
        for (std::size_t place = 0; place < session.out; ++place) {
            made->outputs[index * session.out + place] =
                sum / static_cast<float>(session.in) * static_cast<float>(place + 1);
        }
    }
    return EDGEKD_OK;
}

constexpr edgekd_backend_api API = {
    sizeof(edgekd_backend_api), NULL_ABI, NULL_NAME, open, close, version, nullptr, nullptr, create, destroy, run,
};

}  // namespace

extern "C" const edgekd_backend_api *edgekd_backend(void) { return &API; }
