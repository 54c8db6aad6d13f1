/* What torch has no fast operation for on a CPU: the decoder's blocks in a step of few rows,
   products of 8-bit integers with a scale for each row, an encoder's blocks in them, and Whisper's
   rules.

   A row's bits do not depend on its neighbours (docs/adr/0001): each of its numbers is one sum,
   whose terms are added in an order that the number of rows has no part in, or of integers, and it
   reads nobody's keys but its own. The compiler may choose neither the order of a sum (-ffast-math)
   nor how often it is rounded (-ffp-contract).

   Knows nothing about tensors or requests. compiled_decoder.py, int8.py, compiled_encoder.py,
   compiled_attention.py and service/decoding/compiled_rules.py have the other side. */

#include <float.h>
#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 16   /* numbers in a vector */
#define MAX_ROWS 8 /* that share a tile's weights while those are in registers */
#define AT_ONCE 4  /* vectors of sums that four rows have in registers: GCC writes more to the stack */
#else
#define LANES 8
#define MAX_ROWS 4
#define AT_ONCE 2
#endif
#define TILE 32      /* columns of a product whose weights stand together */
#define MAX_HEAD 128 /* numbers of one head */
#define LINE 32      /* of which are in a cache's line, as bfloat16 */
#define AHEAD 64     /* keys that are asked of memory before they are wanted */
#define ALWAYS static inline __attribute__((always_inline))

/* `aligned` by the element: tensors begin where torch lets them. */
typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* ------------------------------------------------------------------- instructions

   Of AVX-512 and its VNNI, or of AVX2 and FMA. */

ALWAYS floats all(float value) { return (floats){} + value; }

#ifdef __AVX512F__

/* a * b + c, rounded once. It is said where it is meant, because the compiler may not decide it
   (-ffp-contract=off): the copies of a loop for one row and for eight have to do the same. */
ALWAYS floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

/* The second, if one is no number. */
ALWAYS floats larger(floats a, floats b) { return (floats)_mm512_max_ps((__m512)a, (__m512)b); }

ALWAYS int any(ints v) { return _mm512_test_epi32_mask((__m512i)v, (__m512i)v) != 0; }

ALWAYS ints rounded(floats v) { return (ints)_mm512_cvtps_epi32((__m512)v); }

ALWAYS floats from_int8(const int8_t *from) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)from)));
}

/* From bfloat16, which is the upper half of a float. */
ALWAYS floats widen(const uint16_t *from) {
    return (floats)_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from)), 16);
}

/* The lowest byte of each. */
ALWAYS void store_bytes(void *to, ints v) { _mm_storeu_si128(to, _mm512_cvtepi32_epi8((__m512i)v)); }

ALWAYS __mmask16 first_lanes(int64_t n) {
    return n >= LANES ? 0xffff : n > 0 ? (__mmask16)((1u << n) - 1) : 0;
}

/* The first `n` numbers at an address, and `rest` for the others. */
ALWAYS floats load_first(const void *from, int64_t n, floats rest) {
    return (floats)_mm512_mask_loadu_ps((__m512)rest, first_lanes(n), from);
}

ALWAYS void store_first(float *to, int64_t n, floats v) {
    _mm512_mask_storeu_ps(to, first_lanes(n), (__m512)v);
}

/* To each sum the products of four bytes without a sign by four with one. */
ALWAYS ints add_products(ints sums, const uint8_t *four, const int8_t *by) {
    int32_t x;
    memcpy(&x, four, sizeof x);
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(x), _mm512_loadu_si512(by));
}

ALWAYS float sum(floats v) {
    v += __builtin_shuffle(v, (ints){8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7});
    v += __builtin_shuffle(v, (ints){4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11});
    v += __builtin_shuffle(v, (ints){2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13});
    v += __builtin_shuffle(v, (ints){1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14});
    return v[0];
}

ALWAYS int32_t sum_of_integers(ints v) { return _mm512_reduce_add_epi32((__m512i)v); }

#else

ALWAYS floats multiply_add(floats a, floats b, floats c) {
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

ALWAYS floats larger(floats a, floats b) { return (floats)_mm256_max_ps((__m256)a, (__m256)b); }

ALWAYS int any(ints v) { return !_mm256_testz_si256((__m256i)v, (__m256i)v); }

ALWAYS ints rounded(floats v) { return (ints)_mm256_cvtps_epi32((__m256)v); }

ALWAYS floats from_int8(const int8_t *from) {
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)from)));
}

ALWAYS floats widen(const uint16_t *from) {
    return (floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from)), 16);
}

ALWAYS void store_bytes(void *to, ints v) {
    __m256i low = (__m256i)(v & 255);
    __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
    _mm_storel_epi64(to, _mm_packus_epi16(words, words));
}

ALWAYS ints first_lanes(int64_t n) {
    return (ints){0, 1, 2, 3, 4, 5, 6, 7} < (int32_t)(n < LANES ? n : LANES);
}

ALWAYS floats load_first(const void *from, int64_t n, floats rest) {
    if (n >= LANES) return *(const floats *)from;
    __m256i there = (__m256i)first_lanes(n);
    return (floats)_mm256_blendv_ps((__m256)rest, _mm256_maskload_ps(from, there), (__m256)there);
}

ALWAYS void store_first(float *to, int64_t n, floats v) {
    if (n >= LANES) *(floats *)to = v;
    else _mm256_maskstore_ps(to, (__m256i)first_lanes(n), (__m256)v);
}

/* In 16 bits, two and two: what AVX2 has for bytes stops at 32767. */
ALWAYS ints add_products(ints sums, const uint8_t *four, const int8_t *by) {
    int32_t x;
    memcpy(&x, four, sizeof x);
    __m256i weights = _mm256_loadu_si256((const void *)by), all_four = _mm256_set1_epi32(x);
    __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8);
    __m256i odd = _mm256_srai_epi16(weights, 8);
    __m256i of_even = _mm256_madd_epi16(even, _mm256_and_si256(all_four, _mm256_set1_epi16(255)));
    __m256i of_odd = _mm256_madd_epi16(odd, _mm256_srli_epi16(all_four, 8));
    return sums + (ints)_mm256_add_epi32(of_even, of_odd);
}

