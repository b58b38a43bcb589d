/* A libnvidia-ml.so.1 for tests. What it tells is read at each call from the file `state` beside it: lines of a key
 * and a number. Of the library as a whole: `count`, `nodriver`, `hang`, `crash`. Of device N: `lost.N`, `total_mb.N`,
 * `free_mb.N`, `temperature.N`, `busy.N` (percent), `ecc.N`, `reasons.N` (for clocks), `remapping.N` (1 pending, 2 failed), and of the K-th
 * process on it `pid.N.K`, `pid_mb.N.K`. Device N is at PCI 0000:NN:00.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, INSUFFICIENT = 7, NO_DRIVER = 9, LOST = 15 };

typedef struct device *Device;

struct memory {
    unsigned long long total, free, used;
};

static int initialised;

static long long told(const char *key, long long otherwise) {
    Dl_info here;
    char path[PATH_MAX], name[64];
    long long value, found = otherwise;
    dladdr((void *)told, &here);
    snprintf(path, sizeof path, "%s", here.dli_fname);
    char *slash = strrchr(path, '/');
    strcpy(slash ? slash + 1 : path, "state");
    FILE *file = fopen(path, "r");
    if (!file) return otherwise;
    while (fscanf(file, "%63s %lld", name, &value) == 2)
        if (!strcmp(name, key)) found = value;
    fclose(file);
    return found;
}

static long long of(const char *key, Device device, long long otherwise) {
    char name[64];
    snprintf(name, sizeof name, "%s.%ld", key, (long)device - 1);
    return told(name, otherwise);
}

static long long at(const char *key, Device device, int place) {
    char name[64];
    snprintf(name, sizeof name, "%s.%ld.%d", key, (long)device - 1, place);
    return told(name, 0);
}

static int look(Device device) {
    while (told("hang", 0)) usleep(10000);
    if (told("crash", 0)) abort();
    if (!initialised) return UNINITIALIZED;
    return of("lost", device, 0) ? LOST : SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (told("nodriver", 0)) return NO_DRIVER;
    initialised = 1;
    return SUCCESS;
}

const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "an error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = (unsigned)told("count", 1);
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned number, Device *device) {
    if (number >= told("count", 1)) return INVALID;
    *device = (Device)(long)(number + 1);
    return look(*device);
}

int nvmlDeviceGetName(Device device, char *name, unsigned size) {
    snprintf(name, size, "Fake GPU");
    return look(device);
}

int nvmlDeviceGetUUID(Device device, char *uuid, unsigned size) {
    snprintf(uuid, size, "GPU-00000000-0000-0000-0000-%012ld", (long)device - 1);
    return look(device);
}

int nvmlDeviceGetMemoryInfo(Device device, struct memory *memory) {
    memory->total = of("total_mb", device, 32768) << 20;
    memory->free = of("free_mb", device, 32000) << 20;
    memory->used = memory->total - memory->free;
    return look(device);
}

struct process {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
};

int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned *count, struct process *processes) {
    unsigned have = 0, room = *count;
    while (at("pid", device, (int)have)) have++;
    *count = have;
    if (have > room) return INSUFFICIENT;
    for (unsigned place = 0; place < have; place++)
        processes[place] = (struct process){
            .pid = (unsigned)at("pid", device, (int)place),
            .used = (unsigned long long)at("pid_mb", device, (int)place) << 20,
        };
    return look(device);
}

int nvmlDeviceGetTemperature(Device device, int sensor, unsigned *celsius) {
    (void)sensor;
    *celsius = (unsigned)of("temperature", device, 40);
    return look(device);
}

int nvmlDeviceGetUtilizationRates(Device device, unsigned rates[2]) {
    rates[0] = (unsigned)of("busy", device, 0);
    rates[1] = 0;
    return look(device);
}

int nvmlDeviceGetTotalEccErrors(Device device, int type, int counter, unsigned long long *count) {
    (void)type, (void)counter;
    *count = (unsigned long long)of("ecc", device, 0);
    return look(device);
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Device device, unsigned long long *reasons) {
    *reasons = (unsigned long long)of("reasons", device, 0);
    return look(device);
}

int nvmlDeviceGetRemappedRows(Device device, unsigned *corrected, unsigned *not, unsigned *pending, unsigned *failed) {
    *corrected = *not = 0;
    *pending = of("remapping", device, 0) == 1;
    *failed = of("remapping", device, 0) == 2;
    return look(device);
}

struct place {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char name[32];
};

int nvmlDeviceGetPciInfo_v3(Device device, struct place *place) {
    memset(place, 0, sizeof *place);
    place->bus = (unsigned)(long)device - 1;
    return look(device);
}
