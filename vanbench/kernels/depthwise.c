/* Depthwise convolution of channels-last maps, stride 1, padding that keeps the map's size: forward, input gradient
   (the forward with the kernel turned round) and weight gradient. Plain C with GCC/Clang vector types; the caller
   brings the team of threads.

   A vector holds neighbouring channels of one pixel. With dilation d the map falls into d x d phases that know nothing
   of each other, each an ordinary convolution whose neighbouring pixels lie d apart: a dilated kernel costs nothing.
   A tile is P neighbouring pixels of one row of a phase; its P sums stay in registers, every pixel read serves all of
   them, and taps outside the map are never computed. 16-bit floats are summed in fp32, double in double. */

#if !defined(ELEMENT)

#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>

#if defined(__AVX512F__)
enum { VECTOR = 64 };
#elif defined(__AVX__)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif

#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline))
#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

typedef float floats __attribute__((vector_size(VECTOR), may_alias));
typedef float loose_floats __attribute__((vector_size(VECTOR), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(VECTOR), may_alias));
typedef uint16_t loose_halves __attribute__((vector_size(VECTOR / 2), aligned(2), may_alias));
typedef double doubles __attribute__((vector_size(VECTOR), may_alias));
typedef double loose_doubles __attribute__((vector_size(VECTOR), aligned(8), may_alias));
typedef int64_t longs __attribute__((vector_size(VECTOR), may_alias));

/* Pixels of a tile, and of a tile of the weight gradient: as many as the registers hold beside a row of the kernel. Each
   count has code of its own. Double is there to be exact, not fast, and has code for few. */
#if defined(__AVX512F__)
#define FAST_TILES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#define FAST_GRADIENTS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10)
enum { FAST_PIXELS = 14, FAST_GRADIENT_PIXELS = 10 };
#else
#define FAST_TILES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define FAST_GRADIENTS(DO) DO(1) DO(2) DO(3) DO(4)
enum { FAST_PIXELS = 7, FAST_GRADIENT_PIXELS = 4 };
#endif

/* Vectors of channels in a piece. */
enum { MOST_VECTORS = 64 };

struct task {
    const void *x, *w, *bias, *g; /* x, g: (batch, height, width, channels); w: (kernel, kernel, channels) */
    void *y;                      /* like x */
    void *parts;                  /* a weight gradient's: (parts, channels, kernel, kernel) sums, float or double */
    int64_t batch, channels, height, width, kernel, dilation;
    int64_t turned; /* whether w is read backwards */
    int64_t gelu;   /* whether y is GELU(y) */
    int64_t count;  /* how many pieces the work is cut into */
    int64_t cuts;  /* into how many the work on one group is cut: by rows, for a weight gradient by images */
    int64_t group; /* channels of a piece: MOST_VECTORS vectors at most, for a weight gradient one */
};

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Phi(x) - 1/2 = x P(2 x x / B B - 1) up to B, by least squares with Lawson's weights: with P's rounding in fp32 the
   error of GELU(x) = x Phi(x) is below 1.6e-7 of |x|. */
#define GELU_BOUND 5.25f
static const float GELU_TERMS[] = {
    0.00023995011f, -0.000656583812f, 0.000664732244f, -0.00103953469f, 0.00289236126f,
    -0.00544851972f, 0.00841787085f, -0.0127752507f, 0.0185386483f, -0.0250419322f,
    0.0320314392f, -0.0397634134f, 0.0496457852f, -0.067126818f, 0.13465935f,
};

