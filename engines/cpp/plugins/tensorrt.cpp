// The plugins `tensorrt` and, with EDGEKD_TENSORRT_RTX, `tensorrt-rtx`: one source, two libraries.
#include "common.hpp"
#include "tensorrt_session.hpp"

#include <edgekd/backend.h>

struct edgekd_session : edgekd::trt::Session {
    using Session::Session;
};

struct edgekd_runner : edgekd::trt::Runner {
    using Runner::Runner;
};

namespace {

using edgekd::plugins::guarded;

edgekd_status open(
    const edgekd_source *source, edgekd_session **session, int *keeps_files,
    edgekd_message *message) {
    return guarded(message, [&] {
        *session = new edgekd_session(*source);
        *keeps_files = 0; // the library has copied what it needs
    });
}

void close(edgekd_session *session) {
    const edgekd::trt::Current current(session->ordinal());
    delete session;
}

const char *runtime(edgekd_session *session) { return session->runtime(); }

void *allocate(edgekd_session *session, size_t bytes) { return session->allocate(bytes); }

void release(edgekd_session *session, void *memory) { session->release(memory); }

edgekd_status create(
    edgekd_session *session, const edgekd_buffers *buffers, edgekd_runner **runner,
    edgekd_message *message) {
    return guarded(message, [&] { *runner = new edgekd_runner(*session, *buffers); });
}

void destroy(edgekd_runner *runner) {
    const edgekd::trt::Current current(runner->ordinal());
    delete runner;
}

edgekd_status run(edgekd_runner *runner, size_t batch, edgekd_message *message) {
    return guarded(message, [&] { runner->run(batch); });
}

constexpr edgekd_backend_api API = {
    sizeof(edgekd_backend_api),
    EDGEKD_BACKEND_ABI,
    edgekd::trt::BACKEND,
    open,
    close,
    runtime,
    allocate,
    release,
    create,
    destroy,
    run,
};

} // namespace

const edgekd_backend_api *edgekd_backend(void) { return &API; }

// For tests, and not to be seen in the plugin itself (cmake/plugin.map): how many batches are one
// launch of a CUDA graph of ours, and why others are not, or "".
extern "C" __attribute__((visibility("default"))) const char *edgekd_tensorrt_graphs(
    const edgekd_runner *runner, size_t *graphs) {
    *graphs = runner->graphs();
    return runner->refused().c_str();
}
