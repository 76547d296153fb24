/* Depthwise convolution of channels-last maps, stride 1, padding that keeps the map's size: forward, input gradient
   (the forward with the kernel turned round) and weight gradient. Plain C with GCC/Clang vector types; the caller
   brings the team of threads.

   A vector holds neighbouring channels of one pixel. With dilation d the map falls into d x d phases that know nothing
   of each other, each an ordinary convolution whose neighbouring pixels lie d apart: a dilated kernel costs nothing.
   A tile is P neighbouring pixels of one row of a phase; its P sums stay in registers, every pixel read serves all of
   them, and taps outside the map are never computed. 16-bit floats are summed in fp32, double in double.

   Compiled once for each -DKIND (FP32, BF16, FP64), -DKERNEL (odd) and -DPASS (FORWARD, WEIGHT_GRADIENT) in use. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FP32 0
#define BF16 1
#define FP64 2
#define FORWARD 0
#define WEIGHT_GRADIENT 1

#if defined(__clang__)
#define UNROLLED _Pragma("clang loop unroll(full)")
#else
#define UNROLLED _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
enum { VECTOR = 64 };
#elif defined(__AVX__)
enum { VECTOR = 32 };
#else
enum { VECTOR = 16 };
#endif

/* element: what memory holds; vec: what is computed with, of type `scalar`. */
#if KIND == FP64
typedef double element, scalar;
typedef double vec __attribute__((vector_size(VECTOR), may_alias));
typedef double loose __attribute__((vector_size(VECTOR), aligned(8), may_alias));
#else
typedef float scalar;
typedef float vec __attribute__((vector_size(VECTOR), may_alias));
typedef uint32_t words __attribute__((vector_size(VECTOR), may_alias));
#if KIND == BF16
typedef uint16_t element;
typedef uint16_t loose __attribute__((vector_size(VECTOR / 2), aligned(2), may_alias));
#else
typedef float element;
typedef float loose __attribute__((vector_size(VECTOR), aligned(4), may_alias));
#endif
#endif

enum { K = KERNEL, HALF = KERNEL / 2, LANES = VECTOR / (int)sizeof(scalar) };

/* Pixels of a tile: as many as the registers hold beside a row of the kernel, for each count code of its own. Double is
   there to be exact, not fast, and has code for two. */
#if KIND == FP64
#define TILES(DO) DO(1) DO(2)
enum { PIXELS = 2 };
#elif !defined(__AVX512F__)
#define TILES(DO) DO(1) DO(2) DO(3) DO(4)
enum { PIXELS = 4 };
#elif PASS == FORWARD
#define TILES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
enum { PIXELS = 14 };
#else
#define TILES(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10)
enum { PIXELS = 10 };
#endif

enum { MOST_VECTORS = 64 }; /* of channels, in a piece */

struct task {
    const void *x, *w, *bias, *g; /* x, g: (batch, height, width, channels); w: (channels, kernel, kernel) */
    void *y;                      /* like x; of a weight gradient (cuts, channels, kernel, kernel), each cut's sums */
    int64_t batch, channels, height, width, dilation;
    int64_t turned; /* whether w is read backwards */
    int64_t gelu;   /* whether y is GELU(y) */
    int64_t group;  /* channels of a piece: MOST_VECTORS vectors at most */
    int64_t cuts;   /* into how many the work on one group is cut: by rows, for a weight gradient by images */
    int64_t count;  /* of pieces */
};

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE vec load(const element *from) {
#if KIND == BF16
    return (vec)(__builtin_convertvector(*(const loose *)from, words) << 16);
#else
    return *(const loose *)from;
#endif
}

INLINE void store(element *to, vec v) {
#if KIND == BF16
    /* To the nearest, ties to even; a NaN stays one. */
    const words bits = (words)v, broken = (words)(v != v);
    const words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *(loose *)to = __builtin_convertvector((rounded & ~broken) | (broken & 0x7fc0), loose);
#else
    *(loose *)to = v;
#endif
}

INLINE scalar value(element from) {
#if KIND == BF16
    const uint32_t bits = (uint32_t)from << 16;
    scalar v;
    memcpy(&v, &bits, sizeof v);
    return v;
#else
    return from;
#endif
}

/* `live` channels of a vector; the others are 0. */
INLINE vec load_some(const element *from, int64_t live) {
    element some[LANES] = {0};
    memcpy(some, from, (size_t)live * sizeof(element));
    return load(some);
}

#if PASS == FORWARD

INLINE void store_some(element *to, vec v, int64_t live) {
    element some[LANES];
    store(some, v);
    memcpy(to, some, (size_t)live * sizeof(element));
}

