/* Depthwise convs of channels-last maps on a GPU, by threads that keep a tile of the output in registers.

   A thread computes ROWS x COLUMNS pixels of one phase by V neighbouring channels: of a row of the map it reads each
   value once, and adds it to every output of its tile that it belongs to. Pixels of one phase are `dilation` apart both
   ways, so that a dilated conv is a dense one for every thread. Rows outside the map are skipped, columns outside it are
   zeros. Sums are in fp32, whatever the type of the map.

   Compiled at run time, by NVRTC for a GPU, and by a C compiler for the CPU, where `run_*` stand in for the device: the
   same statements thread by thread, so that the tests need no GPU. Hence C, and no barrier but the ones in `GPU` code.

   Set from outside: KIND (FP32, BF16, FP16), KERNEL (3, 5, 7), CHANNELS and DILATION of the conv (so that a pixel's
   neighbours are constants in the instructions that read them), V (a divisor of CHANNELS), LANES (threads side by side in
   channels), and for the stencil ROWS, COLUMNS, THREADS and GELU (0 or 1); PAIR for VAN's two convs in one. */

#define FP32 0
#define BF16 1
#define FP16 2

#define PAD (KERNEL / 2)
#define TAPS (KERNEL * KERNEL)
#define STEP (DILATION * CHANNELS) /* from a pixel to its neighbour in the phase */
/* Channels of a block, and the distance between taps in shared memory: by it neighbours in memory fall in other banks. */
#define GROUP (LANES * V)
#define STRIDE (GROUP + V)

#ifdef __CUDACC_RTC__
#define GPU 1
#define INLINE static __device__ __forceinline__
typedef long long int64_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
#else
#define GPU 0
#define INLINE static inline
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#endif

#if KIND == FP32
typedef float Value;
#else
typedef uint16_t Value;
#endif

/* V values that are read and written at once; of 16 bits two to a word, if V is even. */
#if KIND == FP32
#define WORDS V
typedef float Word;
#elif V % 2
#define WORDS V
typedef uint16_t Word;
#else
#define WORDS (V / 2)
typedef uint32_t Word;
#endif
#if GPU
struct __align__(sizeof(Value) * V) Pack { Word word[WORDS]; };
typedef struct Pack Pack;
#else
typedef struct { Word word[WORDS]; } Pack;
#endif

/* By value to every kernel; as in cuda.py. */
typedef struct {
    const Value *x, *w, *bias, *g; /* g: of the weight gradient; w and bias: of the stencil */
    const Value *w2, *bias2;       /* of the pair's second conv */
    void *y;                       /* Value of the stencil, float of the weight gradient */
    int height, width;
    unsigned tiles;                /* the stencil: tiles of all images; the weight gradient: lines of all images */
    unsigned down, across;         /* the stencil: tiles of a phase */
    int turned;                    /* the stencil: the taps in opposite order */
    unsigned each;                 /* the weight gradient: lines of a chunk */
} Task;

/* --- types ------------------------------------------------------------------------------------------------------- */

INLINE float bits_to_float(uint32_t bits) {
#if GPU
    return __uint_as_float(bits);
#else
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
#endif
}

INLINE float number(Value value) {
#if KIND == FP32
    return value;
#elif KIND == BF16
    return bits_to_float((uint32_t)value << 16);
#elif GPU
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
#else
    _Float16 half;
    memcpy(&half, &value, sizeof half);
    return (float)half;
#endif
}

INLINE Value rounded(float value) {
#if KIND == FP32
    return value;
#elif KIND == BF16
#if GPU && __CUDA_ARCH__ >= 800
    Value narrow;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
    return narrow;
#else
#if GPU
    uint32_t bits = __float_as_uint(value);
#else
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
#endif
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff; /* what is no number stays none */
    return (Value)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
#elif GPU
    Value narrow;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow) : "f"(value));
    return narrow;
#else
    _Float16 half = (_Float16)value;
    Value narrow;
    memcpy(&narrow, &half, sizeof narrow);
    return narrow;
#endif
}

INLINE Pack none(void) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < WORDS; i++) pack.word[i] = 0;
    return pack;
}

INLINE Pack pack_at(const Value *place) { return *(const Pack *)place; }

/* The v-th of a pack: of two in a word the first is the lower one. */
INLINE float number_of(Pack pack, int v) {
#if KIND == FP32 || V % 2
    return number(pack.word[v]);
#elif KIND == BF16
    /* One instruction each, where a half of the word would be two. */
    return bits_to_float(v % 2 ? pack.word[v / 2] & 0xffff0000u : pack.word[v / 2] << 16);
#else
    return number((Value)(pack.word[v / 2] >> (v % 2 ? 16 : 0)));
#endif
}

