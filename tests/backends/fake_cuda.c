/* A look-alike of libcuda.so.1, written from the documentation of the CUDA driver API, for tests without a GPU.

   Simulated: every device. "Device" memory is the host's, so that a fake TensorRT can read it; a stream does nothing
   until somebody waits for it, as late as a real one may; time is a counter (1 ms a copy, 10 ms a function). Real: the
   calling convention, the bounds, the lifetimes and the order, which are checked harder than a driver would:

   - memory lies between guards that are checked, and is poisoned and kept when it is freed, so that a later write shows;
   - a handle that is used after it was destroyed, a copy out of bounds or from pageable memory, a call without a current
     context or forbidden while capturing is refused as a driver may, and counted as a fault;
   - what is alive can be counted, and the n-th call of any function can be told to fail. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default"))) int
enum { OK, INVALID_VALUE, OUT_OF_MEMORY, NOT_INITIALIZED, STUB = 34, NO_DEVICE = 100, INVALID_DEVICE,
       INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, CAPTURE_UNSUPPORTED = 900,
       CAPTURE_INVALIDATED, MISMATCH = 803, UNKNOWN = 999 };
enum { GUARD = 64, ALIVE = 0xA5, POISON = 0xDD, DEPTH = 16, FAULTS = 8 };
enum { DEVICE = 1, PINNED = 2, MAPPED = 4, STREAM = 8, EVENT = 16, GRAPH = 32, EXEC = 64 };
enum { COPY_IN, COPY_OUT, FUNCTION, RECORD };

typedef unsigned long long address;
typedef struct Thing Thing;
typedef struct Op { int kind; void *to; const void *from; size_t size; void (*function)(void *); void *data;
                    Thing *event; struct Op *next; } Op;
struct Thing { int kind, alive; char *base; size_t size;            /* memory */
               Op *ops; Thing *capturing; int broken, capture_mode;  /* streams and graphs */
               int recorded, reached; double time;                   /* events */
               Thing *next; };

static struct { int devices, version, integrated, initialized, contexts; size_t memory, used; double clock;
                Thing *things; int faults; char fault[FAULTS][160];
                char failing[64]; int countdown, code; } now;
static __thread int depth; /* contexts pushed by this thread */
static int context;        /* its address is the primary context's handle */

static void fault(const char *what, const char *call) {
    if (now.faults < FAULTS) snprintf(now.fault[now.faults], sizeof now.fault[0], "%s: %s", call, what);
    now.faults++;
}
static int refuse(int code, const char *what, const char *call) { fault(what, call); return code; }

static int scripted(const char *call) {
    return now.countdown > 0 && !strcmp(call, now.failing) && --now.countdown == 0 ? now.code : OK;
}
#define SCRIPT do { int code_ = scripted(__func__); if (code_) return code_; } while (0)
#define ENTER do { SCRIPT; if (!now.initialized) return refuse(NOT_INITIALIZED, "before cuInit", __func__); } while (0)
#define CONTEXT do { ENTER; if (!depth) return refuse(INVALID_CONTEXT, "no current context", __func__); } while (0)
#define LIVE(handle, kind) do { if (!is(handle, kind)) return refuse(INVALID_HANDLE, "not alive", __func__); } while (0)

static Thing *make(int kind) {
    Thing *thing = calloc(1, sizeof *thing);
    thing->kind = kind, thing->alive = 1, thing->next = now.things;
    return now.things = thing;
}
static int is(const void *handle, int kind) {
    for (Thing *thing = now.things; thing; thing = thing->next)
        if (thing == handle) return thing->alive && thing->kind == kind;
    return 0;
}
static Thing *holding(const void *start, size_t size, int kinds) {
    for (Thing *thing = now.things; thing; thing = thing->next)
        if (thing->alive && thing->kind & kinds && (const char *)start >= thing->base + GUARD
            && (const char *)start + size <= thing->base + GUARD + thing->size) return thing;
    return NULL;
}
static int all(const char *start, size_t size, int byte) {
    for (size_t i = 0; i < size; i++) if ((unsigned char)start[i] != byte) return 0;
    return 1;
}
static Thing *block(int kind, size_t size) {
    Thing *thing = make(kind);
    thing->base = malloc(size + 2 * GUARD), thing->size = size, now.used += size;
    memset(thing->base, ALIVE, size + 2 * GUARD);
    return thing;
}
static void check(const Thing *thing, const char *call) {
    if (!(thing->kind & (DEVICE | PINNED | MAPPED))) return;
    if (!thing->alive) { if (!all(thing->base, thing->size + 2 * GUARD, POISON)) fault("written after it was freed", call); }
    else if (!all(thing->base, GUARD, ALIVE) || !all(thing->base + GUARD + thing->size, GUARD, ALIVE)) fault("written out of bounds", call);
}
static int release(void *start, int kinds, const char *call) {
    for (Thing *thing = now.things; thing; thing = thing->next)
        if (thing->alive && thing->kind & kinds && thing->base + GUARD == start) {
            check(thing, call);
            memset(thing->base, POISON, thing->size + 2 * GUARD);
            thing->alive = 0, now.used -= thing->size;
            return OK;
        }
    return refuse(INVALID_VALUE, "not an allocation that is alive", call);
}