ALWAYS float sum(floats v) {
    v += __builtin_shuffle(v, (ints){4, 5, 6, 7, 0, 1, 2, 3});
    v += __builtin_shuffle(v, (ints){2, 3, 0, 1, 6, 7, 4, 5});
    v += __builtin_shuffle(v, (ints){1, 0, 3, 2, 5, 4, 7, 6});
    return v[0];
}

ALWAYS int32_t sum_of_integers(ints v) {
    int32_t total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

#endif

ALWAYS float largest_lane(floats v) {
    float most = v[0];
    for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
}

ALWAYS floats magnitude(floats v) { return (floats)((bits)v & 0x7fffffffu); }

/* ------------------------------------------------------------------- the decoder's blocks

   A step of a few rows does little arithmetic on many bytes: as a chain of torch's operations it
   waits for their dispatch longer than for memory. Here it is one parallel region, whose threads
   share the columns of each product and the heads of each attention.

   Keys and values are bfloat16 in memory, weights that or 8-bit integers; everything is computed in
   float32. */

typedef struct {
    const void *weight;  /* [n_out / TILE][n_in][TILE]: int8 if there are scales, or bfloat16 */
    const float *scales; /* f32[n_out], or NULL */
    const float *bias;   /* f32[n_out] */
    int64_t n_in, n_out;
} Linear;

typedef struct {
    const float *weight, *bias; /* f32[d_model] */
} Norm;

typedef struct {
    Norm attn_ln, cross_ln, mlp_ln;
    Linear qkv, attn_out, query, cross_out, up, down;
} Block;

typedef struct {
    const Block *blocks;
    const uint16_t *token_embedding; /* bfloat16 [n_vocab][d_model] */
    const float *positions;          /* f32[n_text_ctx][d_model] */
    int64_t n_vocab, n_layer, n_head, d_head, d_model;
    float eps;
} Model;

typedef struct {
    uint16_t *self;        /* bfloat16 [n_layer][2][rows][n_head][n_text_ctx][d_head] */
    const uint16_t *cross; /* bfloat16 [n_layer][2][windows][n_head][n_audio_ctx][d_head] */
    int64_t rows, n_text_ctx, windows, n_audio_ctx;
} Cache;

typedef struct {
    int64_t token, row, position, slot, length; /* `length` keys of the window in `slot` */
} Place;

typedef struct {
    float *x;       /* f32[n][d_model]: the residual stream, and the result */
    float *normed;  /* f32[n][d_model] */
    float *wide;    /* f32[n][max(3 * d_model, n_ffn)] */
    float *context; /* f32[n][d_model] */
    float *queries; /* f32[n_layer][n][d_model], of the cross-attention; or NULL */
} Scratch;

ALWAYS uint16_t narrow(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if (value != value) return 0x7fc0;
    return (uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16); /* to nearest, ties to even */
}

/* e^x for x <= 0, to about 3 units in the last place: 2^n * e^r with |r| <= ln(2) / 2. */
ALWAYS floats exponential(floats x) {
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    x = larger(all(-87.0f), x);
    floats n = multiply_add(x, all(1.44269504f), all(to_integer)) - to_integer;
    floats r = multiply_add(n, all(-0.693359375f), x);
    r = multiply_add(n, all(2.12194440e-4f), r);
    floats p = all(1.0f / 720);
    p = multiply_add(p, r, all(1.0f / 120));
    p = multiply_add(p, r, all(1.0f / 24));
    p = multiply_add(p, r, all(1.0f / 6));
    p = multiply_add(p, r, all(0.5f));
    p = multiply_add(p, r, all(1.0f));
    p = multiply_add(p, r, all(1.0f));
    ints exponent = (__builtin_convertvector(n, ints) + 127) << 23;
    return p * (floats)exponent;
}

/* x * (1 + erf(x / sqrt(2))) / 2; erf after Abramowitz and Stegun 7.1.26, to 1.5e-7. */
ALWAYS floats gelu(floats x) {
    floats z = x * 0.70710678f;
    bits sign = (bits)z & 0x80000000u;
    z = (floats)((bits)z ^ sign);
    floats t = 1.0f / (1.0f + 0.3275911f * z);
    floats p = all(1.061405429f);
    p = multiply_add(p, t, all(-1.453152027f));
    p = multiply_add(p, t, all(1.421413741f));
    p = multiply_add(p, t, all(-0.284496736f));
    p = multiply_add(p, t, all(0.254829592f));
    floats erf = 1.0f - p * t * exponential(-z * z);
    erf = (floats)((bits)erf ^ sign);
    return 0.5f * x * (1.0f + erf);
}

typedef enum { STORE, ADD, GELU } Then;

/* `vectors` of columns of `n` rows, from the vector `first` of a tile on: each number is the sum over
   `n_in`, term after term, and the bias. */
ALWAYS void tile(const Linear *linear, int is_int8, int64_t at, int first, int vectors, const float *x,
                 int n, float *y, Then then) {
    at += first * LANES;
    int64_t begin = at / TILE * TILE * linear->n_in + at % TILE;
    const int8_t *integers = (const int8_t *)linear->weight + begin;
    const uint16_t *upper = (const uint16_t *)linear->weight + begin;
    floats total[MAX_ROWS][TILE / LANES], weights[TILE / LANES];
    for (int row = 0; row < n; row++)
        for (int i = 0; i < vectors; i++) total[row][i] = all(0.0f);
    for (int64_t k = 0; k < linear->n_in; k++, integers += TILE, upper += TILE) {
        for (int i = 0; i < vectors; i++)
            weights[i] = is_int8 ? from_int8(integers + i * LANES) : widen(upper + i * LANES);
        for (int row = 0; row < n; row++) {
            floats value = all(x[row * linear->n_in + k]);
            for (int i = 0; i < vectors; i++)
                total[row][i] = multiply_add(weights[i], value, total[row][i]);
        }
    }
    for (int row = 0; row < n; row++)
        for (int i = 0; i < vectors; i++) {
            floats value = total[row][i], *to = (floats *)(y + row * linear->n_out + at) + i;
            if (is_int8) value *= ((const floats *)(linear->scales + at))[i];
            value += ((const floats *)(linear->bias + at))[i];
            if (then == ADD) value += *to;
            if (then == GELU) value = gelu(value);
            *to = value;
        }
}

/* Columns [at, at + TILE) of `n` rows, in as many vectors together as there are registers for. */
ALWAYS void tile_rows(const Linear *linear, int is_int8, int64_t at, const float *x, int n, float *y,
                      Then then) {
    int vectors = n == 1 || LANES == 16 ? TILE / LANES : 2;
    for (int first = 0; first < TILE / LANES; first += vectors)
        tile(linear, is_int8, at, first, vectors, x, n, y, then);
}

/* [n n_in] -> [n n_out]. Threads share the columns. */
ALWAYS void product_of(const Linear *linear, int is_int8, const float *x, int64_t n, float *y,
                       Then then) {
    int64_t n_in = linear->n_in, n_out = linear->n_out;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < n_out; at += TILE) {
        int64_t row = 0;
        for (; row + MAX_ROWS <= n; row += MAX_ROWS)
            tile_rows(linear, is_int8, at, x + row * n_in, MAX_ROWS, y + row * n_out, then);
        for (; MAX_ROWS > 4 && row + 4 <= n; row += 4)
            tile_rows(linear, is_int8, at, x + row * n_in, 4, y + row * n_out, then);
        for (; row < n; row++)
            tile_rows(linear, is_int8, at, x + row * n_in, 1, y + row * n_out, then);
    }
}