INLINE Pack packed(const float *values) {
    Pack pack;
#pragma unroll
    for (int i = 0; i < WORDS; i++) {
#if KIND == FP32 || V % 2
        pack.word[i] = rounded(values[i]);
#else
        pack.word[i] = rounded(values[2 * i]) | (uint32_t)rounded(values[2 * i + 1]) << 16;
#endif
    }
    return pack;
}

#ifdef ROWS
/* --- the stencil: the forward pass, and with the taps turned the gradient of the input ------------------------------ */

#define SLOTS (THREADS / LANES)
#define MOST_WINDOW (COLUMNS + 7 - 1)

/* `kernel` and `dilation` below are constants wherever these functions are called, and all of it is unrolled by them. */

/* A block's taps into shared memory: as they lie in the parameter (C, k, k), turned to (k, k, C). */
INLINE void take_taps(const Value *w, int turned, float *taps, int thread, int group, const int kernel) {
    const int first = group * GROUP, count = kernel * kernel;
    for (int i = thread; i < count * GROUP; i += THREADS) {
        const int channel = i / count, tap = i % count;
        const float value = first + channel < CHANNELS ? number(w[(int64_t)first * count + i]) : 0.0f;
        taps[(turned ? count - 1 - tap : tap) * STRIDE + channel] = value;
    }
}

/* A tile's place: its first row and column within its phase, the phase's first pixel, and the image. */
typedef struct { int top, left, from_top, from_left; unsigned image; } Place;

INLINE Place place_of(unsigned tile, unsigned down, unsigned across, int height, int width, const int dilation) {
    const unsigned phases_down = dilation < height ? dilation : height;
    const unsigned phases_across = dilation < width ? dilation : width;
    /* Tiles of a phase lie next to each other, so that a block finds its neighbours' rows in its cache. */
    Place place;
    place.left = (int)(tile % across) * COLUMNS;
    unsigned rest = tile / across;
    place.top = (int)(rest % down) * ROWS;
    rest /= down;
    place.from_left = (int)(rest % phases_across);
    rest /= phases_across;
    place.from_top = (int)(rest % phases_down);
    place.image = rest / phases_down;
    return place;
}

/* One image's source and target at the thread's first channel; from_pixel, to_pixel: from a pixel of each to the next. */
INLINE void compute_tile(
    const Value *source, const int from_pixel, Value *target, const int to_pixel, const float *taps, const float *bias,
    Place place, int height, int width, const int kernel, const int dilation, const int gelu
) {
    const int pad = kernel / 2, top = place.top, left = place.left;
    /* Of this phase: other phases may have one more. */
    const int rows = (height - place.from_top + dilation - 1) / dilation;
    const unsigned columns = (width - place.from_left + dilation - 1) / dilation;
    if (top >= rows || left >= (int)columns) return;

    const int64_t first = (int64_t)(place.from_top + top * dilation) * width + place.from_left + left * dilation;
    source += first * from_pixel;
    target += first * to_pixel;
    const int64_t line = (int64_t)dilation * width;
    unsigned inside = 0; /* a bit for each column of the window */
#pragma unroll
    for (int j = 0; j < COLUMNS + kernel - 1; j++)
        /* Unsigned, a column left of the map is a large number. */
        if ((unsigned)(left + j - pad) < columns) inside |= 1u << j;
    float sums[ROWS][COLUMNS][V];
#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++)
#pragma unroll
            for (int v = 0; v < V; v++) sums[r][c][v] = 0.0f;

#pragma unroll
    for (int i = 0; i < ROWS + kernel - 1; i++) {
        const int row = top + i - pad;
        if (row < 0 || row >= rows) continue;
        const Value *from = source + (i - pad) * line * from_pixel;
        float window[MOST_WINDOW][V];
#pragma unroll
        for (int j = 0; j < COLUMNS + kernel - 1; j++) {
            const Pack pack = inside & 1u << j ? pack_at(from + (j - pad) * dilation * from_pixel) : none();
#pragma unroll
            for (int v = 0; v < V; v++) window[j][v] = number_of(pack, v);
        }
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (i < r || i - r >= kernel) continue;
#pragma unroll
            for (int k = 0; k < kernel; k++)
#pragma unroll
                for (int v = 0; v < V; v++) {
                    const float tap = taps[((i - r) * kernel + k) * STRIDE + v];
#pragma unroll
                    for (int c = 0; c < COLUMNS; c++) sums[r][c][v] = fmaf(window[c + k][v], tap, sums[r][c][v]);
                }
        }
    }

