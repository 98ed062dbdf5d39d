// Kernels for training small convolutional networks on the CPU, for channels-last float32 and bfloat16 maps.
//
// Compiled on first use by library.py with the machine's own C++ compiler; plain C interface, no header of PyTorch,
// so a build takes seconds and does not depend on PyTorch's version. Vectors are GCC/Clang vector extensions, so one
// source serves AVX-512, AVX2, SSE and NEON.
//
// Every sum over the batch is split into PARTS parts of fixed bounds, added in a fixed order: results are the same
// bits whatever the number of threads and however they are scheduled.

#include <cstdint>
#include <cstring>
#include <cmath>
#include <vector>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));
typedef uint16_t bf16;

static const int PARTS = 16;
#define INLINE static inline __attribute__((always_inline))

// ---- loads, stores and elementary functions -------------------------------------------------------------------

INLINE vec splat(float a) { return a - vec{}; }
INLINE vec load(const float* p) { vec v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float* p, vec v) { memcpy(p, &v, sizeof v); }
INLINE vec load(const bf16* p) {
    hvec h; memcpy(&h, p, sizeof h);
    uvec w = __builtin_convertvector(h, uvec) << 16;
    vec v; memcpy(&v, &w, sizeof v); return v;
}
INLINE void store(bf16* p, vec v) {  // round to nearest, ties to even, as PyTorch does; NaN stays NaN
    uvec w; memcpy(&w, &v, sizeof v);
    uvec r = (w + 0x7fffu + ((w >> 16) & 1u)) >> 16;
    uvec nan = (uvec)(v != v);
    r = (r & ~nan) | (nan & 0x7fc0u);
    hvec h = __builtin_convertvector(r, hvec);
    memcpy(p, &h, sizeof h);
}
template <class T> INLINE vec load_part(const T* p, int n) {  // the first n lanes; the others 0
    T t[LANES] = {};
    memcpy(t, p, n * sizeof(T));
    return load(t);
}
template <class T> INLINE void store_part(T* p, vec v, int n) {
    T t[LANES];
    store(t, v);
    memcpy(p, t, n * sizeof(T));
}
INLINE vec choose(ivec mask, vec yes, vec no) { return mask ? yes : no; }
INLINE vec clamp(vec x, float low, float high) {
    x = choose(x < splat(low), splat(low), x);
    return choose(x > splat(high), splat(high), x);
}

// 1 / (1 + e^-x). The exponential is Cephes' expf, relative error below 2e-7.
INLINE vec sigmoid(vec x) {
#if defined(__AVX512F__)
    __m512 a; memcpy(&a, &x, sizeof a);
    a = _mm512_mul_ps(a, _mm512_set1_ps(-1.44269504088896341f));
    __m512 n = _mm512_roundscale_ps(a, 0);
    vec t; { __m512 r = _mm512_sub_ps(a, n); memcpy(&t, &r, sizeof t); }
#else
    vec a = clamp(x, -87.f, 87.f) * -1.44269504088896341f;
    vec n = a + 12582912.f;  // adds and takes away 1.5 * 2^23: rounds to a whole number
    ivec bits; memcpy(&bits, &n, sizeof n);
    vec t = a - (n - 12582912.f);
#endif
    // 2^t on [-1/2, 1/2]
    vec p = t * 1.535336188319500e-4f + 1.339887440266574e-3f;
    p = p * t + 9.618437357674640e-3f;
    p = p * t + 5.550332471162809e-2f;
    p = p * t + 2.402264791363012e-1f;
    p = p * t + 6.931472028550421e-1f;
    p = p * t + 1.f;
#if defined(__AVX512F__)
    __m512 e; memcpy(&e, &p, sizeof e);
    e = _mm512_add_ps(_mm512_scalef_ps(e, n), _mm512_set1_ps(1.f));
    __m512 r = _mm512_rcp14_ps(e);  // 14 bits, doubled by one step of Newton's; 0 where e is infinite
    __mmask16 finite = _mm512_cmp_ps_mask(r, _mm512_setzero_ps(), _CMP_NEQ_UQ);
    r = _mm512_maskz_mul_ps(finite, r, _mm512_fnmadd_ps(e, r, _mm512_set1_ps(2.f)));
    vec v; memcpy(&v, &r, sizeof v);
    return v;
#else
    ivec power = ((bits - 0x4b400000) + 127) << 23;
    vec scale; memcpy(&scale, &power, sizeof scale);
    return 1.f / (1.f + p * scale);
#endif
}