ALWAYS void product(const Linear *linear, const float *x, int64_t n, float *y, Then then) {
    if (linear->scales) product_of(linear, 1, x, n, y, then);
    else product_of(linear, 0, x, n, y, then);
}

/* LayerNorm of a row, f32[d] -> f32[d]. */
ALWAYS void normalise_row(const Norm *norm, const float *x, int64_t d, float eps, float *y) {
    floats total = {}, squares = {};
    for (int64_t i = 0; i < d; i += LANES) total += *(const floats *)(x + i);
    float mean = sum(total) / (float)d;
    for (int64_t i = 0; i < d; i += LANES) {
        floats off = *(const floats *)(x + i) - mean;
        squares += off * off;
    }
    float scale = 1.0f / __builtin_sqrtf(sum(squares) / (float)d + eps);
    for (int64_t i = 0; i < d; i += LANES)
        *(floats *)(y + i) = (*(const floats *)(x + i) - mean) * scale
            * *(const floats *)(norm->weight + i) + *(const floats *)(norm->bias + i);
}

/* [n d_model] -> [n d_model]. Threads share the rows. */
static void normalise(const Norm *norm, const float *x, int64_t n, const Model *m, float *y) {
    int64_t d = m->d_model;
#pragma omp for schedule(static)
    for (int64_t row = 0; row < n; row++) normalise_row(norm, x + row * d, d, m->eps, y + row * d);
}

/* Scores to weights, in place -> their sum. There is room for a vector behind them. */
ALWAYS float weigh(float *scores, int64_t n) {
    floats largest = all(-__builtin_inff()), total = {};
    *(floats *)(scores + n) = largest; /* what fills the last vector up weighs e^-87: nothing */
    for (int64_t k = 0; k < n; k += LANES) largest = larger(*(floats *)(scores + k), largest);
    float most = largest_lane(largest);
    for (int64_t k = 0; k < n; k += LANES) {
        floats weights = exponential(*(floats *)(scores + k) - most);
        *(floats *)(scores + k) = weights;
        total += weights;
    }
    return sum(total);
}

/* One head of one row over its keys and values [n_key][d]; over none, zeros. */
ALWAYS void attend(const float *query, const uint16_t *keys, const uint16_t *values, int64_t n_key,
                   int d, float *context) {
    float scores[n_key + LANES];
    floats q[MAX_HEAD / LANES], out[MAX_HEAD / LANES];
    float scale = 1.0f / __builtin_sqrtf((float)d);
    for (int i = 0; i < d / LANES; i++) {
        q[i] = *(const floats *)(query + i * LANES) * scale;
        out[i] = all(0.0f);
    }
    for (int64_t k = 0; k < n_key; k++) {
        for (int i = 0; i < d; i += LINE) __builtin_prefetch(keys + (k + AHEAD) * d + i);
        floats score = q[0] * widen(keys + k * d);
        for (int i = 1; i < d / LANES; i++)
            score = multiply_add(q[i], widen(keys + k * d + i * LANES), score);
        scores[k] = sum(score);
    }
    float total = weigh(scores, n_key);
    for (int64_t k = 0; k < n_key; k++) {
        for (int i = 0; i < d; i += LINE) __builtin_prefetch(values + (k + AHEAD) * d + i);
        floats weight = all(scores[k]);
        for (int i = 0; i < d / LANES; i++)
            out[i] = multiply_add(weight, widen(values + k * d + i * LANES), out[i]);
    }
    float share = n_key ? 1.0f / total : 0.0f;
    for (int i = 0; i < d / LANES; i++) *(floats *)(context + i * LANES) = out[i] * share;
}

/* The usual widths have loops of their own, whose vectors stay in registers. */
static void attend_any(const float *query, const uint16_t *keys, const uint16_t *values,
                       int64_t n_key, int64_t d, float *context) {
    if (d == 64) attend(query, keys, values, n_key, 64, context);
    else if (d == 32) attend(query, keys, values, n_key, 32, context);
    else attend(query, keys, values, n_key, (int)d, context);
}