static void put(Thing *stream, Op op) {
    Thing *target = stream->capturing ? stream->capturing : stream;
    Op **last = &target->ops, *made = malloc(sizeof op);
    while (*last) last = &(*last)->next;
    *made = op, made->next = NULL, *last = made;
}
static void drop(Thing *thing) { while (thing->ops) { Op *op = thing->ops; thing->ops = op->next; free(op); } }
static void work(Thing *stream) {
    while (stream->ops) {
        Op *op = stream->ops;
        stream->ops = op->next;
        if (op->kind == COPY_IN || op->kind == COPY_OUT) {
            const void *host = op->kind == COPY_IN ? op->from : op->to, *device = op->kind == COPY_IN ? op->to : op->from;
            if (!holding(host, op->size, PINNED | MAPPED)) fault("host memory freed under a copy", "stream");
            else if (!holding(device, op->size, DEVICE | MAPPED)) fault("device memory freed under a copy", "stream");
            else memcpy(op->to, op->from, op->size);
            now.clock += 1;
        } else if (op->kind == FUNCTION) op->function(op->data), now.clock += 10;
        else if (op->event->alive) op->event->reached++, op->event->time = now.clock;
        free(op);
    }
}
static void work_all(void) {
    for (Thing *thing = now.things; thing; thing = thing->next) if (thing->alive && thing->kind == STREAM) work(thing);
}
static int forbidden(const char *call) { /* a call that may synchronise voids a capture of the same thread */
    for (Thing *thing = now.things; thing; thing = thing->next)
        if (thing->alive && thing->kind == STREAM && thing->capturing) { thing->broken = 1; return 1; }
    (void)call;
    return 0;
}
#define SAFE do { if (forbidden(__func__)) return CAPTURE_UNSUPPORTED; } while (0)

/* -- for the tests ---------------------------------------------------------------------------------------------- */

API fake_reset(int devices, int version, int integrated, size_t memory) {
    for (Thing *thing = now.things, *next; thing; thing = next) {
        next = thing->next;
        drop(thing), free(thing->base), free(thing);
    }
    memset(&now, 0, sizeof now);
    now.devices = devices, now.version = version, now.integrated = integrated, now.memory = memory, depth = 0;
    return OK;
}
API fake_fail(const char *call, int nth, int code) {
    snprintf(now.failing, sizeof now.failing, "%s", call);
    now.countdown = nth, now.code = code;
    return OK;
}
API fake_alive(int kinds) {
    int count = 0;
    for (Thing *thing = now.things; thing; thing = thing->next) count += thing->alive && thing->kind & kinds;
    return count;
}
API fake_contexts(void) { return now.contexts; }
API fake_depth(void) { return depth; }
API fake_reaches(address start, size_t size) { return holding((void *)start, size, DEVICE | MAPPED) != NULL; }
API fake_faults(void) {
    for (Thing *thing = now.things; thing; thing = thing->next) check(thing, "at the end");
    return now.faults;
}
__attribute__((visibility("default"))) const char *fake_fault(int index) { return now.fault[index]; }

/* -- the driver API --------------------------------------------------------------------------------------------- */