#pragma unroll
    for (int r = 0; r < ROWS; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS; c++) {
            if (top + r >= rows || left + c >= (int)columns) continue;
#pragma unroll
            for (int v = 0; v < V; v++) {
                float sum = sums[r][c][v] + bias[v];
                if (gelu) sum = 0.5f * sum * (1.0f + erff(sum * 0.70710678f));
                sums[r][c][v] = sum;
            }
            *(Pack *)(target + (r * line + c * dilation) * to_pixel) = packed(sums[r][c]);
        }
}

INLINE void take_bias(float *bias, const Value *from, int channel) {
#pragma unroll
    for (int v = 0; v < V; v++) bias[v] = from ? number(from[channel + v]) : 0.0f;
}

#ifndef PAIR

/* Tiles of a thread, one grid apart. */
INLINE void compute_tiles(const Task *task, const float *taps, int thread, unsigned block, unsigned blocks, int group) {
    const int lane = thread % LANES, channel = (group * LANES + lane) * V;
    const int height = task->height, width = task->width;
    if (channel >= CHANNELS) return;
    float bias[V];
    take_bias(bias, task->bias, channel);
    for (unsigned tile = block * SLOTS + thread / LANES; tile < task->tiles; tile += blocks * SLOTS) {
        const Place place = place_of(tile, task->down, task->across, height, width, DILATION);
        const int64_t image = (int64_t)place.image * height * width * CHANNELS + channel;
        compute_tile(
            task->x + image, CHANNELS, (Value *)task->y + image, CHANNELS, taps + lane * V, bias, place, height, width,
            KERNEL, DILATION, GELU
        );
    }
}

#if GPU
extern "C" __global__ void __launch_bounds__(THREADS) vanbench_depthwise(const Task task) {
    __shared__ float taps[TAPS * STRIDE];
    take_taps(task.w, task.turned, taps, threadIdx.x, blockIdx.y, KERNEL);
    __syncthreads();
    compute_tiles(&task, taps, threadIdx.x, blockIdx.x, gridDim.x, blockIdx.y);
}
#else
void run(const Task *task, int blocks, int groups) {
    float taps[TAPS * STRIDE];
    for (int group = 0; group < groups; group++)
        for (int block = 0; block < blocks; block++) {
            for (int thread = 0; thread < THREADS; thread++)
                take_taps(task->w, task->turned, taps, thread, group, KERNEL);
            for (int thread = 0; thread < THREADS; thread++) compute_tiles(task, taps, thread, block, blocks, group);
        }
}
#endif

#else
/* --- VAN's pair: a 5x5 and then a 7x7 of dilation 3, with the map between them in shared memory ---------------------- */

/* A block has an image and GROUP channels to itself, so that no pixel is computed twice. The map between is rounded to
   its type, as it is when it goes through memory. Its pixels are GROUP values apart. */

INLINE void first_conv(const Task *task, const float *taps, Value *between, int thread, unsigned image, int group) {
    const int lane = thread % LANES, channel = (group * LANES + lane) * V;
    const int height = task->height, width = task->width;
    if (channel >= CHANNELS) return;
    const unsigned down = (height + ROWS - 1) / ROWS, across = (width + COLUMNS - 1) / COLUMNS;
    const Value *source = task->x + (int64_t)image * height * width * CHANNELS + channel;
    float bias[V];
    take_bias(bias, task->bias, channel);
    for (unsigned tile = thread / LANES; tile < down * across; tile += SLOTS)
        compute_tile(
            source, CHANNELS, between + lane * V, GROUP, taps + lane * V, bias,
            place_of(tile, down, across, height, width, 1), height, width, 5, 1, 0
        );
}

INLINE void second_conv(const Task *task, const float *taps, Value *between, int thread, unsigned image, int group) {
    const int lane = thread % LANES, channel = (group * LANES + lane) * V;
    const int height = task->height, width = task->width;
    if (channel >= CHANNELS) return;
    const unsigned down = task->down, across = task->across;
    const unsigned phases = (height < 3 ? height : 3) * (width < 3 ? width : 3);
    Value *target = (Value *)task->y + (int64_t)image * height * width * CHANNELS + channel;
    float bias[V];
    take_bias(bias, task->bias2, channel);
    for (unsigned tile = thread / LANES; tile < phases * down * across; tile += SLOTS)
        compute_tile(
            between + lane * V, GROUP, target, CHANNELS, taps + lane * V, bias,
            place_of(tile, down, across, height, width, 3), height, width, 7, 3, 0
        );
}