#if KIND == FP64
INLINE vec gelu(vec x) {
    for (int lane = 0; lane < LANES; lane++) x[lane] *= 0.5 * erfc(-0.70710678118654752440 * x[lane]);
    return x;
}
#else
/* Phi(x) - 1/2 = x P(2 x x / B B - 1) up to B, by least squares with Lawson's weights: with P's rounding in fp32 the
   error of GELU(x) = x Phi(x) is below 1.6e-7 of |x|. */
#define GELU_BOUND 5.25f
static const float GELU_TERMS[] = {
    0.00023995011f,  -0.000656583812f, 0.000664732244f, -0.00103953469f, 0.00289236126f,
    -0.00544851972f, 0.00841787085f,   -0.0127752507f,  0.0185386483f,   -0.0250419322f,
    0.0320314392f,   -0.0397634134f,   0.0496457852f,   -0.067126818f,   0.13465935f,
};

INLINE vec gelu(vec x) {
    const vec zero = {0}, bound = zero + GELU_BOUND;
    /* A NaN is neither above nor below, and stays. */
    const words above = (words)(x > bound), below = (words)(x < -bound);
    const vec z = (vec)(((words)x & ~above & ~below) | ((words)bound & above) | ((words)-bound & below));
    const vec s = z * z * (2 / (GELU_BOUND * GELU_BOUND)) - 1.0f;
    vec p = s * GELU_TERMS[0] + GELU_TERMS[1];
    UNROLLED for (int i = 2; i < (int)(sizeof GELU_TERMS / sizeof *GELU_TERMS); i++) p = p * s + GELU_TERMS[i];
    return x * (0.5f + z * p);
}
#endif

/* The taps of one vector of channels, close together. */
INLINE void pack(const struct task *t, int64_t c, int64_t live, vec *to) {
    const vec zero = {0};
    if (live < LANES)
        for (int tap = 0; tap < K * K; tap++) to[tap] = zero;
    for (int64_t lane = 0; lane < live; lane++) {
        const element *from = (const element *)t->w + (c + lane) * K * K;
        scalar *at = (scalar *)to + lane;
        if (t->turned)
            for (int tap = 0; tap < K * K; tap++) at[tap * LANES] = value(from[K * K - 1 - tap]);
        else
            for (int tap = 0; tap < K * K; tap++) at[tap * LANES] = value(from[tap]);
    }
}

/* What lies around a tile: neighbours of its phase are `row` and `pixel` elements apart; rows `top` to `bottom` of the
   kernel lie in the map, and `left` and `right` pixels beside the tile that its kernels reach. */
struct around {
    int64_t row, pixel;
    int top, bottom, left, right;
};

/* The sums of a tile of P pixels, the first of them at x. */
INLINE void tile(const int P, const int whole, const element *x, struct around a, const vec *w, vec bias, int64_t live,
                 vec *out) {
    vec sum[PIXELS];
    UNROLLED for (int p = 0; p < P; p++) sum[p] = bias;
    for (int i = a.top; i < a.bottom; i++) {
        const element *from = x + (i - HALF) * a.row;
        vec tap[K];
        UNROLLED for (int j = 0; j < K; j++) tap[j] = w[i * K + j];
        UNROLLED for (int q = -HALF; q < P + HALF; q++) {
            if (q < 0 && -q > a.left) continue;
            if (q >= P && q - P >= a.right) continue;
            const vec v = whole ? load(from + q * a.pixel) : load_some(from + q * a.pixel, live);
            UNROLLED for (int j = 0; j < K; j++) {
                const int p = q + HALF - j;
                if (p >= 0 && p < P) sum[p] += v * tap[j];
            }
        }
    }
    UNROLLED for (int p = 0; p < P; p++) out[p] = sum[p];
}

#define TILE(P)                                     \
    case P:                                         \
        tile(P, 1, x, a, w, bias, live, out);       \
        break;

INLINE void any_tile(int pixels, const element *x, struct around a, const vec *w, vec bias, int64_t live, vec *out) {
    if (live < LANES) { /* the last channels: pixel by pixel, so that there is not a second code for every tile */
        for (int p = 0; p < pixels; p++) {
            struct around one = a;
            one.left = (int)least(HALF, a.left + p);
            one.right = (int)least(HALF, a.right + pixels - 1 - p);
            tile(1, 0, x + p * a.pixel, one, w, bias, live, out + p);
        }
        return;
    }
    switch (pixels) {
        TILES(TILE)
        default: __builtin_unreachable();
    }
}