/* Write the new keys and values that stand behind the queries, then attend to those up to them. */
static void attend_self(const Model *m, const Cache *cache, int64_t layer, const Place *places,
                        int64_t n, const Scratch *s) {
    int64_t d = m->d_head, head_size = cache->n_text_ctx * d, row_size = m->n_head * head_size;
    uint16_t *keys = cache->self + layer * 2 * cache->rows * row_size;
    uint16_t *values = keys + cache->rows * row_size;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++)
        for (int64_t head = 0; head < m->n_head; head++) {
            const float *key = s->wide + (i * 3 + 1) * m->d_model + head * d;
            int64_t at = places[i].row * row_size + head * head_size + places[i].position * d;
            for (int64_t j = 0; j < d; j++) {
                keys[at + j] = narrow(key[j]);
                values[at + j] = narrow(key[m->d_model + j]);
            }
        }
#pragma omp for schedule(static)
    for (int64_t at = 0; at < m->n_head * n; at++) {
        int64_t head = at / n, i = at % n;
        int64_t of = places[i].row * row_size + head * head_size;
        attend_any(s->wide + i * 3 * m->d_model + head * d, keys + of, values + of,
                   places[i].position + 1, d, s->context + i * m->d_model + head * d);
    }
}

/* Attend to the keys of each row's window. */
static void attend_cross(const Model *m, const Cache *cache, int64_t layer, const Place *places,
                         int64_t n, const Scratch *s) {
    int64_t d = m->d_head, head_size = cache->n_audio_ctx * d, slot_size = m->n_head * head_size;
    const uint16_t *keys = cache->cross + layer * 2 * cache->windows * slot_size;
    const uint16_t *values = keys + cache->windows * slot_size;
#pragma omp for schedule(static)
    for (int64_t at = 0; at < m->n_head * n; at++) {
        int64_t head = at / n, i = at % n; /* hypotheses of one window read its keys in turn */
        int64_t of = places[i].slot * slot_size + head * head_size;
        attend_any(s->wide + i * m->d_model + head * d, keys + of, values + of, places[i].length,
                   d, s->context + i * m->d_model + head * d);
    }
}

/* The embedding of each token and of its position. */
static void embed(const Model *m, const Place *places, int64_t n, float *x) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        const uint16_t *token = m->token_embedding + places[i].token * m->d_model;
        const float *position = m->positions + places[i].position * m->d_model;
        for (int64_t j = 0; j < m->d_model; j += LANES)
            *(floats *)(x + i * m->d_model + j) =
                widen(token + j) + *(const floats *)(position + j);
    }
}

/* ln1 -> causal self_attn ; ln2 -> cross_attn ; ln3 -> ffn ; each + residual. */
static void run_block(const Model *m, const Cache *cache, int64_t layer, const Place *places,
                      int64_t n, const Scratch *s) {
    const Block *block = m->blocks + layer;
    normalise(&block->attn_ln, s->x, n, m, s->normed);
    product(&block->qkv, s->normed, n, s->wide, STORE);
    attend_self(m, cache, layer, places, n, s);
    product(&block->attn_out, s->context, n, s->x, ADD);
    normalise(&block->cross_ln, s->x, n, m, s->normed);
    product(&block->query, s->normed, n, s->wide, STORE);
    if (s->queries) {
#pragma omp single
        memcpy(s->queries + layer * n * m->d_model, s->wide, sizeof(float) * n * m->d_model);
    }
    attend_cross(m, cache, layer, places, n, s);
    product(&block->cross_out, s->context, n, s->x, ADD);
    normalise(&block->mlp_ln, s->x, n, m, s->normed);
    product(&block->up, s->normed, n, s->wide, GELU);
    product(&block->down, s->wide, n, s->x, ADD);
}

static int is_there(const Model *m, const Cache *cache, const Place *place) {
    return place->token >= 0 && place->token < m->n_vocab
        && place->row >= 0 && place->row < cache->rows
        && place->position >= 0 && place->position < cache->n_text_ctx
        && place->slot >= 0 && place->slot < cache->windows
        && place->length >= 0 && place->length <= cache->n_audio_ctx;
}

/* `n` tokens, each at its place -> the hidden states before the last normalisation, in `s->x`.
   All keys and values of a layer are written before any is read, so places may be one text.
   Returns -1, or which of the places is outside of everything: then nothing was done. */
int64_t decode(const Model *m, const Cache *cache, const Place *places, int64_t n,
               const Scratch *s, int32_t n_threads) {
    for (int64_t i = 0; i < n; i++)
        if (!is_there(m, cache, places + i)) return i;
#pragma omp parallel num_threads(n_threads)
    {
        embed(m, places, n, s->x);
        for (int64_t layer = 0; layer < m->n_layer; layer++)
            run_block(m, cache, layer, places, n, s);
    }
    return -1;
}

/* ------------------------------------------------------------------- 8-bit integers */

#define COLUMNS 64 /* outputs that are computed together */
#define ROWS 64    /* that share their weights, at most */
#define DEPTH 512  /* of which so many stay in the first cache meanwhile */
#define ZERO_POINT 128
#define LEVELS 127.0f

/* For what has `largest` as its largest magnitude. */
ALWAYS float scale_of(float largest) {
    float scale = largest / LEVELS;
    return scale < FLT_MIN ? FLT_MIN : scale;
}

/* f32[k] as integers around 128, with a scale: x = scale * (q - 128). What is not finite has a scale
   that is not. */
ALWAYS void quantise_row(const float *x, int64_t k, uint8_t *q, float *scale_to) {
    floats largest = {}, lost = {};
    for (int64_t i = 0; i < k; i += LANES) {
        floats value = *(const floats *)(x + i);
        lost += value * 0.0f; /* stays zero unless one is not finite */
        largest = larger(magnitude(value), largest);
    }
    float scale = scale_of(largest_lane(largest)), factor = 1.0f / scale;
    *scale_to = scale + sum(lost);
    for (int64_t i = 0; i < k; i += LANES) {
        ints near = rounded(*(const floats *)(x + i) * factor) + ZERO_POINT;
        store_bytes(q + i, near);
    }
}

