/* Sums and the like of what the ranks hold. Half precision is added in float32 and rounded after each rank. */

#include "nccl.h"

#include <stdint.h>
#include <string.h>

size_t size_of(enum type type) {
    static const size_t bytes[TYPES] = {[INT8] = 1,    [UINT8] = 1,   [INT32] = 4,   [UINT32] = 4,  [INT64] = 8,
                                        [UINT64] = 8,  [FLOAT16] = 2, [FLOAT32] = 4, [FLOAT64] = 8, [BFLOAT16] = 2};
    return bytes[type];
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float from_bfloat16(uint16_t half) { return float_of((uint32_t)half << 16); }

static uint16_t to_bfloat16(float value) { /* to the nearest, ties to even */
    uint32_t bits = bits_of(value);
    if (value != value)
        return 0x7fc0;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_float16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 31)
        return float_of(sign | 0x7f800000 | fraction << 13);
    if (exponent)
        return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction / 16777216.0f; /* 2^-24 */
    return sign ? -tiny : tiny;
}

static uint16_t to_float16(float value) { /* to the nearest, ties to even */
    uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000;
    float size = float_of(bits & 0x7fffffff);
    if (size != size)
        return 0x7e00;
    if (size >= 65520.0f)
        return (uint16_t)(sign | 0x7c00);
    if (size < 6.103515625e-05f) /* 2^-14: adding 1/2 leaves a multiple of 2^-24 in the low bits, rounded */
        return (uint16_t)(sign | (bits_of(size + 0.5f) - bits_of(0.5f)));
    bits = bits_of(size) - (112u << 23);
    return (uint16_t)(sign | (bits + 0xfff + (bits >> 13 & 1)) >> 13);
}

#define COMBINED(a, b)                                                                                                 \
    (reduction == PRODUCT   ? (a) * (b)                                                                                \
     : reduction == MAXIMUM ? ((a) > (b) ? (a) : (b))                                                                  \
     : reduction == MINIMUM ? ((a) < (b) ? (a) : (b))                                                                  \
                            : (a) + (b))
#define EACH(T, FROM, TO)                                                                                              \
    for (size_t i = 0; i < count; i++) {                                                                               \
        T *place = (T *)sum + i;                                                                                       \
        *place = TO(COMBINED(FROM(*place), FROM(((const T *)other)[i])));                                              \
    }                                                                                                                  \
    break
#define EACH_DIVIDED(T, FROM, TO)                                                                                      \
    for (size_t i = 0; i < count; i++)                                                                                 \
        ((T *)sum)[i] = TO(FROM(((T *)sum)[i]) / by);                                                                  \
    break

void reduce(void *sum, const void *other, size_t count, enum type type, enum reduction reduction) {
    switch (type) {
    case INT8: EACH(int8_t, , );
    case UINT8: EACH(uint8_t, , );
    case INT32: EACH(int32_t, , );
    case UINT32: EACH(uint32_t, , );
    case INT64: EACH(int64_t, , );
    case UINT64: EACH(uint64_t, , );
    case FLOAT16: EACH(uint16_t, from_float16, to_float16);
    case BFLOAT16: EACH(uint16_t, from_bfloat16, to_bfloat16);
    case FLOAT32: EACH(float, , );
    case FLOAT64: EACH(double, , );
    default: break;
    }
}

void divide(void *sum, size_t count, enum type type, int by) {
    switch (type) {
    case INT8: EACH_DIVIDED(int8_t, , );
    case UINT8: EACH_DIVIDED(uint8_t, , );
    case INT32: EACH_DIVIDED(int32_t, , );
    case UINT32: EACH_DIVIDED(uint32_t, , );
    case INT64: EACH_DIVIDED(int64_t, , );
    case UINT64: EACH_DIVIDED(uint64_t, , );
    case FLOAT16: EACH_DIVIDED(uint16_t, from_float16, to_float16);
    case BFLOAT16: EACH_DIVIDED(uint16_t, from_bfloat16, to_bfloat16);
    case FLOAT32: EACH_DIVIDED(float, , );
    case FLOAT64: EACH_DIVIDED(double, , );
    default: break;
    }
}