INLINE floats gelu_fp32(floats x) {
    const floats zero = {0}, bound = zero + GELU_BOUND;
    /* A NaN is neither above nor below, and stays. */
    const words above = (words)(x > bound), below = (words)(x < -bound);
    const floats z = (floats)(((words)x & ~above & ~below) | ((words)bound & above) | ((words)-bound & below));
    const floats s = z * z * (2 / (GELU_BOUND * GELU_BOUND)) - 1.0f;
    floats p = s * GELU_TERMS[0] + GELU_TERMS[1];
    UNROLLED for (int i = 2; i < (int)(sizeof GELU_TERMS / sizeof *GELU_TERMS); i++) p = p * s + GELU_TERMS[i];
    return x * (0.5f + z * p);
}
INLINE floats gelu_bf16(floats x) { return gelu_fp32(x); }
INLINE doubles gelu_fp64(doubles x) {
    for (int lane = 0; lane < (int)(sizeof x / sizeof(double)); lane++)
        x[lane] *= 0.5 * erfc(-0.70710678118654752440 * x[lane]);
    return x;
}

#define ELEMENT float
#define NAME fp32
#include __FILE__
#undef ELEMENT
#undef NAME

#define ELEMENT uint16_t
#define NAME bf16
#define IS_BF16
#include __FILE__
#undef ELEMENT
#undef NAME
#undef IS_BF16

#define ELEMENT double
#define NAME fp64
#define IS_DOUBLE
#include __FILE__

int vector_bytes(void) { return VECTOR; }

/* The team: `parallel` runs a function on so many threads, as GOMP_parallel; `member` and `members` are those of the
   thread that calls them. */
struct team {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*member)(void);
    int (*members)(void);
};

struct job {
    const struct task *task;
    const struct team *team;
    void (*piece)(const struct task *, int64_t);
};

static void share(void *of) {
    const struct job *job = of;
    const int64_t member = job->team->member(), members = job->team->members(), count = job->task->count;
    for (int64_t piece = count * member / members; piece < count * (member + 1) / members; piece++)
        job->piece(job->task, piece);
}

/* kind: 0 fp32, 1 bf16, 2 fp64; and 3 more for the weight gradient. */
void depthwise(const struct task *task, int kind, const struct team *team, int threads) {
    static void (*const pieces[])(const struct task *, int64_t) = {
        forward_piece_fp32, forward_piece_bf16, forward_piece_fp64, weight_piece_fp32, weight_piece_bf16, weight_piece_fp64,
    };
    struct job job = {task, team, pieces[kind]};
    threads = (int)least(threads, task->count);
    if (threads > 1)
        team->parallel(share, &job, (unsigned)threads, 0);
    else
        for (int64_t piece = 0; piece < task->count; piece++) job.piece(task, piece);
}

#else /* one element type */

#define OF(word) JOIN(word, NAME)

#if defined(IS_DOUBLE)
typedef doubles OF(vec);
typedef double OF(sum);
#else
typedef floats OF(vec);
typedef float OF(sum);
#endif
enum { OF(LANES) = sizeof(OF(vec)) / sizeof(OF(sum)) };
#if defined(IS_DOUBLE)
#define TILES(DO) DO(1) DO(2)
#define GRADIENT_TILES(DO) DO(1) DO(2)
enum { OF(PIXELS) = 2, OF(GRADIENT_PIXELS) = 2 };
#else
#define TILES FAST_TILES
#define GRADIENT_TILES FAST_GRADIENTS
enum { OF(PIXELS) = FAST_PIXELS, OF(GRADIENT_PIXELS) = FAST_GRADIENT_PIXELS };
#endif
#define VEC OF(vec)
#define SUM OF(sum)
#define LANES OF(LANES)
#define PIXELS OF(PIXELS)
#define GRADIENT_PIXELS OF(GRADIENT_PIXELS)

INLINE VEC OF(load)(const ELEMENT *from) {
#if defined(IS_BF16)
    return (floats)(__builtin_convertvector(*(const loose_halves *)from, words) << 16);
#elif defined(IS_DOUBLE)
    return *(const loose_doubles *)from;
#else
    return *(const loose_floats *)from;
#endif
}