#define TOGETHER 4 /* rows that share columns in registers */
#define MAX_VECTORS (128 / LANES)

/* Sums of `n` rows of u8 by columns of int8 [n_in / 4][vectors * LANES][4]; `adds`: to what is there. */
ALWAYS void multiply_integers(const uint8_t *x, int64_t stride, const int8_t *columns, int64_t n_in,
                              int vectors, int n, int adds, ints total[TOGETHER][MAX_VECTORS]) {
    int at_once = n == 1 || vectors < AT_ONCE ? vectors : AT_ONCE;
    for (int first = 0; first < vectors; first += at_once) {
        int last = first + at_once;
        const int8_t *by = columns;
        for (int row = 0; !adds && row < n; row++)
            for (int i = first; i < last; i++) total[row][i] = (ints){};
        for (int64_t k = 0; k < n_in; k += 4, by += 4 * LANES * vectors)
            for (int row = 0; row < n; row++)
                for (int i = first; i < last; i++)
                    total[row][i] =
                        add_products(total[row][i], x + row * stride + k, by + 4 * LANES * i);
    }
}

typedef struct {
    const int8_t *weight; /* [n_out / COLUMNS][n_in / 4][COLUMNS][4], filled up with zeros */
    const int32_t *sums;  /* of the weights of each output, times 128 */
    const float *scales;  /* of each output */
    const float *bias;    /* of each output, or NULL */
    int64_t n_in, n_out;
} IntegerLinear;

/* Sums of `n` rows as f32, of the outputs from `at`, and then GELU of them, or added to `base`. */
ALWAYS void store_outputs(const IntegerLinear *l, int64_t at, ints total[TOGETHER][MAX_VECTORS],
                          const float *scales, int n, Then then, const float *base, float *y) {
    for (int i = 0; i < COLUMNS / LANES; i++) {
        int64_t first = at + i * LANES, left = l->n_out - first;
        if (left <= 0) return;
        floats none = {};
        ints sums = (ints)load_first(l->sums + first, left, none);
        floats of_output = load_first(l->scales + first, left, none);
        for (int row = 0; row < n; row++) {
            floats value = __builtin_convertvector(total[row][i] - sums, floats);
            value = value * of_output * scales[row];
            if (l->bias) value += load_first(l->bias + first, left, none);
            if (then == GELU) value = gelu(value);
            if (then == ADD) value = load_first(base + row * l->n_out + first, left, none) + value;
            store_first(y + row * l->n_out + first, left, value);
        }
    }
}

/* `n` rows by what is there of the columns from `at` between two depths, added to what is in `kept`
   unless it is the first, and left there unless it is the last. */
ALWAYS void multiply_part(const IntegerLinear *l, int64_t at, int64_t from, int64_t to,
                          const uint8_t *q, const float *scales, int n, Then then,
                          ints kept[][COLUMNS / LANES], const float *base, float *y) {
    ints total[TOGETHER][MAX_VECTORS];
    const int8_t *columns = l->weight + at * l->n_in + from * COLUMNS;
    if (from) {
        for (int row = 0; row < n; row++)
            for (int i = 0; i < COLUMNS / LANES; i++) total[row][i] = kept[row][i];
        multiply_integers(q + from, l->n_in, columns, to - from, COLUMNS / LANES, n, 1, total);
    } else {
        multiply_integers(q, l->n_in, columns, to, COLUMNS / LANES, n, 0, total);
    }
    if (to == l->n_in) {
        store_outputs(l, at, total, scales, n, then, base, y);
        return;
    }
    for (int row = 0; row < n; row++)
        for (int i = 0; i < COLUMNS / LANES; i++) kept[row][i] = total[row][i];
}

/* `n` rows, ROWS at most, by the columns from `at`. */
ALWAYS void multiply_tile(const IntegerLinear *l, int64_t at, const uint8_t *q, const float *scales,
                          int64_t n, Then then, const float *base, float *y) {
    ints kept[ROWS][COLUMNS / LANES];
    for (int64_t from = 0; from < l->n_in; from += DEPTH) {
        int64_t to = from + DEPTH < l->n_in ? from + DEPTH : l->n_in, row = 0;
        for (; row + TOGETHER <= n; row += TOGETHER)
            multiply_part(l, at, from, to, q + row * l->n_in, scales + row, TOGETHER, then,
                          kept + row, base + row * l->n_out, y + row * l->n_out);
        for (; row < n; row++)
            multiply_part(l, at, from, to, q + row * l->n_in, scales + row, 1, then, kept + row,
                          base + row * l->n_out, y + row * l->n_out);
    }
}

/* y = x @ weight + bias: f32[n][n_in] -> f32[n][n_out]. `q` and `scales` are for the rows of x as
   integers. */
void integer_linear(const IntegerLinear *l, const float *x, int64_t n, uint8_t *q, float *scales,
                    float *y, int32_t n_threads) {
    int64_t n_tiles = (l->n_out + COLUMNS - 1) / COLUMNS, n_parts = (n + ROWS - 1) / ROWS;
    int64_t rows = n_parts ? (n + n_parts - 1) / n_parts : 0; /* of each part but the last */
    rows = (rows + TOGETHER - 1) / TOGETHER * TOGETHER;
#pragma omp parallel num_threads(n_threads)
    {
#pragma omp for schedule(static)
        for (int64_t row = 0; row < n; row++)
            quantise_row(x + row * l->n_in, l->n_in, q + row * l->n_in, scales + row);
#pragma omp for schedule(static)
        for (int64_t task = 0; task < n_parts * n_tiles; task++) {
            int64_t row = task / n_tiles * rows, left = n - row;
            if (left > 0)
                multiply_tile(l, task % n_tiles * COLUMNS, q + row * l->n_in, scales + row,
                              left < rows ? left : rows, STORE, y, y + row * l->n_out);
        }
    }
}

