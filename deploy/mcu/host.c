/* Runs the C array on a computer, by LiteRT's C library, and prints the class: what firmware must answer too.
 *
 *     edgeprune micro model.tflite --out .
 *     cc -std=c11 -Wall -Wextra -Werror host.c model.c -ldl -o host
 *     ./host libLiteRt.so < input.bin          # the bytes of one input, as the model takes them
 *
 * libLiteRt.so is in the wheel of ai-edge-litert (2.3).  Only what is used of its headers (litert/c) is declared here.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgeprune_io.h"
#include "model.h"

enum { CPU = 1, READ = 0, WRITE = 1 }; /* LiteRtHwAccelerators, LiteRtTensorBufferLockMode */

typedef struct {
    uint32_t fields[64]; /* LiteRtRankedTensorType, which is smaller */
} TensorType;

static void* library;

static void* find(const char* name) {
    void* found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "there is no %s: %s\n", name, dlerror());
        exit(2);
    }
    return found;
}

static void check(int status, const char* what) {
    if (status != 0) {
        fprintf(stderr, "%s failed with status %d\n", what, status);
        exit(1);
    }
}

/* A function of the library, called with its own types; its status must be 0. */
#define CALL(name, types, arguments)                   \
    do {                                               \
        int(*call) types;                              \
        *(void**)(&call) = find(#name);                \
        check(call arguments, #name);                  \
    } while (0)

static void* buffer_of(void* environment, void* signature, void* compiled, int output) {
    void *tensor = NULL, *needs = NULL, *buffer = NULL;
    TensorType type;
    if (output) {
        CALL(LiteRtGetSignatureOutputTensorByIndex, (void*, size_t, void**), (signature, 0, &tensor));
        CALL(LiteRtGetCompiledModelOutputBufferRequirements, (void*, size_t, size_t, void**), (compiled, 0, 0, &needs));
    } else {
        CALL(LiteRtGetSignatureInputTensorByIndex, (void*, size_t, void**), (signature, 0, &tensor));
        CALL(LiteRtGetCompiledModelInputBufferRequirements, (void*, size_t, size_t, void**), (compiled, 0, 0, &needs));
    }
    CALL(LiteRtGetRankedTensorType, (void*, TensorType*), (tensor, &type));
    CALL(LiteRtCreateManagedTensorBufferFromRequirements, (void*, const TensorType*, void*, void**), (environment, &type, needs, &buffer));
    return buffer;
}

static void copy(void* buffer, void* bytes, size_t size, int mode) {
    void* memory = NULL;
    CALL(LiteRtLockTensorBuffer, (void*, void**, int), (buffer, &memory, mode));
    if (mode == WRITE) memcpy(memory, bytes, size);
    else memcpy(bytes, memory, size);
    CALL(LiteRtUnlockTensorBuffer, (void*), (buffer));
}

int main(int count, char** arguments) {
    static unsigned char input[MODEL_INPUT_0_BYTES];
    static int8_t output[MODEL_OUTPUT_0_BYTES];
    void *environment = NULL, *model = NULL, *options = NULL, *compiled = NULL, *signature = NULL;
    library = count == 2 ? dlopen(arguments[1], RTLD_NOW) : NULL;
    if (library == NULL || fread(input, 1, sizeof input, stdin) != sizeof input) {
        fprintf(stderr, "usage: host libLiteRt.so < INPUT of %zu bytes\n", sizeof input);
        return 2;
    }
    CALL(LiteRtCreateEnvironment, (int, const void*, void**), (0, NULL, &environment));
    CALL(LiteRtCreateModelFromBuffer, (void*, const void*, size_t, void**), (environment, model_data, (size_t)MODEL_SIZE_BYTES, &model));
    CALL(LiteRtCreateOptions, (void**), (&options));
    CALL(LiteRtSetOptionsHardwareAccelerators, (void*, int), (options, CPU));
    CALL(LiteRtCreateCompiledModel, (void*, void*, void*, void**), (environment, model, options, &compiled));
    CALL(LiteRtGetModelSignature, (void*, size_t, void**), (model, 0, &signature));
    void* in = buffer_of(environment, signature, compiled, 0);
    void* out = buffer_of(environment, signature, compiled, 1);
    copy(in, input, sizeof input, WRITE);
    CALL(LiteRtRunCompiledModel, (void*, size_t, size_t, void**, size_t, void**), (compiled, 0, 1, &in, 1, &out));
    copy(out, output, sizeof output, READ);
    printf("%zu\n", edgeprune_argmax(output, sizeof output));
    return 0;
}