static const struct { int code; const char *name, *text; } WORDS[] = {
    {OK, "CUDA_SUCCESS", "no error"}, {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {STUB, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"}};

API cuGetErrorName(int code, const char **text) {
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) if (WORDS[i].code == code) return *text = WORDS[i].name, OK;
    return *text = NULL, INVALID_VALUE;
}
API cuGetErrorString(int code, const char **text) {
    for (size_t i = 0; i < sizeof WORDS / sizeof *WORDS; i++) if (WORDS[i].code == code) return *text = WORDS[i].text, OK;
    return *text = NULL, INVALID_VALUE;
}
API cuDriverGetVersion(int *version) { SCRIPT; return *version = now.version, OK; }
API cuInit(unsigned flags) {
    SCRIPT;
    if (flags) return INVALID_VALUE;
    if (!now.devices) return NO_DEVICE;
    return now.initialized = 1, OK;
}
API cuDeviceGetCount(int *count) { ENTER; return *count = now.devices, OK; }
API cuDeviceGet(int *device, int index) {
    ENTER;
    return index < 0 || index >= now.devices ? INVALID_DEVICE : (*device = 100 + index, OK); /* a handle is no index */
}
static int unknown(int device) { return device < 100 || device >= 100 + now.devices; }
API cuDeviceGetName(char *name, int size, int device) {
    ENTER;
    if (unknown(device)) return INVALID_DEVICE;
    return snprintf(name, size, "Simulated GPU %d\x1b[2J", device - 100), OK;
}
API cuDeviceGetAttribute(int *value, int attribute, int device) {
    ENTER;
    if (unknown(device)) return INVALID_DEVICE;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : attribute == 18 ? now.integrated : attribute == 19;
    return OK;
}
API cuDeviceTotalMem_v2(size_t *bytes, int device) { ENTER; return unknown(device) ? INVALID_DEVICE : (*bytes = now.memory, OK); }
API cuDevicePrimaryCtxRetain(void **made, int device) {
    ENTER;
    if (unknown(device)) return INVALID_DEVICE;
    return now.contexts++, *made = &context, OK;
}
API cuDevicePrimaryCtxRelease_v2(int device) {
    ENTER;
    if (unknown(device) || !now.contexts) return refuse(INVALID_CONTEXT, "not retained", __func__);
    if (depth && now.contexts == 1) fault("released while current", __func__);
    return now.contexts--, OK;
}
API cuCtxPushCurrent_v2(void *given) {
    ENTER;
    if (given != &context || !now.contexts) return refuse(INVALID_CONTEXT, "not a context", __func__);
    return depth >= DEPTH ? INVALID_VALUE : (depth++, OK);
}
API cuCtxPopCurrent_v2(void **popped) { CONTEXT; return depth--, *popped = &context, OK; }
API cuCtxSetCurrent(void *given) { ENTER; return depth = given != NULL, OK; }
API cuMemGetInfo_v2(size_t *left, size_t *total) { CONTEXT; return *left = now.memory - now.used, *total = now.memory, OK; }
API cuMemAlloc_v2(address *made, size_t size) {
    CONTEXT; SAFE;
    if (!size) return INVALID_VALUE;
    if (now.used + size > now.memory) return OUT_OF_MEMORY;
    return *made = (address)(uintptr_t)(block(DEVICE, size)->base + GUARD), OK;
}
API cuMemFree_v2(address memory) { CONTEXT; SAFE; work_all(); return release((void *)(uintptr_t)memory, DEVICE, __func__); }
API cuMemHostAlloc(void **made, size_t size, unsigned flags) {
    CONTEXT; SAFE;
    if (!size || flags & ~7u) return INVALID_VALUE;
    if (now.used + size > now.memory) return OUT_OF_MEMORY;
    return *made = block(flags & 2 ? MAPPED : PINNED, size)->base + GUARD, OK;
}
API cuMemFreeHost(void *memory) { CONTEXT; SAFE; work_all(); return release(memory, PINNED | MAPPED, __func__); }
API cuMemHostGetDevicePointer_v2(address *made, void *memory, unsigned flags) {
    CONTEXT;
    if (flags || !holding(memory, 1, MAPPED)) return refuse(INVALID_VALUE, "not mapped", __func__);
    return *made = (address)(uintptr_t)memory, OK;
}
API cuMemcpyHtoDAsync_v2(address to, const void *from, size_t size, Thing *stream) {
    CONTEXT; LIVE(stream, STREAM);
    if (!holding((void *)(uintptr_t)to, size, DEVICE | MAPPED)) return refuse(INVALID_VALUE, "beyond device memory", __func__);
    if (!holding(from, size, PINNED | MAPPED)) return refuse(INVALID_VALUE, "not page-locked", __func__);
    return put(stream, (Op){.kind = COPY_IN, .to = (void *)(uintptr_t)to, .from = from, .size = size}), OK;
}
API cuMemcpyDtoHAsync_v2(void *to, address from, size_t size, Thing *stream) {
    CONTEXT; LIVE(stream, STREAM);
    if (!holding((void *)(uintptr_t)from, size, DEVICE | MAPPED)) return refuse(INVALID_VALUE, "beyond device memory", __func__);
    if (!holding(to, size, PINNED | MAPPED)) return refuse(INVALID_VALUE, "not page-locked", __func__);
    return put(stream, (Op){.kind = COPY_OUT, .to = to, .from = (void *)(uintptr_t)from, .size = size}), OK;
}
API cuLaunchHostFunc(Thing *stream, void (*function)(void *), void *data) {
    CONTEXT; LIVE(stream, STREAM);
    return put(stream, (Op){.kind = FUNCTION, .function = function, .data = data}), OK;
}
API cuStreamCreate(Thing **made, unsigned flags) { CONTEXT; SAFE; return flags > 1 ? INVALID_VALUE : (*made = make(STREAM), OK); }
API cuStreamSynchronize(Thing *stream) { CONTEXT; LIVE(stream, STREAM); SAFE; return work(stream), OK; }
API cuStreamDestroy_v2(Thing *stream) { CONTEXT; LIVE(stream, STREAM); work(stream); return stream->alive = 0, OK; }
API cuEventCreate(Thing **made, unsigned flags) { CONTEXT; return flags > 7 ? INVALID_VALUE : (*made = make(EVENT), OK); }
API cuEventRecord(Thing *event, Thing *stream) {
    CONTEXT; LIVE(event, EVENT); LIVE(stream, STREAM);
    return event->recorded++, put(stream, (Op){.kind = RECORD, .event = event}), OK;
}
API cuEventSynchronize(Thing *event) { CONTEXT; LIVE(event, EVENT); SAFE; return work_all(), OK; }
API cuEventElapsedTime(float *milliseconds, Thing *start, Thing *end) {
    CONTEXT; LIVE(start, EVENT); LIVE(end, EVENT);
    if (!start->recorded || !end->recorded) return refuse(INVALID_HANDLE, "an event was never recorded", __func__);
    if (start->reached < start->recorded || end->reached < end->recorded) return NOT_READY;
    return *milliseconds = (float)(end->time - start->time), OK;
}
API cuEventDestroy_v2(Thing *event) { CONTEXT; LIVE(event, EVENT); return event->alive = 0, OK; }
API cuStreamBeginCapture_v2(Thing *stream, int mode) {
    CONTEXT; LIVE(stream, STREAM);
    if (stream->capturing || mode < 0 || mode > 2) return refuse(INVALID_VALUE, "cannot capture", __func__);
    return stream->capturing = make(GRAPH), stream->broken = 0, OK;
}
API cuStreamEndCapture(Thing *stream, Thing **made) {
    CONTEXT; LIVE(stream, STREAM);
    if (!stream->capturing) return refuse(INVALID_VALUE, "not capturing", __func__);
    *made = stream->capturing, stream->capturing = NULL;
    return stream->broken ? ((*made)->alive = 0, *made = NULL, CAPTURE_INVALIDATED) : OK;
}
static void repeat(Thing *target, const Thing *graph) { for (const Op *op = graph->ops; op; op = op->next) put(target, *op); }
API cuGraphInstantiateWithFlags(Thing **made, Thing *graph, unsigned long long flags) {
    CONTEXT; LIVE(graph, GRAPH);
    if (flags) return INVALID_VALUE;
    return repeat(*made = make(EXEC), graph), OK;
}
API cuGraphLaunch(Thing *graph, Thing *stream) { CONTEXT; LIVE(graph, EXEC); LIVE(stream, STREAM); return repeat(stream, graph), OK; }
API cuGraphDestroy(Thing *graph) { CONTEXT; LIVE(graph, GRAPH); return drop(graph), graph->alive = 0, OK; }
API cuGraphExecDestroy(Thing *graph) { CONTEXT; LIVE(graph, EXEC); return drop(graph), graph->alive = 0, OK; }

/* cuda-python asks for every function by its plain name. */
API cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    char versioned[96];
    Dl_info self;
    (void)flags;
    if (!strcmp(name, "cuGraphInstantiate") && version >= 12000) name = "cuGraphInstantiateWithFlags";
    dladdr(&now, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    for (int i = 3; i >= 1; i--) {
        snprintf(versioned, sizeof versioned, i > 1 ? "%s_v%d" : "%s", name, i);
        if ((*found = dlsym(library, versioned))) break;
    }
    dlclose(library);
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}