/* ------------------------------------------------------------------- an encoder block's positions

   What is done to each position by itself, for a few of them at a time: from one product to the next
   they stay in a core's cache. */

typedef struct {
    IntegerLinear qkv, out, up, down;
    Norm attn_ln, mlp_ln;
    float eps;
} EncoderBlock;

/* A thread's own, for ROWS positions. */
typedef struct {
    float *normed, *wide; /* f32[ROWS][d_model], f32[ROWS][n_ffn] */
    uint8_t *q;           /* u8[ROWS][n_ffn] */
    float *scales;        /* f32[ROWS] */
} Workspace;

int64_t workspace_bytes(const EncoderBlock *b) {
    return ROWS * (4 * b->qkv.n_in + 5 * b->up.n_out + 4);
}

static Workspace workspace_of(const EncoderBlock *b, char *scratch) {
    int64_t d = b->qkv.n_in, n_ffn = b->up.n_out;
    char *own = scratch + omp_get_thread_num() * workspace_bytes(b);
    float *normed = (float *)own, *wide = normed + ROWS * d, *scales = wide + ROWS * n_ffn;
    return (Workspace){normed, wide, (uint8_t *)(scales + ROWS), scales};
}

ALWAYS void normalise_rows(const EncoderBlock *b, const Norm *norm, const float *x, int64_t n,
                           float *y) {
    int64_t d = b->qkv.n_in;
    for (int64_t row = 0; row < n; row++) normalise_row(norm, x + row * d, d, b->eps, y + row * d);
}

ALWAYS void multiply_rows(const IntegerLinear *l, const float *x, int64_t n, const Workspace *w,
                          Then then, const float *base, float *y) {
    for (int64_t row = 0; row < n; row++)
        quantise_row(x + row * l->n_in, l->n_in, w->q + row * l->n_in, w->scales + row);
    for (int64_t at = 0; at < l->n_out; at += COLUMNS)
        multiply_tile(l, at, w->q, w->scales, n, then, base, y);
}

/* How many positions of `n` a thread takes at a time: ROWS at most, the same for each of them. */
static int64_t rows_at_once(int64_t n, int64_t n_threads) {
    int64_t turns = (n + ROWS * n_threads - 1) / (ROWS * n_threads);
    int64_t rows = (n + turns * n_threads - 1) / (turns * n_threads);
    return (rows + TOGETHER - 1) / TOGETHER * TOGETHER;
}

/* qkv of the normalised: f32[n][d_model] -> f32[n][3 d_model]. */
void project_positions(const EncoderBlock *b, const float *x, int64_t n, char *scratch, float *y,
                       int32_t n_threads) {
    int64_t d = b->qkv.n_in, rows = rows_at_once(n, n_threads);
#pragma omp parallel num_threads(n_threads)
    {
        Workspace w = workspace_of(b, scratch);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < n; first += rows) {
            int64_t some = n - first < rows ? n - first : rows;
            normalise_rows(b, &b->attn_ln, x + first * d, some, w.normed);
            multiply_rows(&b->qkv, w.normed, some, &w, STORE, y, y + first * b->qkv.n_out);
        }
    }
}

/* x + out(context), and to that its down(gelu(up(normalised))): f32[n][d_model]. */
void mix_positions(const EncoderBlock *b, const float *context, const float *x, int64_t n,
                   char *scratch, float *y, int32_t n_threads) {
    int64_t d = b->qkv.n_in, rows = rows_at_once(n, n_threads);
#pragma omp parallel num_threads(n_threads)
    {
        Workspace w = workspace_of(b, scratch);
#pragma omp for schedule(static)
        for (int64_t first = 0; first < n; first += rows) {
            int64_t some = n - first < rows ? n - first : rows;
            float *to = y + first * d;
            multiply_rows(&b->out, context + first * d, some, &w, ADD, x + first * d, to);
            normalise_rows(b, &b->mlp_ln, to, some, w.normed);
            multiply_rows(&b->up, w.normed, some, &w, GELU, to, w.wide);
            multiply_rows(&b->down, w.wide, some, &w, ADD, to, to);
        }
    }
}

/* ------------------------------------------------------------------- attention in 8-bit integers

   Of all positions of a window to all of it. Queries and keys have a scale each, values one for each
   channel of a head. The mean of all keys is taken from each, which adds one number to all scores of
   a query, and changes no weight. Many weights are a thousandth of the largest, and together more:
   they have 16 bits, in two bytes that are multiplied one after the other. */

#define KEYS 64   /* that are scored together */
#define WHOLE 65535.0f

typedef struct {
    const float *of;        /* f32[n][n_head][d] */
    int64_t position, head; /* numbers from one to the next */
} Heads;

typedef struct {
    Heads query, key, value;
    int64_t n, n_head, d_head, n_filled; /* `n_filled`: n, up to a multiple of KEYS */
    int8_t *keys;        /* [n_head][n_filled / KEYS][d_head / 4][KEYS][4] */
    float *key_scales;   /* f32[n_head][n_filled] */
    int32_t *key_sums;   /* [n_head][n_filled]: 128 times the sum of a key */
    int8_t *values;      /* [n_head][n_filled / 4][d_head][4] */
    float *value_scales; /* f32[n_head][d_head] */
    float *context;      /* f32[n][n_head][d_head] */
} Attention;

/* Keys of a head, less their mean, as integers. Those that fill up are zeros. If one is not finite,
   no scale is. */
