/* EdgeKD's C interface: opens a bundle, feeds it images or tensors, gives outputs.
 *
 * Handles are opaque and checked: one that was closed, or never was one, gives a status and a
 * sentence. Every struct begins with its own size, which you set before you pass it, so that
 * later versions can add fields behind it. No exception crosses this boundary; nothing is thrown
 * and nothing is printed. A call that fails leaves its outputs as they were.
 *
 * An engine may be used by any number of threads. A context belongs to one thread at a time; a
 * second one that uses it meanwhile gets EDGEKD_BUSY.
 */
#ifndef EDGEKD_EDGEKD_H
#define EDGEKD_EDGEKD_H

#include <stddef.h>
#include <stdint.h>

#if defined(EDGEKD_BUILDING)
#define EDGEKD_API __attribute__((visibility("default")))
#else
#define EDGEKD_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define EDGEKD_VERSION "0.1.0"
#define EDGEKD_MAX_RANK 8

typedef int32_t edgekd_status;
enum {
    EDGEKD_OK = 0,
    EDGEKD_ARGUMENT = 1,     /* a null pointer, a wrong size, shape, type or number */
    EDGEKD_NOT_A_BUNDLE = 2, /* no bundle there, or of a later major version */
    EDGEKD_CORRUPT = 3,      /* a file is missing, was cut short or changed */
    EDGEKD_UNAVAILABLE = 4,  /* no plugin, or no runtime or device for it */
    EDGEKD_INCOMPATIBLE = 5, /* the engine is for another device or version */
    EDGEKD_FAILED = 6,       /* the runtime refused or failed */
    EDGEKD_BUSY = 7,         /* another thread is using this context */
    EDGEKD_CLOSED = 8,       /* the handle was closed, or is none */
    EDGEKD_NO_MEMORY = 9,
    EDGEKD_INTERNAL = 10     /* a bug of EdgeKD */
};

/* Element types, of any tensor. */
typedef int32_t edgekd_dtype;
enum {
    EDGEKD_FLOAT32 = 1,
    EDGEKD_FLOAT16 = 2,
    EDGEKD_FLOAT64 = 3,
    EDGEKD_UINT8 = 4,
    EDGEKD_INT8 = 5,
    EDGEKD_INT32 = 6,
    EDGEKD_INT64 = 7,
    EDGEKD_BOOL = 8
};

typedef struct edgekd_engine edgekd_engine;
typedef struct edgekd_context edgekd_context;

typedef struct edgekd_options {
    size_t size;           /* sizeof(edgekd_options) */
    const char *target;    /* only this target's engines, such as "openvino-cpu"; NULL for any */
    const char *precision; /* only this precision, such as "int8"; NULL for any */
    const char *device;    /* of the runtime's devices, such as "cpu" or "cuda:1"; NULL: the engine's */
    const char *plugins;   /* the folder of the plugins; NULL: $EDGEKD_PLUGINS, or beside the library */
    uint32_t threads;      /* of a CPU, for one inference; 0 for 1 */
    uint32_t streams;      /* contexts that will run at the same time; 0 for 1. OpenVINO asks */
    uint32_t max_batch;    /* the largest batch that is ever run; 0 for 1 */
    uint32_t warmup;       /* runs of a context when it is made, not counted; EDGEKD_NO_WARMUP: none */
    double deadline_ms;    /* for each answer; 0: the bundle's own budget; INFINITY: none */
} edgekd_options;
#define EDGEKD_NO_WARMUP UINT32_MAX /* 0 stands for the usual ten */

typedef struct edgekd_info {
    size_t size;           /* sizeof(edgekd_info) */
    const char *name;      /* all strings live as long as the engine */
    const char *target;
    const char *backend;
    const char *precision;
    const char *device;    /* what it was built for */
    const char *version;   /* of the runtime that built it */
    const char *runtime;   /* of the runtime that runs it */
    size_t labels;
    size_t inputs;
    size_t outputs;
    uint32_t min_batch;
    uint32_t max_batch;    /* of a context */
    uint32_t height;       /* of the first input; images are brought to it */
    uint32_t width;
    uint32_t channels;
    uint64_t deadline_ns;  /* 0: none */
} edgekd_info;

/* Memory of a tensor. Of a context: its own, for max_batch, written to and read where it lies. */
typedef struct edgekd_tensor {
    size_t size;           /* sizeof(edgekd_tensor) */
    const char *name;      /* NULL in what you give */
    void *data;            /* NULL in what an engine tells */
    size_t bytes;
    edgekd_dtype dtype;
    uint32_t rank;
    int64_t shape[EDGEKD_MAX_RANK]; /* -1 where an engine's batch may vary */
} edgekd_tensor;