#if GPU
extern "C" __global__ void __launch_bounds__(THREADS) vanbench_depthwise_pair(const Task task) {
    extern __shared__ float shared[];
    float *taps = shared, *more = taps + 25 * STRIDE;
    Value *between = (Value *)(more + 49 * STRIDE);
    take_taps(task.w, 0, taps, threadIdx.x, blockIdx.y, 5);
    take_taps(task.w2, 0, more, threadIdx.x, blockIdx.y, 7);
    __syncthreads();
    first_conv(&task, taps, between, threadIdx.x, blockIdx.x, blockIdx.y);
    __syncthreads();
    second_conv(&task, more, between, threadIdx.x, blockIdx.x, blockIdx.y);
}
#else
void run(const Task *task, int blocks, int groups) {
    float taps[25 * STRIDE], more[49 * STRIDE];
    Value *between = malloc((size_t)task->height * task->width * GROUP * sizeof(Value));
    for (int group = 0; group < groups; group++)
        for (int image = 0; image < blocks; image++) {
            for (int thread = 0; thread < THREADS; thread++) {
                take_taps(task->w, 0, taps, thread, group, 5);
                take_taps(task->w2, 0, more, thread, group, 7);
            }
            for (int thread = 0; thread < THREADS; thread++) first_conv(task, taps, between, thread, image, group);
            for (int thread = 0; thread < THREADS; thread++) second_conv(task, more, between, thread, image, group);
        }
    free(between);
}
#endif
#endif

#else
/* --- the gradient of the weight: (chunks, C, k, k), to be added up over chunks -------------------------------------- */

/* A thread adds up one row of taps of V channels, over the lines of a chunk: a line is the pixels of one phase of one row
   of the output. Along it the window moves by one pixel a step; the steps are unrolled by its length, so that it moves by
   names and not by copies. */
INLINE void add_lines(const Task *task, int thread, unsigned chunk, int group) {
    const int lane = thread % LANES, down = thread / LANES, channel = (group * LANES + lane) * V;
    const int height = task->height, width = task->width;
    if (channel >= CHANNELS) return;
    const unsigned phases = DILATION < width ? DILATION : width;
    const int shift = (down - PAD) * DILATION;
    float sums[KERNEL][V];
#pragma unroll
    for (int k = 0; k < KERNEL; k++)
#pragma unroll
        for (int v = 0; v < V; v++) sums[k][v] = 0.0f;

    const unsigned first_line = chunk * task->each, past = first_line + task->each;
    const unsigned end = past < task->tiles ? past : task->tiles;
    for (unsigned line = first_line; line < end; line++) {
        const int phase = (int)(line % phases);
        const int64_t row = line / phases; /* of all images */
        const int inside = (int)(row % height) + shift;
        if (inside < 0 || inside >= height) continue;
        const int columns = (width - phase + DILATION - 1) / DILATION;
        const Value *g = task->g + (row * width + phase) * CHANNELS + channel;
        const Value *x = task->x + ((row + shift) * width + phase) * CHANNELS + channel;
        float window[KERNEL][V];
#pragma unroll
        for (int k = 0; k < KERNEL - 1; k++) {
            const Pack pack = k >= PAD && k - PAD < columns ? pack_at(x + (k - PAD) * STEP) : none();
#pragma unroll
            for (int v = 0; v < V; v++) window[k][v] = number_of(pack, v);
        }
        for (int first = 0; first < columns; first += KERNEL) {
#pragma unroll
            for (int u = 0; u < KERNEL; u++) {
                const int column = first + u;
                const Pack ahead = column + PAD < columns ? pack_at(x + (column + PAD) * STEP) : none();
                const Pack given = column < columns ? pack_at(g + column * STEP) : none();
#pragma unroll
                for (int v = 0; v < V; v++) window[(u + KERNEL - 1) % KERNEL][v] = number_of(ahead, v);
#pragma unroll
                for (int k = 0; k < KERNEL; k++)
#pragma unroll
                    for (int v = 0; v < V; v++)
                        sums[k][v] = fmaf(number_of(given, v), window[(u + k) % KERNEL][v], sums[k][v]);
            }
        }
    }
#pragma unroll
    for (int v = 0; v < V; v++)
#pragma unroll
        for (int k = 0; k < KERNEL; k++)
            ((float *)task->y)[((chunk * CHANNELS + channel + v) * KERNEL + down) * KERNEL + k] = sums[k][v];
}

#if GPU
extern "C" __global__ void __launch_bounds__(LANES * KERNEL)
vanbench_depthwise_weight_sums(const Task task) {
    add_lines(&task, threadIdx.x, blockIdx.x, blockIdx.y);
}
#else
void run(const Task *task, int blocks, int groups) {
    for (int group = 0; group < groups; group++)
        for (int block = 0; block < blocks; block++)
            for (int thread = 0; thread < LANES * KERNEL; thread++) add_lines(task, thread, block, group);
}
#endif
#endif