ALWAYS void round_keys(const Attention *a, int64_t head, int d) {
    const float *from = a->key.of + head * a->key.head;
    int8_t *to = a->keys + head * a->n_filled * d;
    float *scales = a->key_scales + head * a->n_filled;
    int32_t *sums = a->key_sums + head * a->n_filled;
    floats mean[MAX_HEAD / LANES] = {};
    for (int64_t k = 0; k < a->n; k++)
        for (int i = 0; i < d / LANES; i++)
            mean[i] += *(const floats *)(from + k * a->key.position + i * LANES);
    for (int i = 0; i < d / LANES; i++) mean[i] /= (float)a->n;
    for (int64_t k = 0; k < a->n_filled; k++) {
        floats key[MAX_HEAD / LANES] = {}, largest = {}, lost = {};
        int32_t fours[MAX_HEAD / 4];
        ints sum_of = {};
        for (int i = 0; k < a->n && i < d / LANES; i++) {
            key[i] = *(const floats *)(from + k * a->key.position + i * LANES) - mean[i];
            lost += key[i] * 0.0f;
            largest = larger(magnitude(key[i]), largest);
        }
        float scale = scale_of(largest_lane(largest));
        for (int i = 0; i < d / LANES; i++) {
            ints integers = rounded(key[i] / scale);
            sum_of += integers;
            store_bytes(fours + i * LANES / 4, integers);
        }
        scales[k] = scale + sum(lost);
        sums[k] = ZERO_POINT * sum_of_integers(sum_of);
        int8_t *at = to + k / KEYS * KEYS * d + k % KEYS * 4;
        for (int four = 0; four < d / 4; four++)
            memcpy(at + four * KEYS * 4, fours + four, sizeof fours[0]);
    }
}

/* Values of a head as integers. Those that fill up are zeros. */
ALWAYS void round_values(const Attention *a, int64_t head, int d) {
    const float *from = a->value.of + head * a->value.head;
    int8_t *to = a->values + head * a->n_filled * d;
    floats *scales = (floats *)(a->value_scales + head * d);
    floats largest[MAX_HEAD / LANES] = {}, lost[MAX_HEAD / LANES] = {}, factor[MAX_HEAD / LANES];
    for (int64_t k = 0; k < a->n; k++)
        for (int i = 0; i < d / LANES; i++) {
            floats value = *(const floats *)(from + k * a->value.position + i * LANES);
            lost[i] += value * 0.0f;
            largest[i] = larger(magnitude(value), largest[i]);
        }
    for (int i = 0; i < d / LANES; i++) {
        floats scale = larger(largest[i] / LEVELS, all(FLT_MIN));
        factor[i] = 1.0f / scale;
        scales[i] = scale + lost[i];
    }
    for (int64_t k = 0; k < a->n_filled; k += 4)
        for (int i = 0; i < d / LANES; i++) {
            ints four = {};
            for (int64_t j = 0; j < 4 && k + j < a->n; j++) {
                const float *value = from + (k + j) * a->value.position + i * LANES;
                four |= (rounded(*(const floats *)value * factor[i]) & 255) << (int)(8 * j);
            }
            *(ints *)(to + k * d + i * LANES * 4) = four;
        }
}

/* Scores of `n` queries over all keys, f32[n][n_filled], without the scales of the queries. */
ALWAYS void score(const Attention *a, int64_t head, int d, int n, const uint8_t *queries,
                  float *scores) {
    for (int64_t first = 0; first < a->n_filled; first += KEYS) {
        const int8_t *keys = a->keys + (head * a->n_filled + first) * d;
        ints total[TOGETHER][MAX_VECTORS];
        multiply_integers(queries, d, keys, d, KEYS / LANES, n, 0, total);
        for (int i = 0; i < KEYS / LANES; i++) {
            int64_t at = head * a->n_filled + first + i * LANES;
            ints sums = *(const ints *)(a->key_sums + at);
            floats scales = *(const floats *)(a->key_scales + at);
            for (int row = 0; row < n; row++) {
                floats found = __builtin_convertvector(total[row][i] - sums, floats);
                *(floats *)(scores + row * a->n_filled + first + i * LANES) = found * scales;
            }
        }
    }
}

/* 2^x for -120 <= x <= 0, times WHOLE and rounded. */
ALWAYS ints parts_of_whole(floats x) {
    floats shifted = x + 12582912.0f; /* 1.5 * 2^23: adding it rounds */
    floats r = x - (shifted - 12582912.0f);
    floats p = all(WHOLE * 9.6181291e-3f);
    p = multiply_add(p, r, all(WHOLE * 5.5504109e-2f));
    p = multiply_add(p, r, all(WHOLE * 2.4022651e-1f));
    p = multiply_add(p, r, all(WHOLE * 6.9314718e-1f));
    p = multiply_add(p, r, all(WHOLE));
    return rounded((floats)((bits)p + ((bits)shifted << 23)));
}

/* Scores of a query, of which one is worth `scale`, as weights: upper and lower bytes, u8[n_filled]
   each -> what makes the sum of the weights one. */
ALWAYS float weigh_in_parts(const Attention *a, float *scores, float scale, uint8_t *upper,
                            uint8_t *lower) {
    floats largest = all(-INFINITY);
    for (int64_t k = a->n; k < a->n_filled; k++) scores[k] = -INFINITY;
    for (int64_t k = 0; k < a->n_filled; k += LANES)
        largest = larger(*(const floats *)(scores + k), largest);
    floats most = all(largest_lane(largest)), factor = all(scale);
    ints total = {};
    for (int64_t k = 0; k < a->n_filled; k += LANES) {
        floats below = (*(const floats *)(scores + k) - most) * factor;
        ints parts = parts_of_whole(larger(below, all(-120.0f)));
        total += parts;
        store_bytes(upper + k, parts >> 8);
        store_bytes(lower + k, parts);
    }
    return 1.0f / (float)sum_of_integers(total);
}

