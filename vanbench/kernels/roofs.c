/* Streams and multiply-adds that find the machine's roofs. Plain C with GCC/Clang vector types, no OpenMP: the caller
   brings the threads, each calls a function here with its own part of the arrays, and they meet at a barrier.

   A timed repetition is `inner` passes; member 0 writes the nanoseconds of each of `repeats` repetitions to `times`,
   from when all have met until all have met again. A pass touches each element of its arrays once. */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(64), aligned(64), may_alias));
enum { LANES = 16 };

struct barrier {
    atomic_int waiting;
    atomic_int generation;
    int members;
};

static void pause_a_little(void) {
#if defined(__x86_64__)
    _mm_pause();
#endif
}

static void meet(struct barrier *b) {
    int generation = atomic_load(&b->generation);
    if (atomic_fetch_add(&b->waiting, 1) + 1 == b->members) {
        atomic_store(&b->waiting, 0);
        atomic_fetch_add(&b->generation, 1);
    } else {
        while (atomic_load(&b->generation) == generation) pause_a_little();
    }
}

static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

static inline void put(vec *to, vec value, int bypass) {
#if defined(__AVX512F__)
    if (bypass) { _mm512_stream_ps((float *)to, (__m512)value); return; }
#elif defined(__AVX__)
    if (bypass) {
        const __m256 *half = (const __m256 *)&value;
        _mm256_stream_ps((float *)to, half[0]);
        _mm256_stream_ps((float *)to + 8, half[1]);
        return;
    }
#elif defined(__SSE__)
    if (bypass) {
        const __m128 *quarter = (const __m128 *)&value;
        for (int i = 0; i < 4; i++) _mm_stream_ps((float *)to + 4 * i, quarter[i]);
        return;
    }
#endif
    (void)bypass;
    *to = value;
}

static void finish_stores(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

enum kind { READ, COPY, ADD, TRIAD, UPDATE };

/* n: vectors, a multiple of 8. The sum of one pass goes to `sink`, so that no read can be left out; it is made of
   `inner` passes, since adding lanes up after each would cost as much as a pass over the first cache. */
static void passes_read(const vec *a, size_t n, long inner, float *sink) {
    vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0}, s4 = {0}, s5 = {0}, s6 = {0}, s7 = {0};
    for (long p = 0; p < inner; p++) {
        for (size_t i = 0; i < n; i += 8) {
            s0 += a[i]; s1 += a[i + 1]; s2 += a[i + 2]; s3 += a[i + 3];
            s4 += a[i + 4]; s5 += a[i + 5]; s6 += a[i + 6]; s7 += a[i + 7];
        }
        /* The compiler must believe that memory changes between passes. */
        __asm__ volatile("" ::: "memory");
    }
    double sum = 0;
    vec all[8] = {s0, s1, s2, s3, s4, s5, s6, s7};
    for (int k = 0; k < 8; k++)
        for (int i = 0; i < LANES; i++) sum += all[k][i];
    *sink = (float)(sum / (double)inner);
}

#define STORE_LOOP(expression)                                   \
    for (size_t i = 0; i < n; i += 4) {                          \
        { size_t j = i; put(c + j, (expression), bypass); }      \
        { size_t j = i + 1; put(c + j, (expression), bypass); }  \
        { size_t j = i + 2; put(c + j, (expression), bypass); }  \
        { size_t j = i + 3; put(c + j, (expression), bypass); }  \
    }

static inline __attribute__((always_inline)) void pass_store(int kind, const vec *a, const vec *b, vec *c, size_t n,
                                                             float s, int bypass) {
    if (kind == COPY) { STORE_LOOP(a[j]) }
    else if (kind == ADD) { STORE_LOOP(a[j] + b[j]) }
    else if (kind == UPDATE) { STORE_LOOP(s - c[j]) }
    else { STORE_LOOP(a[j] + s * b[j]) }
    if (bypass) finish_stores();
}

/* One member's part of a stream: n floats of each array, a multiple of 128. bypass: stores that go past the caches. */
void stream(int kind, const float *a, const float *b, float *c, size_t n, int bypass, long inner, int repeats,
            struct barrier *team, int member, double *times, float *sink) {
    const vec *va = (const vec *)a, *vb = (const vec *)b;
    vec *vc = (vec *)c;
    size_t vectors = n / LANES;
    for (int r = 0; r < repeats; r++) {
        meet(team);
        double start = now_ns();
        if (kind == READ) passes_read(va, vectors, inner, sink);
        else for (long p = 0; p < inner; p++) {
            switch (kind * 2 + bypass) {
            case COPY * 2: pass_store(COPY, va, vb, vc, vectors, 3.0f, 0); break;
            case COPY * 2 + 1: pass_store(COPY, va, vb, vc, vectors, 3.0f, 1); break;
            case ADD * 2: pass_store(ADD, va, vb, vc, vectors, 3.0f, 0); break;
            case ADD * 2 + 1: pass_store(ADD, va, vb, vc, vectors, 3.0f, 1); break;
            case UPDATE * 2: case UPDATE * 2 + 1: pass_store(UPDATE, va, vb, vc, vectors, 3.0f, 0); break;
            case TRIAD * 2: pass_store(TRIAD, va, vb, vc, vectors, 3.0f, 0); break;
            default: pass_store(TRIAD, va, vb, vc, vectors, 3.0f, 1); break;
            }
            __asm__ volatile("" ::: "memory");
        }
        meet(team);
        if (member == 0) times[r] = now_ns() - start;
    }
}