INLINE void OF(store)(ELEMENT *to, VEC v) {
#if defined(IS_BF16)
    /* To the nearest, ties to even; a NaN stays one. */
    words bits = (words)v;
    words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words broken = (words)(v != v);
    *(loose_halves *)to = __builtin_convertvector((rounded & ~broken) | (broken & 0x7fc0), loose_halves);
#elif defined(IS_DOUBLE)
    *(loose_doubles *)to = v;
#else
    *(loose_floats *)to = v;
#endif
}

/* `live` channels of a vector; the others are 0. */
INLINE VEC OF(load_some)(const ELEMENT *from, int64_t live) {
    ELEMENT some[LANES] = {0};
    memcpy(some, from, (size_t)live * sizeof(ELEMENT));
    return OF(load)(some);
}

INLINE void OF(store_some)(ELEMENT *to, VEC v, int64_t live) {
    ELEMENT some[LANES];
    OF(store)(some, v);
    memcpy(to, some, (size_t)live * sizeof(ELEMENT));
}

/* The taps of one vector of channels, close together. */
INLINE void OF(pack)(const int K, const struct task *t, int64_t c, int64_t live, VEC *to) {
    for (int tap = 0; tap < K * K; tap++) {
        const ELEMENT *from = (const ELEMENT *)t->w + (t->turned ? K * K - 1 - tap : tap) * t->channels + c;
        to[tap] = live == LANES ? OF(load)(from) : OF(load_some)(from, live);
    }
}

/* The sums of a tile. x, of the row of its first pixel: `row` and `pixel` are what lies between neighbours of the
   phase. Rows `top` to `bottom` of the kernel lie in the map, and `left` and `right` pixels beside the tile. */
INLINE void OF(tile)(const int K, const int P, const int whole, const ELEMENT *x, int64_t row, int64_t pixel, int top,
                     int bottom, int left, int right, const VEC *w, VEC bias, int64_t live, VEC *out) {
    VEC sum[PIXELS];
    UNROLLED for (int p = 0; p < P; p++) sum[p] = bias;
    for (int i = top; i < bottom; i++) {
        const ELEMENT *from = x + (i - K / 2) * row;
        VEC tap[7];
        UNROLLED for (int j = 0; j < K; j++) tap[j] = w[i * K + j];
        UNROLLED for (int q = -(K / 2); q < P + K / 2; q++) {
            if (q < 0 && -q > left) continue;
            if (q >= P && q - P >= right) continue;
            VEC v = whole ? OF(load)(from + q * pixel) : OF(load_some)(from + q * pixel, live);
            UNROLLED for (int j = 0; j < K; j++) {
                int p = q + K / 2 - j;
                if (p >= 0 && p < P) sum[p] += v * tap[j];
            }
        }
    }
    UNROLLED for (int p = 0; p < P; p++) out[p] = sum[p];
}

#define TILE(P)                                                                                                       \
    case P:                                                                                                           \
        OF(tile)(K, P, 1, x, row, pixel, top, bottom, left, right, w, bias, live, out);                               \
        break;

INLINE void OF(tile_of)(const int K, int pixels, const ELEMENT *x, int64_t row, int64_t pixel, int top, int bottom,
                        int left, int right, const VEC *w, VEC bias, int64_t live, VEC *out) {
    if (live < LANES) { /* the last channels: one pixel at a time, so that its code is not made for every tile */
        for (int p = 0; p < pixels; p++)
            OF(tile)(K, 1, 0, x + p * pixel, row, pixel, top, bottom, (int)least(K / 2, left + p),
                     (int)least(K / 2, right + pixels - 1 - p), w, bias, live, out + p);
        return;
    }
    switch (pixels) {
        TILES(TILE)
        default: __builtin_unreachable();
    }
}
#undef TILE

static void OF(finish)(const struct task *t, VEC *out, int pixels) {
    if (!t->gelu) return;
    for (int p = 0; p < pixels; p++) out[p] = OF(gelu)(out[p]);
}