/* Attend with `n` queries of a head, from the position `first` on. */
ALWAYS void attend_few(const Attention *a, int64_t head, int64_t first, int d, int n) {
    int64_t width = a->n_filled;
    float scores[n * width], shares[TOGETHER], scales[TOGETHER];
    uint8_t queries[n * d], upper[n * width], lower[n * width];
    for (int row = 0; row < n; row++) {
        const float *from = a->query.of + (first + row) * a->query.position + head * a->query.head;
        quantise_row(from, d, queries + row * d, scales + row);
    }
    score(a, head, d, n, queries, scores);
    float factor = 1.44269504f / __builtin_sqrtf((float)d); /* of e, as a power of two */
    for (int row = 0; row < n; row++) {
        int64_t at = row * width;
        shares[row] = weigh_in_parts(a, scores + at, scales[row] * factor, upper + at, lower + at);
        shares[row] += (scales[row] + a->key_scales[head * width]) * 0.0f; /* if one is no number */
    }
    const int8_t *values = a->values + head * width * d;
    ints high[TOGETHER][MAX_VECTORS], low[TOGETHER][MAX_VECTORS];
    multiply_integers(upper, width, values, width, d / LANES, n, 0, high);
    multiply_integers(lower, width, values, width, d / LANES, n, 0, low);
    for (int row = 0; row < n; row++)
        for (int i = 0; i < d / LANES; i++) {
            floats scale = *(const floats *)(a->value_scales + head * d + i * LANES);
            floats mixed = __builtin_convertvector(high[row][i], floats) * 256.0f
                + __builtin_convertvector(low[row][i], floats);
            *(floats *)(a->context + ((first + row) * a->n_head + head) * d + i * LANES) =
                mixed * scale * shares[row];
        }
}

ALWAYS void attend_window(const Attention *a, int d) {
    int64_t n_blocks = (a->n + TOGETHER - 1) / TOGETHER;
#pragma omp for schedule(static)
    for (int64_t head = 0; head < 2 * a->n_head; head++) {
        if (head < a->n_head) round_keys(a, head, d);
        else round_values(a, head - a->n_head, d);
    }
#pragma omp for schedule(static)
    for (int64_t at = 0; at < a->n_head * n_blocks; at++) {
        int64_t head = at / n_blocks, first = at % n_blocks * TOGETHER;
        if (first + TOGETHER <= a->n) attend_few(a, head, first, d, TOGETHER);
        else for (; first < a->n; first++) attend_few(a, head, first, d, 1);
    }
}

/* f32[n][n_head][d_head] of queries, keys and values -> context, for heads of 64 or of 32. */
void attend_in_integers(const Attention *a, int32_t n_threads) {
#pragma omp parallel num_threads(n_threads)
    {
        if (a->d_head == 64) attend_window(a, 64);
        else attend_window(a, 32);
    }
}

/* ------------------------------------------------------------------- rules and draws

   service/decoding/rules.py says what the rules are. Threads share the rows. */

typedef struct {
    const float *bias;                         /* f32[n][n_vocab]: -inf for what is suppressed */
    const uint8_t *ruled, *last, *penultimate; /* bool[n] */
    const int64_t *latest;                     /* i64[n] */
    int64_t n_vocab, begin, eot;               /* timestamps are those from `begin` on */
} Rules;

/* The largest of n numbers: NaN if one of them is, -inf if there are none. */
static float largest_of(const float *x, int64_t n) {
    floats largest = all(-INFINITY);
    ints lost = {};
    for (int64_t i = 0; i < n; i += LANES) {
        floats value = load_first(x + i, n - i, all(-INFINITY));
        lost |= value != value;
        largest = larger(value, largest);
    }
    return any(lost) ? NAN : largest_lane(largest);
}

/* The logarithm of the sum of e^(x - largest), for the largest of n numbers. */
static float log_sum(const float *x, int64_t n, float largest) {
    floats total = {};
    for (int64_t i = 0; i < n; i += LANES)
        total += exponential(load_first(x + i, n - i, all(-INFINITY)) - largest);
    return logf(sum(total));
}

static void forbid(float *x, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) x[i] = -INFINITY;
}

/* f32[n][n_vocab] -> the same, without what a row may not say next. */
void keep_rules(const Rules *rules, const float *logits, int64_t n, float *filtered,
                int32_t n_threads) {
    int64_t n_vocab = rules->n_vocab, begin = rules->begin;
#pragma omp parallel for if (n > 1) num_threads(n_threads) schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *from = logits + row * n_vocab, *bias = rules->bias + row * n_vocab;
        float *to = filtered + row * n_vocab;
        for (int64_t i = 0; i < n_vocab; i++) to[i] = from[i] + bias[i];
        if (!rules->ruled[row]) continue;
        int opened = rules->last[row] && !rules->penultimate[row];
        int closed = rules->last[row] && rules->penultimate[row];
        int64_t earliest = rules->latest[row] + !opened;
        if (opened) forbid(to, 0, rules->eot);
        forbid(to, begin, closed || earliest > n_vocab ? n_vocab : earliest);
        float largest = largest_of(to + begin, n_vocab - begin);
        if (largest == -INFINITY) continue;
        float mass = largest + log_sum(to + begin, n_vocab - begin, largest);
        if (mass > largest_of(to, begin)) forbid(to, 0, begin);
    }
}

/* f32[n][n_vocab] and a token of each row -> f64[n][3]: the token, its log-probability, and
   whether that is no number. */
void weigh_tokens(const float *logits, const int64_t *tokens, int64_t n, int64_t n_vocab,
                  double *weighed, int32_t n_threads) {
#pragma omp parallel for if (n > 1) num_threads(n_threads) schedule(static)
    for (int64_t row = 0; row < n; row++) {
        const float *x = logits + row * n_vocab;
        float largest = largest_of(x, n_vocab);
        float logprob = (x[tokens[row]] - largest) - log_sum(x, n_vocab, largest);
        double *to = weighed + row * 3;
        to[0] = (double)tokens[row], to[1] = logprob, to[2] = !isfinite(logprob);
    }
}

/* What OpenMP would take for a team, to see whether it is the OpenMP that torch uses. */
int32_t threads(void) { return omp_get_max_threads(); }