// ---- activations ----------------------------------------------------------------------------------------------

enum { IDENTITY, RELU, RELU6, SILU, HARDSWISH };

template <int A> INLINE vec activate(vec z) {
    if (A == RELU) return choose(z > vec{}, z, vec{});
    if (A == RELU6) return clamp(z, 0.f, 6.f);
    if (A == SILU) return z * sigmoid(z);
    if (A == HARDSWISH) return z * clamp(z + 3.f, 0.f, 6.f) * (1.f / 6.f);
    return z;
}
template <int A> INLINE vec activate_backward(vec z, vec g) {
    if (A == RELU) return choose(z > vec{}, g, vec{});
    if (A == RELU6) return choose((z > vec{}) & (z < splat(6.f)), g, vec{});
    if (A == SILU) { vec s = sigmoid(z); return g * (s * (1.f + z * (1.f - s))); }
    if (A == HARDSWISH) {
        vec inside = g * (z * (1.f / 3.f) + 0.5f);
        return choose(z <= splat(-3.f), vec{}, choose(z >= splat(3.f), g, inside));
    }
    return g;
}

// ---- depthwise convolution ------------------------------------------------------------------------------------

// Weights are (k*k, channels). One block of B vectors of channels of one image.
struct Shape { int64_t n, h, w, c, oh, ow, k, s, p; };

// The outputs o, 0 <= o < out, that tap t reads inside the map: 0 <= o*s + t - p < in.
INLINE void tap_range(int64_t t, int64_t s, int64_t p, int64_t in, int64_t out, int64_t& low, int64_t& high) {
    low = p - t > 0 ? (p - t + s - 1) / s : 0;
    int64_t last = in - 1 + p - t;
    high = last < 0 ? 0 : last / s + 1;
    if (high > out) high = out;
}

template <class T, int B, bool WHOLE>
INLINE void depthwise_forward_block(const T* x, const float* wt, T* y, const Shape& d, int part) {
    for (int64_t oh = 0; oh < d.oh; ++oh) for (int64_t ow = 0; ow < d.ow; ++ow) {
        vec acc[B] = {};
        for (int64_t i = 0; i < d.k; ++i) {
            int64_t ih = oh * d.s + i - d.p;
            if (ih < 0 || ih >= d.h) continue;
            for (int64_t j = 0; j < d.k; ++j) {
                int64_t iw = ow * d.s + j - d.p;
                if (iw < 0 || iw >= d.w) continue;
                const T* px = x + (ih * d.w + iw) * d.c;
                const float* pw = wt + (i * d.k + j) * d.c;
                for (int b = 0; b < B; ++b)
                    acc[b] += WHOLE ? load(px + b * LANES) * load(pw + b * LANES) : load_part(px, part) * load_part(pw, part);
            }
        }
        T* py = y + (oh * d.ow + ow) * d.c;
        for (int b = 0; b < B; ++b) WHOLE ? store(py + b * LANES, acc[b]) : store_part(py, acc[b], part);
    }
}

template <class T, int B, bool WHOLE>
INLINE void depthwise_input_block(const T* g, const float* wt, T* gx, const Shape& d, int part) {
    for (int64_t ih = 0; ih < d.h; ++ih) for (int64_t iw = 0; iw < d.w; ++iw) {
        vec acc[B] = {};
        for (int64_t i = 0; i < d.k; ++i) {
            int64_t a = ih + d.p - i;
            if (a < 0 || a % d.s || a / d.s >= d.oh) continue;
            for (int64_t j = 0; j < d.k; ++j) {
                int64_t b2 = iw + d.p - j;
                if (b2 < 0 || b2 % d.s || b2 / d.s >= d.ow) continue;
                const T* pg = g + (a / d.s * d.ow + b2 / d.s) * d.c;
                const float* pw = wt + (i * d.k + j) * d.c;
                for (int b = 0; b < B; ++b)
                    acc[b] += WHOLE ? load(pg + b * LANES) * load(pw + b * LANES) : load_part(pg, part) * load_part(pw, part);
            }
        }
        T* px = gx + (ih * d.w + iw) * d.c;
        for (int b = 0; b < B; ++b) WHOLE ? store(px + b * LANES, acc[b]) : store_part(px, acc[b], part);
    }
}