typedef enum edgekd_order { EDGEKD_RGB = 0, EDGEKD_BGR = 1 } edgekd_order;

/* An image of any size, a byte a channel, row by row, channels side by side. */
typedef struct edgekd_image {
    size_t size;           /* sizeof(edgekd_image) */
    const uint8_t *data;
    uint32_t width;
    uint32_t height;
    uint32_t channels;     /* 1 or 3; or as many as the model takes */
    int32_t order;         /* edgekd_order, of 3 channels */
    size_t stride;         /* bytes from a row to the next; 0: width * channels */
} edgekd_image;

typedef struct edgekd_stats {
    size_t size;           /* sizeof(edgekd_stats) */
    uint64_t count;        /* answers of all contexts, warm-up not counted */
    uint64_t misses;       /* those later than the deadline, and frames without an answer */
    uint64_t p50_ns;       /* to 1.6 % */
    uint64_t p99_ns;
    uint64_t deadline_ns;  /* 0: none, and no answer is a miss */
} edgekd_stats;

/* "0.1.0", of the library that is loaded. */
EDGEKD_API const char *edgekd_version(void);

/* A status in a few words. */
EDGEKD_API const char *edgekd_status_text(edgekd_status status);

/* What this thread's last failing call said, in one line; lives until its next failing call. */
EDGEKD_API const char *edgekd_last_error(void);

/* Opens the best measured engine of a bundle that can run here, every byte checked before its
 * runtime sees it. NULL options are the usual ones. */
EDGEKD_API edgekd_status edgekd_open(
    const char *bundle, const edgekd_options *options, edgekd_engine **engine);

/* Gives the handle back. Contexts made of it go on until they are destroyed. */
EDGEKD_API edgekd_status edgekd_close(edgekd_engine *engine);

EDGEKD_API edgekd_status edgekd_engine_info(edgekd_engine *engine, edgekd_info *info);

/* An input or output of an engine: name, type and shape. */
EDGEKD_API edgekd_status edgekd_engine_input(
    edgekd_engine *engine, size_t index, edgekd_tensor *tensor);
EDGEKD_API edgekd_status edgekd_engine_output(
    edgekd_engine *engine, size_t index, edgekd_tensor *tensor);

/* The name of a class. */
EDGEKD_API edgekd_status edgekd_engine_label(
    edgekd_engine *engine, size_t index, const char **label);

/* Runs the bundle's golden images. Tells the largest difference to what they must give, and is
 * EDGEKD_CORRUPT where that is more than the manifest allows. Not counted in the statistics. */
EDGEKD_API edgekd_status edgekd_check_golden(edgekd_engine *engine, double *difference);

EDGEKD_API edgekd_status edgekd_engine_stats(edgekd_engine *engine, edgekd_stats *stats);

/* Counts a frame as missed that got no answer: a queue has dropped it, or it failed. */
EDGEKD_API edgekd_status edgekd_engine_drop(edgekd_engine *engine);

/* Memory for a thread that runs the engine. All of it is taken here, and nothing in a run, but for
 * tables where an image comes whose size is none of the last few. */
EDGEKD_API edgekd_status edgekd_context_create(edgekd_engine *engine, edgekd_context **context);
EDGEKD_API edgekd_status edgekd_context_destroy(edgekd_context *context);

/* A context's own memory: fill inputs and read outputs there, no copy is made. */
EDGEKD_API edgekd_status edgekd_context_input(
    edgekd_context *context, size_t index, edgekd_tensor *tensor);
EDGEKD_API edgekd_status edgekd_context_output(
    edgekd_context *context, size_t index, edgekd_tensor *tensor);

/* Copies a tensor of yours into an input; its type and shape are checked, its batch is the first
 * dimension. */
EDGEKD_API edgekd_status edgekd_context_set(
    edgekd_context *context, size_t index, const edgekd_tensor *tensor);

/* Runs what the inputs hold. The outputs hold the answers when it returns. */
EDGEKD_API edgekd_status edgekd_context_run(edgekd_context *context, size_t batch);

/* Brings images to the model's input as calibration saw them, and runs them as one batch. */
EDGEKD_API edgekd_status edgekd_context_run_images(
    edgekd_context *context, const edgekd_image *images, size_t count);

/* As one image of edgekd_context_run_images; its latency is counted from when the frame came, by
 * CLOCK_MONOTONIC in nanoseconds. For a queue of frames; see stream.hpp. */
EDGEKD_API edgekd_status edgekd_context_answer(
    edgekd_context *context, const edgekd_image *frame, uint64_t since_ns);

#ifdef __cplusplus
}
#endif
#endif