/* A row of a phase, of some vectors of channels. at: its first element; `rows` are those of its phase, it the `index`th. */
INLINE void OF(row)(const int K, const struct task *t, int64_t at, int64_t index, int64_t rows, int64_t channels,
                    const VEC *w, const VEC *bias) {
    const int64_t C = t->channels, W = t->width, d = t->dilation, pixel = d * C, row = d * W * C;
    const int top = (int)most(0, K / 2 - index), bottom = (int)least(K, K / 2 + rows - index);
    for (int64_t s = 0; s < least(d, W); s++) {
        const int64_t pixels = (W - s + d - 1) / d, tiles = (pixels + PIXELS - 1) / PIXELS;
        for (int64_t i = 0, first = 0; i < tiles; i++) {
            const int64_t next = pixels * (i + 1) / tiles;
            const int P = (int)(next - first), left = (int)least(K / 2, first), right = (int)least(K / 2, pixels - next);
            for (int64_t b = 0; b * LANES < channels; b++) {
                const int64_t place = at + s * C + first * pixel + b * LANES, live = least(LANES, channels - b * LANES);
                VEC out[PIXELS];
                OF(tile_of)(K, P, (const ELEMENT *)t->x + place, row, pixel, top, bottom, left, right, w + b * K * K,
                            bias[b], live, out);
                OF(finish)(t, out, P);
                ELEMENT *y = (ELEMENT *)t->y + place;
                if (live == LANES)
                    for (int p = 0; p < P; p++) OF(store)(y + p * pixel, out[p]);
                else
                    for (int p = 0; p < P; p++) OF(store_some)(y + p * pixel, out[p], live);
            }
            first = next;
        }
    }
}

/* Piece `piece` of the forward: some vectors of channels of one cut of all images' rows, phase after phase. */
INLINE void OF(forward)(const int K, const struct task *t, int64_t piece) {
    const int64_t C = t->channels, H = t->height, W = t->width, d = t->dilation;
    const int64_t c = piece / t->cuts * t->group, cut = piece % t->cuts, all = t->batch * H;
    const int64_t channels = least(t->group, C - c);
    VEC w[MOST_VECTORS * K * K], bias[MOST_VECTORS];
    for (int64_t b = 0; b * LANES < channels; b++) {
        const int64_t live = least(LANES, channels - b * LANES);
        const VEC zero = {0};
        bias[b] = t->bias ? OF(load_some)((const ELEMENT *)t->bias + c + b * LANES, live) : zero;
        OF(pack)(K, t, c + b * LANES, live, w + b * K * K);
    }
    for (int64_t place = all * cut / t->cuts; place < all * (cut + 1) / t->cuts; place++) {
        /* The place-th row, by image, then phase, then row of the phase: neighbours are still in the cache. */
        const int64_t n = place / H;
        int64_t index = place % H, r = 0, rows = (H + d - 1) / d;
        while (index >= rows) {
            index -= rows;
            r++;
            rows = (H - r + d - 1) / d;
        }
        OF(row)(K, t, ((n * H + r + index * d) * W) * C + c, index, rows, channels, w, bias);
    }
}

/* The sums of one row of the kernel over the rows of one image, a vector of channels. S: sums side by side, so that one
   does not wait for the last. Pixels of a tile that are not there count as gradients of 0. */