template <class T, int B, bool WHOLE>
INLINE void depthwise_weight_block(const T* x, const T* g, float* gw, const Shape& d, int64_t count, int part) {
    // gw += over `count` images. Small maps: one tap at a time over all images; large ones row by row (stays in L1).
    bool small = d.oh * d.ow <= 16;
    int64_t outer = small ? 1 : count, inner = small ? count : 1;
    int64_t rows_outer = small ? 1 : d.oh;
    for (int64_t m = 0; m < outer; ++m) for (int64_t row = 0; row < rows_outer; ++row)
    for (int64_t i = 0; i < d.k; ++i) {
        int64_t h0, h1;
        tap_range(i, d.s, d.p, d.h, d.oh, h0, h1);
        if (!small) { if (row < h0 || row >= h1) continue; h0 = row; h1 = row + 1; }
        for (int64_t j = 0; j < d.k; ++j) {
            int64_t w0, w1;
            tap_range(j, d.s, d.p, d.w, d.ow, w0, w1);
            if (h0 >= h1 || w0 >= w1) continue;
            float* pw = gw + (i * d.k + j) * d.c;
            vec acc[B];
            for (int b = 0; b < B; ++b) acc[b] = WHOLE ? load(pw + b * LANES) : load_part(pw, part);
            for (int64_t q = 0; q < inner; ++q) {
                const T* gi = g + (m + q) * d.oh * d.ow * d.c;
                const T* xi = x + (m + q) * d.h * d.w * d.c;
                for (int64_t oh = h0; oh < h1; ++oh) {
                    const T* pg = gi + (oh * d.ow + w0) * d.c;
                    const T* px = xi + ((oh * d.s + i - d.p) * d.w + w0 * d.s + j - d.p) * d.c;
                    for (int64_t ow = w0; ow < w1; ++ow, pg += d.c, px += d.s * d.c)
                        for (int b = 0; b < B; ++b)
                            acc[b] += WHOLE ? load(pg + b * LANES) * load(px + b * LANES) : load_part(pg, part) * load_part(px, part);
                }
            }
            for (int b = 0; b < B; ++b) WHOLE ? store(pw + b * LANES, acc[b]) : store_part(pw, acc[b], part);
        }
    }
}

#define OVER_CHANNELS(CALL4, CALL1, CALLP)                                \
    {                                                                     \
        int64_t c = 0;                                                    \
        for (; c + 4 * LANES <= d.c; c += 4 * LANES) CALL4;               \
        for (; c + LANES <= d.c; c += LANES) CALL1;                       \
        if (c < d.c) { int part = (int)(d.c - c); CALLP; }                \
    }

template <class T> static void depthwise_forward(const T* x, const float* wt, T* y, const Shape& d, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t n = 0; n < d.n; ++n) {
        const T* xn = x + n * d.h * d.w * d.c;
        T* yn = y + n * d.oh * d.ow * d.c;
        OVER_CHANNELS((depthwise_forward_block<T, 4, true>(xn + c, wt + c, yn + c, d, 0)),
                      (depthwise_forward_block<T, 1, true>(xn + c, wt + c, yn + c, d, 0)),
                      (depthwise_forward_block<T, 1, false>(xn + c, wt + c, yn + c, d, part)))
    }
}

template <class T>
static void depthwise_backward(const T* x, const float* wt, const T* g, T* gx, float* gw, const Shape& d, int threads) {
    int64_t size = d.k * d.k * d.c, each = (d.n + PARTS - 1) / PARTS;
    std::vector<float> sums(gw ? PARTS * size : 0, 0.f);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t first = q * each, last = first + each < d.n ? first + each : d.n;
        int64_t xs = d.h * d.w * d.c, gs = d.oh * d.ow * d.c;
        if (first >= last) continue;
        if (gw) {
            const T* xn = x + first * xs;
            const T* gn = g + first * gs;
            float* pw = sums.data() + q * size;
            int64_t count = last - first;
            OVER_CHANNELS((depthwise_weight_block<T, 4, true>(xn + c, gn + c, pw + c, d, count, 0)),
                          (depthwise_weight_block<T, 1, true>(xn + c, gn + c, pw + c, d, count, 0)),
                          (depthwise_weight_block<T, 1, false>(xn + c, gn + c, pw + c, d, count, part)))
        }
        if (gx) for (int64_t n = first; n < last; ++n) {
            const T* gn = g + n * gs;
            T* xn = gx + n * xs;
            OVER_CHANNELS((depthwise_input_block<T, 4, true>(gn + c, wt + c, xn + c, d, 0)),
                          (depthwise_input_block<T, 1, true>(gn + c, wt + c, xn + c, d, 0)),
                          (depthwise_input_block<T, 1, false>(gn + c, wt + c, xn + c, d, part)))
        }
    }
    if (gw) for (int64_t i = 0; i < size; ++i) {
        float s = 0;
        for (int q = 0; q < PARTS; ++q) s += sums[q * size + i];
        gw[i] = s;
    }
}