/* A row of a column phase s, of some vectors of channels. at: the line's first element. */
INLINE void do_row(const struct task *t, int64_t at, struct around a, int64_t s, int64_t channels, const vec *w,
                   const vec *bias) {
    const int64_t C = t->channels, W = t->width, d = t->dilation;
    const int64_t pixels = (W - s + d - 1) / d, tiles = (pixels + PIXELS - 1) / PIXELS;
    for (int64_t i = 0, first = 0; i < tiles; i++) {
        const int64_t next = pixels * (i + 1) / tiles;
        const int P = (int)(next - first);
        a.left = (int)least(HALF, first);
        a.right = (int)least(HALF, pixels - next);
        for (int64_t b = 0; b * LANES < channels; b++) {
            const int64_t place = at + s * C + first * a.pixel + b * LANES, live = least(LANES, channels - b * LANES);
            vec out[PIXELS];
            any_tile(P, (const element *)t->x + place, a, w + b * K * K, bias[b], live, out);
            if (t->gelu)
                for (int p = 0; p < P; p++) out[p] = gelu(out[p]);
            element *y = (element *)t->y + place;
            if (live == LANES)
                for (int p = 0; p < P; p++) store(y + p * a.pixel, out[p]);
            else
                for (int p = 0; p < P; p++) store_some(y + p * a.pixel, out[p], live);
        }
        first = next;
    }
}

/* Rows `from` to `until` of a phase of `rows`. at: the first element of the phase. Column phase by column phase, so that
   the lines which a row shares with the next are few enough for the first cache. */
static void do_rows(const struct task *t, int64_t at, int64_t from, int64_t until, int64_t rows, int64_t channels,
                    const vec *w, const vec *bias) {
    const int64_t C = t->channels, W = t->width, d = t->dilation;
    struct around a = {.row = d * W * C, .pixel = d * C};
    for (int64_t s = 0; s < least(d, W); s++)
        for (int64_t index = from; index < until; index++) {
            a.top = (int)most(0, HALF - index);
            a.bottom = (int)least(K, HALF + rows - index);
            do_row(t, at + index * a.row, a, s, channels, w, bias);
        }
}

/* Some vectors of channels of one cut of all images' rows, phase after phase. */
static void do_piece(const struct task *t, int64_t piece) {
    const int64_t C = t->channels, H = t->height, W = t->width, d = t->dilation, all = t->batch * H;
    const int64_t c = piece / t->cuts * t->group, cut = piece % t->cuts, channels = least(t->group, C - c);
    vec w[MOST_VECTORS * K * K], bias[MOST_VECTORS];
    const vec zero = {0};
    for (int64_t b = 0; b * LANES < channels; b++) {
        const int64_t live = least(LANES, channels - b * LANES);
        bias[b] = t->bias ? load_some((const element *)t->bias + c + b * LANES, live) : zero;
        pack(t, c + b * LANES, live, w + b * K * K);
    }
    const int64_t end = all * (cut + 1) / t->cuts;
    for (int64_t place = all * cut / t->cuts; place < end;) {
        /* The place-th row, by image, then phase, then row of the phase; with it what follows in the same phase. */
        const int64_t n = place / H;
        int64_t from = place % H, r = 0, rows = (H + d - 1) / d;
        while (from >= rows) {
            from -= rows;
            r++;
            rows = (H - r + d - 1) / d;
        }
        const int64_t until = least(rows, from + end - place);
        do_rows(t, (n * H + r) * W * C + c, from, until, rows, channels, w, bias);
        place += until - from;
    }
}

#else /* WEIGHT_GRADIENT */

/* Sums side by side for each tap, so that one multiply-add does not wait for the last. */
enum { SIDES = KERNEL == 3 ? 4 : 2 };

/* Some lines, `from` to `until` of phase r, of image n. */
struct lines {
    int64_t n, r, from, until;
};

/* Add to `to` what row i of the kernel gathers over some lines, one vector of channels, in tiles of P. What is no pixel
   is a gradient of 0. */
