/* Numbers into a quantized model and out of it: value = scale * (stored - zero_point).  C11 and C++11, no allocation.
 *
 *     int8_t* in = tensor data of the interpreter, MODEL_INPUT_0_BYTES of them
 *     edgeprune_quantize(sensor, in, MODEL_INPUT_0_BYTES, MODEL_INPUT_0_SCALE, MODEL_INPUT_0_ZERO_POINT);
 *     ... invoke ...
 *     size_t best = edgeprune_argmax(out, MODEL_OUTPUT_0_BYTES);
 *     float score = edgeprune_value(out[best], MODEL_OUTPUT_0_SCALE, MODEL_OUTPUT_0_ZERO_POINT);
 */
#ifndef EDGEPRUNE_IO_H
#define EDGEPRUNE_IO_H

#include <stddef.h>
#include <stdint.h>

/* One value as it is stored: rounded half away from zero, and no further than int8 goes. */
static inline int8_t edgeprune_stored(float value, float scale, int zero_point) {
    float scaled = value / scale;
    float shifted = scaled + (float)zero_point;
    if (!(shifted > -128.0f)) return -128; /* NaN too */
    if (shifted >= 127.0f) return 127;
    return (int8_t)((int)(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f) + zero_point);
}

/* What is stored, as a value. */
static inline float edgeprune_value(int8_t stored, float scale, int zero_point) {
    return scale * (float)((int)stored - zero_point);
}

/* `count` values, stored. */
static inline void edgeprune_quantize(const float* values, int8_t* stored, size_t count, float scale, int zero_point) {
    for (size_t i = 0; i < count; ++i) stored[i] = edgeprune_stored(values[i], scale, zero_point);
}

/* The index of the greatest of `count` outputs: quantizing keeps their order. */
static inline size_t edgeprune_argmax(const int8_t* stored, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; ++i) {
        if (stored[i] > stored[best]) best = i;
    }
    return best;
}

#endif /* EDGEPRUNE_IO_H */
