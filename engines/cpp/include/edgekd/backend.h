/* What a backend's plugin provides: `libedgekd_NAME.so` with the one function edgekd_backend().
 *
 * Everything that a plugin gets is checked: files are the very bytes that were held against the
 * manifest. A plugin reads no file of the bundle by itself, throws nothing and prints nothing.
 */
#ifndef EDGEKD_BACKEND_H
#define EDGEKD_BACKEND_H

#include <edgekd/edgekd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Another number is refused. It rises with every change of a struct that plugins are given: they are
 * passed side by side, so that none may grow unseen. */
#define EDGEKD_BACKEND_ABI 1u

/* Where a plugin tells what went wrong: one line, ended by a zero. */
typedef struct edgekd_message {
    char text[1024];
} edgekd_message;

typedef struct edgekd_file {
    const char *name; /* the last part of its path, such as "int8.xml" */
    const void *data;
    size_t bytes;
} edgekd_file;

typedef struct edgekd_pair {
    const char *key;
    const char *value;
} edgekd_pair;

/* An engine to be opened, as the manifest has it. */
typedef struct edgekd_source {
    size_t size;
    const char *backend;
    const char *target;
    const char *version;
    const char *precision;
    const char *device;
    const edgekd_file *files; /* the engine, then its parts; see `keeps_files` */
    size_t file_count;
    const edgekd_pair *options;
    size_t option_count;
    const edgekd_tensor *inputs; /* name, dtype, rank, shape; -1 where the batch may vary */
    size_t input_count;
    const edgekd_tensor *outputs;
    size_t output_count;
    const char *chosen; /* the device that the user asks for; NULL for the engine's own */
    uint32_t threads;
    uint32_t streams;
    uint32_t max_batch;
} edgekd_source;

typedef struct edgekd_session edgekd_session; /* an opened engine, of any number of threads */
typedef struct edgekd_runner edgekd_runner;   /* what one context runs */

/* A context's memory: for each input and output of the source, in that order, room for max_batch. */
typedef struct edgekd_buffers {
    size_t size;
    void *const *inputs;
    void *const *outputs;
} edgekd_buffers;

typedef struct edgekd_backend_api {
    size_t size;
    uint32_t abi; /* EDGEKD_BACKEND_ABI */
    const char *name;

    /* Opens an engine, or says why not: EDGEKD_UNAVAILABLE and EDGEKD_INCOMPATIBLE where it cannot
     * run here, so that the next of the bundle is tried; EDGEKD_CORRUPT where it is not what the
     * manifest says; EDGEKD_FAILED, EDGEKD_NO_MEMORY. The strings of the source live as long as the session; its files only
     * until this returns, unless `keeps_files` is set to 1: then as long as the session too. */
    edgekd_status (*open)(
        const edgekd_source *source, edgekd_session **session, int *keeps_files,
        edgekd_message *message);
    void (*close)(edgekd_session *session);

    /* The version of the runtime that runs it; lives as long as the session. */
    const char *(*runtime)(edgekd_session *session);

    /* Memory of a kind that the runtime likes best, such as page-locked; both NULL for any. */
    void *(*allocate)(edgekd_session *session, size_t bytes);
    void (*release)(edgekd_session *session, void *memory);

    /* Makes ready whatever a run needs, for every batch from min_batch to max_batch. */
    edgekd_status (*create)(
        edgekd_session *session, const edgekd_buffers *buffers, edgekd_runner **runner,
        edgekd_message *message);
    void (*destroy)(edgekd_runner *runner);

    /* Runs a batch that lies in the buffers. One thread at a time for a runner; allocates nothing
     * of its own. */
    edgekd_status (*run)(edgekd_runner *runner, size_t batch, edgekd_message *message);
} edgekd_backend_api;

__attribute__((visibility("default"))) const edgekd_backend_api *edgekd_backend(void);

#ifdef __cplusplus
}
#endif
#endif