INLINE void kernel_row(const int P, const int whole, const struct task *t, int i, struct lines l, int64_t c, int64_t live,
                       vec *to) {
    const int64_t C = t->channels, H = t->height, W = t->width, d = t->dilation, pixel = d * C, row = d * W * C;
    const element *image = (const element *)t->x + l.n * H * W * C + c;
    const element *g = (const element *)t->g + l.n * H * W * C + c;
    const int64_t rows = (H - l.r + d - 1) / d;
    const int64_t from = most(l.from, HALF - i), until = least(l.until, rows + HALF - i);
    const vec zero = {0};
    vec sum[SIDES][K];
    UNROLLED for (int a = 0; a < SIDES; a++) UNROLLED for (int j = 0; j < K; j++) sum[a][j] = zero;
    for (int64_t index = from; index < until; index++) {
        const int64_t line = (l.r + index * d) * W * C;
        for (int64_t s = 0; s < least(d, W); s++) {
            const int64_t pixels = (W - s + d - 1) / d;
            for (int64_t first = 0; first < pixels; first += P) {
                const int64_t place = line + s * C + first * pixel;
                const element *x = image + place + (i - HALF) * row;
                const int left = (int)least(HALF, first), there = (int)least(P + HALF, pixels - first);
                vec gradient[PIXELS];
                UNROLLED for (int p = 0; p < P; p++)
                    gradient[p] = p >= there ? zero
                                  : whole    ? load(g + place + p * pixel)
                                             : load_some(g + place + p * pixel, live);
                UNROLLED for (int q = -HALF; q < P + HALF; q++) {
                    if (q < 0 && -q > left) continue;
                    if (q >= 0 && q >= there) continue;
                    const vec v = whole ? load(x + q * pixel) : load_some(x + q * pixel, live);
                    UNROLLED for (int j = 0; j < K; j++) {
                        const int p = q + HALF - j;
                        if (p >= 0 && p < P) sum[p % SIDES][j] += v * gradient[p];
                    }
                }
            }
        }
    }
    for (int j = 0; j < K; j++) {
        for (int a = 1; a < SIDES; a++) sum[0][j] += sum[a][j];
        to[j] += sum[0][j];
    }
}

#define TILE(P)                                         \
    case P:                                             \
        kernel_row(P, 1, t, i, l, c, live, to);         \
        break;

static void any_kernel_row(const struct task *t, int i, struct lines l, int64_t c, int64_t live, vec *to) {
    const int64_t pixels = (t->width + t->dilation - 1) / t->dilation, tiles = (pixels + PIXELS - 1) / PIXELS;
    if (live < LANES) {
        kernel_row(1, 0, t, i, l, c, live, to);
        return;
    }
    switch ((pixels + tiles - 1) / tiles) {
        TILES(TILE)
        default: __builtin_unreachable();
    }
}

/* A group of channels of one cut of the images, into that cut's own sums. */
static void do_piece(const struct task *t, int64_t piece) {
    const int64_t C = t->channels, H = t->height, d = t->dilation;
    const int64_t c = piece / t->cuts * t->group, cut = piece % t->cuts, channels = least(t->group, C - c);
    vec sums[MOST_VECTORS][K * K];
    memset(sums, 0, sizeof(vec) * (size_t)(K * K * ((channels + LANES - 1) / LANES)));
    for (int64_t n = t->batch * cut / t->cuts; n < t->batch * (cut + 1) / t->cuts; n++)
        for (int64_t r = 0; r < least(d, H); r++) {
            const int64_t rows = (H - r + d - 1) / d;
            /* A small kernel does little with each pixel: memory must be read in its order, line by line. A large one
               does better to keep its sums in registers over all lines. */
            const int64_t step = K == 3 ? 1 : rows;
            for (int64_t from = 0; from < rows; from += step) {
                const struct lines l = {n, r, from, from + step};
                for (int64_t b = 0; b * LANES < channels; b++)
                    for (int i = 0; i < K; i++)
                        any_kernel_row(t, i, l, c + b * LANES, least(LANES, channels - b * LANES), sums[b] + i * K);
            }
        }
    scalar *to = (scalar *)t->y + (cut * C + c) * K * K;
    for (int64_t channel = 0; channel < channels; channel++)
        for (int tap = 0; tap < K * K; tap++) to[channel * K * K + tap] = sums[channel / LANES][tap][channel % LANES];
}

#endif

/* The team: `parallel` runs a function on so many threads, as GOMP_parallel does; `member` and `members` are those of
   the thread that calls them. */
struct team {
    void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
    int (*member)(void);
    int (*members)(void);
};

struct job {
    const struct task *task;
    const struct team *team;
};

static void share(void *of) {
    const struct job *job = of;
    const int64_t member = job->team->member(), members = job->team->members(), count = job->task->count;
    for (int64_t piece = count * member / members; piece < count * (member + 1) / members; piece++)
        do_piece(job->task, piece);
}

int lanes(void) { return LANES; }

/* plan: a task but for its pointers, which come beside it: it can be used again, and by several callers at once. */
void run(const struct task *plan, const struct team *team, int threads, const void *x, const void *w, const void *bias,
         const void *g, void *y) {
    struct task task = *plan;
    task.x = x, task.w = w, task.bias = bias, task.g = g, task.y = y;
    struct job job = {&task, team};
    threads = (int)least(threads, task.count);
    if (threads > 1)
        team->parallel(share, &job, (unsigned)threads, 0);
    else
        for (int64_t piece = 0; piece < task.count; piece++) do_piece(&task, piece);
}