// ---- batch norm, skip and activation --------------------------------------------------------------------------

// y = activate(weight * (x - mean) * inverse_deviation + bias + skip), rows of `c` channels.

template <class T, bool WHOLE>
INLINE void moments_block(const T* x, int64_t rows, int64_t c, const float* shift, float* sum, float* square, int part) {
    vec base = WHOLE ? load(shift) : load_part(shift, part), s = {}, q = {};
    for (int64_t r = 0; r < rows; ++r) {
        vec v = (WHOLE ? load(x + r * c) : load_part(x + r * c, part)) - base;
        s += v; q += v * v;
    }
    if (WHOLE) { store(sum, load(sum) + s); store(square, load(square) + q); }
    else { store_part(sum, load_part(sum, part) + s, part); store_part(square, load_part(square, part) + q, part); }
}

static const int64_t ROW_BLOCK = 32;  // rows taken together, so that a block of them stays in the L1/L2 cache

template <class T>
static void moments(const T* x, int64_t rows, int64_t c, float* mean, float* variance, int threads) {
    // Sums of (x - first row) and of its square: shifted, so that a mean far from zero costs no precision.
    std::vector<double> sums(PARTS * 2 * c, 0.0);
    std::vector<float> shift(c);
    for (int64_t i = 0; i < c; i += LANES) {
        if (c - i >= LANES) store(&shift[i], load(x + i)); else store_part(&shift[i], load_part(x + i, (int)(c - i)), (int)(c - i));
    }
    int64_t each = (rows + PARTS - 1) / PARTS;
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t first = q * each, last = first + each < rows ? first + each : rows;
        std::vector<float> local(2 * c);
        double* out = &sums[q * 2 * c];
        for (int64_t r0 = first; r0 < last; r0 += 8 * ROW_BLOCK) {
            int64_t end = r0 + 8 * ROW_BLOCK < last ? r0 + 8 * ROW_BLOCK : last;
            std::fill(local.begin(), local.end(), 0.f);
            for (int64_t r = r0; r < end; r += ROW_BLOCK) {
                int64_t n = end - r < ROW_BLOCK ? end - r : ROW_BLOCK;
                int64_t i = 0;
                for (; i + LANES <= c; i += LANES) moments_block<T, true>(x + r * c + i, n, c, &shift[i], &local[i], &local[c + i], 0);
                if (i < c) moments_block<T, false>(x + r * c + i, n, c, &shift[i], &local[i], &local[c + i], (int)(c - i));
            }
            for (int64_t i = 0; i < 2 * c; ++i) out[i] += local[i];
        }
    }
    for (int64_t i = 0; i < c; ++i) {
        double s = 0, q = 0;
        for (int p = 0; p < PARTS; ++p) { s += sums[p * 2 * c + i]; q += sums[p * 2 * c + c + i]; }
        double m = s / rows, v = q / rows - m * m;
        mean[i] = (float)(shift[i] + m);
        variance[i] = (float)(v > 0 ? v : 0);
    }
}

template <class T, int A, bool WHOLE>
INLINE void apply_block(const T* x, const T* skip, T* y, int64_t rows, int64_t c, const float* scale, const float* offset, int part) {
    vec a = WHOLE ? load(scale) : load_part(scale, part), b = WHOLE ? load(offset) : load_part(offset, part);
    for (int64_t r = 0; r < rows; ++r) {
        vec z = (WHOLE ? load(x + r * c) : load_part(x + r * c, part)) * a + b;
        if (skip) z += WHOLE ? load(skip + r * c) : load_part(skip + r * c, part);
        z = activate<A>(z);
        WHOLE ? store(y + r * c, z) : store_part(y + r * c, z, part);
    }
}