INLINE void OF(gradients)(const int K, const int P, const int S, const int whole, const struct task *t, int i, int64_t n,
                          int64_t c, int64_t live, SUM *to) {
    const int64_t C = t->channels, H = t->height, W = t->width, d = t->dilation, pixel = d * C, row = d * W * C;
    const ELEMENT *image = (const ELEMENT *)t->x + n * H * W * C + c, *g = (const ELEMENT *)t->g + n * H * W * C + c;
    const VEC zero = {0};
    VEC sum[4][7];
    UNROLLED for (int a = 0; a < S; a++) UNROLLED for (int j = 0; j < K; j++) sum[a][j] = zero;
    for (int64_t r = 0; r < least(d, H); r++) {
        const int64_t rows = (H - r + d - 1) / d, from = most(0, K / 2 - i), until = least(rows, rows + K / 2 - i);
        for (int64_t index = from; index < until; index++) {
            const int64_t line = (r + index * d) * W * C;
            for (int64_t s = 0; s < least(d, W); s++) {
                const int64_t pixels = (W - s + d - 1) / d;
                for (int64_t first = 0; first < pixels; first += P) {
                    const int64_t place = line + s * C + first * pixel;
                    const ELEMENT *x = image + place + (i - K / 2) * row;
                    const int left = (int)least(K / 2, first);
                    const int there = (int)least(P + K / 2, pixels - first);
                    VEC gradient[GRADIENT_PIXELS];
                    UNROLLED for (int p = 0; p < P; p++)
                        gradient[p] = p >= there ? zero
                                      : whole    ? OF(load)(g + place + p * pixel)
                                                 : OF(load_some)(g + place + p * pixel, live);
                    UNROLLED for (int q = -(K / 2); q < P + K / 2; q++) {
                        if (q < 0 && -q > left) continue;
                        if (q >= 0 && q >= there) continue;
                        VEC v = whole ? OF(load)(x + q * pixel) : OF(load_some)(x + q * pixel, live);
                        UNROLLED for (int j = 0; j < K; j++) {
                            int p = q + K / 2 - j;
                            if (p >= 0 && p < P) sum[p % S][j] += v * gradient[p];
                        }
                    }
                }
            }
        }
    }
    for (int j = 0; j < K; j++) {
        VEC whole_sum = sum[0][j];
        for (int a = 1; a < S; a++) whole_sum += sum[a][j];
        for (int64_t lane = 0; lane < live; lane++) to[lane * K * K + i * K + j] += whole_sum[lane];
    }
}

#define GRADIENTS(P)                                                                                                  \
    case P:                                                                                                           \
        OF(gradients)(K, P, S, 1, t, i, n, c, live, to);                                                              \
        break;

/* Piece `piece` of the weight gradient: one vector of channels of one cut of the images, into that cut's own sums. */
INLINE void OF(weight)(const int K, const int S, const struct task *t, int64_t piece) {
    const int64_t C = t->channels, W = t->width, d = t->dilation;
    const int64_t c = piece / t->cuts * LANES, cut = piece % t->cuts, live = least(LANES, C - c);
    const int64_t pixels = (W + d - 1) / d, tiles = (pixels + GRADIENT_PIXELS - 1) / GRADIENT_PIXELS;
    const int64_t P = (pixels + tiles - 1) / tiles;
    SUM *to = (SUM *)t->parts + (cut * C + c) * K * K;
    memset(to, 0, (size_t)(live * K * K) * sizeof(SUM));
    for (int64_t n = t->batch * cut / t->cuts; n < t->batch * (cut + 1) / t->cuts; n++)
        for (int i = 0; i < K; i++) {
            if (live < LANES) {
                OF(gradients)(K, 2, 2, 0, t, i, n, c, live, to);
                continue;
            }
            switch (P) {
                GRADIENT_TILES(GRADIENTS)
                default: __builtin_unreachable();
            }
        }
}
#undef GRADIENTS

static void OF(forward_piece)(const struct task *t, int64_t piece) {
    switch (t->kernel) {
        case 3: OF(forward)(3, t, piece); break;
        case 5: OF(forward)(5, t, piece); break;
        case 7: OF(forward)(7, t, piece); break;
    }
}

static void OF(weight_piece)(const struct task *t, int64_t piece) {
    switch (t->kernel) {
        case 3: OF(weight)(3, 4, t, piece); break;
        case 5: OF(weight)(5, 2, t, piece); break;
        case 7: OF(weight)(7, 2, t, piece); break;
    }
}

#undef OF
#undef VEC
#undef SUM
#undef LANES
#undef PIXELS
#undef GRADIENT_PIXELS
#undef TILES
#undef GRADIENT_TILES

#endif