/* Fill n floats, so that the thread that will use the pages is the first to touch them. */
void fill(float *a, size_t n, float value) {
    for (size_t i = 0; i < n; i++) a[i] = value;
}

/* Drop the lines of n bytes from every cache level. Returns 0 where the machine has no instruction for it. */
int evict(const char *a, size_t n) {
#if defined(__x86_64__)
    for (size_t i = 0; i < n; i += 64) _mm_clflush(a + i);
    _mm_mfence();
    return 1;
#else
    (void)a; (void)n;
    return 0;
#endif
}

/* Multiply-adds in registers: `chains` independent accumulators, each step acc = acc * x + y. With
   x = 0.5 and y = 1 every accumulator goes to 2, which the caller checks. */
enum { CHAINS = 16, STEPS = 64 };

static float chains_fp32(float x, float y, long inner) {
    vec acc[CHAINS];
    vec vx, vy;
    for (int l = 0; l < LANES; l++) { vx[l] = x; vy[l] = y; }
    for (int k = 0; k < CHAINS; k++) acc[k] = vy * (float)k;
    for (long p = 0; p < inner; p++)
        for (int s = 0; s < STEPS; s++) {
#pragma GCC unroll 16
            for (int k = 0; k < CHAINS; k++) acc[k] = acc[k] * vx + vy;
        }
    float worst = acc[0][0];
    for (int k = 0; k < CHAINS; k++)
        for (int l = 0; l < LANES; l++) {
            float d = acc[k][l] - 2.0f, e = worst - 2.0f;
            if (d * d > e * e) worst = acc[k][l];
        }
    return worst;
}

#if defined(__AVX512BF16__)
/* There is no bf16 multiply-add, only the sum of two products into fp32: 32 multiply-adds an instruction. Nothing
   decays here, so each accumulator grows by 2 x y a step and starts anew each pass. */
static float chains_bf16(float x, float y, long inner) {
    __m512 acc[CHAINS];
    __m512bh vx = _mm512_cvtne2ps_pbh(_mm512_set1_ps(x), _mm512_set1_ps(x));
    __m512bh vy = _mm512_cvtne2ps_pbh(_mm512_set1_ps(y), _mm512_set1_ps(y));
    float worst = 2.0f;
    for (long p = 0; p < inner; p++) {
        /* Or the compiler could see that every pass computes the same. */
        __asm__ volatile("" : "+v"(vx), "+v"(vy));
        for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_set1_ps((float)k); /* equal chains would be merged */
        for (int s = 0; s < STEPS; s++) {
#pragma GCC unroll 16
            for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_dpbf16_ps(acc[k], vx, vy);
        }
        __asm__ volatile("" : "+v"(acc[0]), "+v"(acc[1]), "+v"(acc[2]), "+v"(acc[3]), "+v"(acc[4]), "+v"(acc[5]),
                              "+v"(acc[6]), "+v"(acc[7]));
        __asm__ volatile("" : "+v"(acc[8]), "+v"(acc[9]), "+v"(acc[10]), "+v"(acc[11]), "+v"(acc[12]), "+v"(acc[13]),
                              "+v"(acc[14]), "+v"(acc[15]));
    }
    for (int k = 0; k < CHAINS; k++)
        for (int l = 0; l < LANES; l++) {
            float got = 2.0f * (((float *)&acc[k])[l] - (float)k) / (2.0f * x * y * STEPS), d = got - 2.0f, e = worst - 2.0f;
            if (d * d > e * e) worst = got;
        }
    return worst;
}
#endif

#if defined(__AVX512FP16__)
static float chains_fp16(float x, float y, long inner) {
    __m512h acc[CHAINS], vx = _mm512_set1_ph((_Float16)x), vy = _mm512_set1_ph((_Float16)y);
    for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_set1_ph((_Float16)k);
    for (long p = 0; p < inner; p++)
        for (int s = 0; s < STEPS; s++) {
#pragma GCC unroll 16
            for (int k = 0; k < CHAINS; k++) acc[k] = _mm512_fmadd_ph(acc[k], vx, vy);
        }
    float worst = 2.0f;
    for (int k = 0; k < CHAINS; k++)
        for (int l = 0; l < 32; l++) {
            float got = (float)((_Float16 *)&acc[k])[l], d = got - 2.0f, e = worst - 2.0f;
            if (d * d > e * e) worst = got;
        }
    return worst;
}
#endif

/* FLOPs of one pass of a precision (0 fp32, 1 bf16, 2 fp16), 0 where the machine has no such instruction. */
long flops_of_a_pass(int precision) {
    if (precision == 0) return 2L * LANES * CHAINS * STEPS;
#if defined(__AVX512BF16__)
    if (precision == 1) return 4L * LANES * CHAINS * STEPS;
#endif
#if defined(__AVX512FP16__)
    if (precision == 2) return 4L * LANES * CHAINS * STEPS;
#endif
    return 0;
}

void multiply_add(int precision, float x, float y, long inner, int repeats, struct barrier *team, int member,
                  double *times, float *worst) {
    for (int r = 0; r < repeats; r++) {
        meet(team);
        double start = now_ns();
        float got = 0;
        if (precision == 0) got = chains_fp32(x, y, inner);
#if defined(__AVX512BF16__)
        if (precision == 1) got = chains_bf16(x, y, inner);
#endif
#if defined(__AVX512FP16__)
        if (precision == 2) got = chains_fp16(x, y, inner);
#endif
        meet(team);
        if (member == 0) times[r] = now_ns() - start;
        *worst = got;
    }
}