template <class T, int A>
static void apply(const T* x, const T* skip, T* y, int64_t rows, int64_t c, const float* scale, const float* offset, int threads) {
    int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t k = 0; k < blocks; ++k) {
        int64_t r = k * ROW_BLOCK, n = rows - r < ROW_BLOCK ? rows - r : ROW_BLOCK, i = 0;
        for (; i + LANES <= c; i += LANES)
            apply_block<T, A, true>(x + r * c + i, skip ? skip + r * c + i : nullptr, y + r * c + i, n, c, scale + i, offset + i, 0);
        if (i < c)
            apply_block<T, A, false>(x + r * c + i, skip ? skip + r * c + i : nullptr, y + r * c + i, n, c, scale + i, offset + i, (int)(c - i));
    }
}

// z is the activation's input; d = gradient at z. Sums of d and of d * (x - mean); with `store_d`, d is written.
template <class T, int A, bool WHOLE>
INLINE void reduce_block(const T* x, const T* skip, const T* g, T* d_out, int64_t rows, int64_t c, const float* scale, const float* offset,
                         const float* mean, float* sum, float* dot, int part) {
    vec a = WHOLE ? load(scale) : load_part(scale, part), b = WHOLE ? load(offset) : load_part(offset, part);
    vec m = WHOLE ? load(mean) : load_part(mean, part), s = {}, t = {};
    for (int64_t r = 0; r < rows; ++r) {
        vec v = WHOLE ? load(x + r * c) : load_part(x + r * c, part);
        vec d = WHOLE ? load(g + r * c) : load_part(g + r * c, part);
        if (A != IDENTITY) {
            vec z = v * a + b;
            if (skip) z += WHOLE ? load(skip + r * c) : load_part(skip + r * c, part);
            d = activate_backward<A>(z, d);
        }
        if (d_out) { WHOLE ? store(d_out + r * c, d) : store_part(d_out + r * c, d, part); }
        s += d; t += d * (v - m);
    }
    if (WHOLE) { store(sum, load(sum) + s); store(dot, load(dot) + t); }
    else { store_part(sum, load_part(sum, part) + s, part); store_part(dot, load_part(dot, part) + t, part); }
}

// gx = a * (d - mean(d) - (x - mean) * k), written as a * d + x * p + o with p, o of each channel.
template <class T, int A, bool WHOLE>
INLINE void input_block(const T* x, const T* g, T* gx, int64_t rows, int64_t c, const float* scale, const float* offset,
                        const float* slope, const float* constant, int part) {
    vec a = WHOLE ? load(scale) : load_part(scale, part), b = WHOLE ? load(offset) : load_part(offset, part);
    vec p = WHOLE ? load(slope) : load_part(slope, part), o = WHOLE ? load(constant) : load_part(constant, part);
    for (int64_t r = 0; r < rows; ++r) {
        vec v = WHOLE ? load(x + r * c) : load_part(x + r * c, part);
        vec d = WHOLE ? load(g + r * c) : load_part(g + r * c, part);
        if (A != IDENTITY) d = activate_backward<A>(v * a + b, d);
        d = d * a + (v * p + o);
        WHOLE ? store(gx + r * c, d) : store_part(gx + r * c, d, part);
    }
}

// gx may be null; gskip (with skip) takes the gradient at z.
template <class T, int A>
static void normalise_backward(const T* x, const T* skip, const T* g, T* gx, T* gskip, int64_t rows, int64_t c, const float* mean, const float* inverse,
                               const float* weight, const float* scale, const float* offset, float* gweight, float* gbias, int threads) {
    std::vector<double> sums(PARTS * 2 * c, 0.0);
    int64_t each = (rows + PARTS - 1) / PARTS;
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t first = q * each, last = first + each < rows ? first + each : rows;
        std::vector<float> local(2 * c);
        double* out = &sums[q * 2 * c];
        for (int64_t r0 = first; r0 < last; r0 += 8 * ROW_BLOCK) {
            int64_t end = r0 + 8 * ROW_BLOCK < last ? r0 + 8 * ROW_BLOCK : last;
            std::fill(local.begin(), local.end(), 0.f);
            for (int64_t r = r0; r < end; r += ROW_BLOCK) {
                int64_t n = end - r < ROW_BLOCK ? end - r : ROW_BLOCK, i = 0, o = r * c;
                for (; i + LANES <= c; i += LANES)
                    reduce_block<T, A, true>(x + o + i, skip ? skip + o + i : nullptr, g + o + i, gskip ? gskip + o + i : nullptr, n, c, scale + i, offset + i, mean + i, &local[i], &local[c + i], 0);
                if (i < c)
                    reduce_block<T, A, false>(x + o + i, skip ? skip + o + i : nullptr, g + o + i, gskip ? gskip + o + i : nullptr, n, c, scale + i, offset + i, mean + i, &local[i], &local[c + i], (int)(c - i));
            }
            for (int64_t i = 0; i < 2 * c; ++i) out[i] += local[i];
        }
    }
    std::vector<float> slope(c), constant(c);
    for (int64_t i = 0; i < c; ++i) {
        double s = 0, t = 0;
        for (int p = 0; p < PARTS; ++p) { s += sums[p * 2 * c + i]; t += sums[p * 2 * c + c + i]; }
        gbias[i] = (float)s;
        gweight[i] = (float)(t * inverse[i]);
        double a = (double)weight[i] * inverse[i];
        double k = t * inverse[i] * inverse[i] / rows;  // slope of the part along x
        slope[i] = (float)(-a * k);
        constant[i] = (float)(a * (k * mean[i] - s / rows));
    }
    if (!gx) return;
    int64_t blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t k = 0; k < blocks; ++k) {
        int64_t r = k * ROW_BLOCK, n = rows - r < ROW_BLOCK ? rows - r : ROW_BLOCK, i = 0, o = r * c;
        for (; i < c; i += LANES) {
            bool whole = i + LANES <= c;
            int part = whole ? 0 : (int)(c - i);
            if (gskip) {
                if (whole) input_block<T, IDENTITY, true>(x + o + i, gskip + o + i, gx + o + i, n, c, scale + i, offset + i, &slope[i], &constant[i], 0);
                else input_block<T, IDENTITY, false>(x + o + i, gskip + o + i, gx + o + i, n, c, scale + i, offset + i, &slope[i], &constant[i], part);
            } else {
                if (whole) input_block<T, A, true>(x + o + i, g + o + i, gx + o + i, n, c, scale + i, offset + i, &slope[i], &constant[i], 0);
                else input_block<T, A, false>(x + o + i, g + o + i, gx + o + i, n, c, scale + i, offset + i, &slope[i], &constant[i], part);
            }
        }
    }
}

#define BY_ACTIVATION(A, CALL)                                          \
    switch (A) {                                                        \
        case IDENTITY: { constexpr int ACT = IDENTITY; CALL; break; }   \
        case RELU: { constexpr int ACT = RELU; CALL; break; }           \
        case RELU6: { constexpr int ACT = RELU6; CALL; break; }         \
        case SILU: { constexpr int ACT = SILU; CALL; break; }           \
        case HARDSWISH: { constexpr int ACT = HARDSWISH; CALL; break; } \
    }

#define INTERFACE(SUFFIX, T)                                                                                                        \
    extern "C" void depthwise_forward_##SUFFIX(const T* x, const float* wt, T* y, const int64_t* d, int threads) {                  \
        depthwise_forward<T>(x, wt, y, Shape{d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8]}, threads);                       \
    }                                                                                                                               \
    extern "C" void depthwise_backward_##SUFFIX(const T* x, const float* wt, const T* g, T* gx, float* gw, const int64_t* d, int threads) { \
        depthwise_backward<T>(x, wt, g, gx, gw, Shape{d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7], d[8]}, threads);              \
    }                                                                                                                               \
    extern "C" void moments_##SUFFIX(const T* x, int64_t rows, int64_t c, float* mean, float* variance, int threads) {              \
        moments<T>(x, rows, c, mean, variance, threads);                                                                            \
    }                                                                                                                               \
    extern "C" void apply_##SUFFIX(const T* x, const T* skip, T* y, int64_t rows, int64_t c, const float* scale, const float* offset, \
                                   int act, int threads) {                                                                          \
        BY_ACTIVATION(act, (apply<T, ACT>(x, skip, y, rows, c, scale, offset, threads)))                                            \
    }                                                                                                                               \
    extern "C" void normalise_backward_##SUFFIX(const T* x, const T* skip, const T* g, T* gx, T* gskip, int64_t rows, int64_t c,    \
                                                const float* mean, const float* inverse, const float* weight, const float* scale,   \
                                                const float* offset, float* gweight, float* gbias, int act, int threads) {          \
        BY_ACTIVATION(act, (normalise_backward<T, ACT>(x, skip, g, gx, gskip, rows, c, mean, inverse, weight, scale, offset,        \
                                                       gweight, gbias, threads)))                                                   \
    }

INTERFACE(float32, float)
INTERFACE(bfloat16, bf16)
