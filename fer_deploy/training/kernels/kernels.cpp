// Kernels for training small convolutional networks on the CPU, for channels-last float32 and bfloat16 maps.
//
// Compiled on first use by library.py with the machine's own C++ compiler; plain C interface, no header of PyTorch,
// so a build takes seconds and does not depend on PyTorch's version. Vectors are GCC/Clang vector extensions, so one
// source serves AVX-512, AVX2, SSE and NEON.
//
// Every sum over the batch is split into PARTS parts of fixed bounds, added in a fixed order: results are the same
// bits whatever the number of threads and however they are scheduled.

#include <algorithm>
#include <cstdint>
#include <cstring>
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
#if defined(__AVX512BF16__)
    __m512 a; memcpy(&a, &v, sizeof a);
    __m256bh b = _mm512_cvtneps_pbh(a);
    memcpy(p, &b, sizeof b);
    return;
#endif
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
// A whole vector, or its first `part` lanes.
template <bool WHOLE, class T> INLINE vec get(const T* p, int part) { return WHOLE ? load(p) : load_part(p, part); }
template <bool WHOLE, class T> INLINE void put(T* p, vec v, int part) { WHOLE ? store(p, v) : store_part(p, v, part); }
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

// The activation and its derivative at z.
template <int A> INLINE vec activate_both(vec z, vec& derivative) {
    if (A == SILU) {
        vec s = sigmoid(z), y = z * s;
        derivative = s + y * (1.f - s);
        return y;
    }
    derivative = activate_backward<A>(z, splat(1.f));
    return activate<A>(z);
}

#define BY_ACTIVATION(A, ...)                                          \
    switch (A) {                                                        \
        case RELU: { constexpr int ACT = RELU; __VA_ARGS__; break; }           \
        case RELU6: { constexpr int ACT = RELU6; __VA_ARGS__; break; }         \
        case SILU: { constexpr int ACT = SILU; __VA_ARGS__; break; }           \
        case HARDSWISH: { constexpr int ACT = HARDSWISH; __VA_ARGS__; break; } \
        default: { constexpr int ACT = IDENTITY; __VA_ARGS__; break; }         \
    }

// Calls CALL for each vector of `c` channels, with `i` its first channel and WHOLE, `part` as `get` wants them.
#define OVER_VECTORS(c, ...)                                                                           \
    {                                                                                                     \
        int64_t i = 0;                                                                                    \
        for (; i + LANES <= (c); i += LANES) { constexpr bool WHOLE = true; constexpr int part = LANES; __VA_ARGS__; } \
        if (i < (c)) { constexpr bool WHOLE = false; const int part = (int)((c) - i); __VA_ARGS__; }             \
    }

// ---- sums over the batch --------------------------------------------------------------------------------------

// Per-channel pairs of sums, one row of 2c doubles for each part.
struct Sums {
    int64_t c;
    std::vector<double> values;
    explicit Sums(int64_t channels) : c(channels), values(PARTS * 2 * channels, 0.0) {}
    void add(int64_t part, const float* first, const float* second) {
        double* out = &values[part * 2 * c];
        for (int64_t i = 0; i < c; ++i) { out[i] += first[i]; out[c + i] += second[i]; }
    }
};

// Mean and variance from each part's sums of (x - shift) and of its square, taken about the part's own shift.
static void combine_moments(const Sums& sums, const std::vector<float>& shifts, const std::vector<int64_t>& counts,
                            float* mean, float* variance) {
    int64_t c = sums.c;
    for (int64_t i = 0; i < c; ++i) {
        double total = 0, n = 0, spread = 0;
        for (int q = 0; q < PARTS; ++q) if (counts[q]) {
            total += sums.values[q * 2 * c + i] + (double)counts[q] * shifts[q * c + i];
            n += counts[q];
        }
        double m = total / n;
        for (int q = 0; q < PARTS; ++q) if (counts[q]) {
            double away = m - shifts[q * c + i];
            spread += sums.values[q * 2 * c + c + i] - 2 * away * sums.values[q * 2 * c + i] + counts[q] * away * away;
        }
        mean[i] = (float)m;
        variance[i] = (float)(spread > 0 ? spread / n : 0);
    }
}

// Where a batch norm's input x, its scale and offset (weight / deviation, bias - mean * scale), mean, reciprocal
// deviation and weight are; c floats each.
struct Norm { const float *scale, *offset, *mean, *inverse, *weight; };

// From the sums of d and of d * (x - mean): the weight's and bias's gradients, and slope and constant of
// gx = scale * d + slope * x + constant, which is batch norm's gradient with the batch's own statistics.
static void finish_sums(const Sums& sums, const Norm& norm, int64_t rows, float* gweight, float* gbias,
                        std::vector<float>& slope, std::vector<float>& constant) {
    int64_t c = sums.c;
    slope.resize(c);
    constant.resize(c);
    for (int64_t i = 0; i < c; ++i) {
        double s = 0, t = 0, inverse = norm.inverse[i], a = (double)norm.weight[i] * inverse;
        for (int q = 0; q < PARTS; ++q) { s += sums.values[q * 2 * c + i]; t += sums.values[q * 2 * c + c + i]; }
        gbias[i] = (float)s;
        gweight[i] = (float)(t * inverse);
        double k = t * inverse * inverse / rows;
        slope[i] = (float)(-a * k);
        constant[i] = (float)(a * (k * norm.mean[i] - s / rows));
    }
}

static const int64_t STRIP = 32;  // rows taken together, so that they stay in the L1/L2 cache over the channels

// gx = scale * d + slope * x + constant; gx may be d.
template <class T>
static void finish_input(const T* x, const T* d, T* gx, int64_t rows, int64_t c, const float* scale, const float* slope,
                         const float* constant, int threads) {
    int64_t strips = (rows + STRIP - 1) / STRIP;
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t k = 0; k < strips; ++k) {
        int64_t first = k * STRIP, count = std::min(STRIP, rows - first);
        OVER_VECTORS(c, {
            vec a = get<WHOLE>(scale + i, part), p = get<WHOLE>(slope + i, part), o = get<WHOLE>(constant + i, part);
            int64_t at = first * c + i;
            for (int64_t r = 0; r < count; ++r, at += c)
                put<WHOLE>(gx + at, get<WHOLE>(d + at, part) * a + (get<WHOLE>(x + at, part) * p + o), part);
        })
    }
}

// ---- depthwise convolution ------------------------------------------------------------------------------------

// Which input pixels, output pixels and taps meet, for maps of one shape: small maps meet only some of the taps.
struct Geometry {
    int64_t n, h, w, c, oh, ow, k, s, p;
    struct Pair { int32_t pixel, tap; };
    struct Meeting { int32_t input, output; };
    struct Segment { int32_t tap, begin, end; };
    std::vector<int32_t> output_start, input_start;  // first pair of each output (input) pixel
    std::vector<Pair> of_output, of_input;
    std::vector<Segment> segments;  // meetings by tap, in strips of outputs that stay in L1
    std::vector<Meeting> meetings;

    Geometry(const int64_t* d, bool backward)
        : n(d[0]), h(d[1]), w(d[2]), c(d[3]), oh(d[4]), ow(d[5]), k(d[6]), s(d[7]), p(d[8]) {
        if (!backward) {
            for (int64_t a = 0; a < oh; ++a) for (int64_t b = 0; b < ow; ++b) {
                output_start.push_back((int32_t)of_output.size());
                for (int64_t i = 0; i < k; ++i) for (int64_t j = 0; j < k; ++j) {
                    int64_t ih = a * s + i - p, iw = b * s + j - p;
                    if (ih >= 0 && ih < h && iw >= 0 && iw < w) of_output.push_back({int32_t(ih * w + iw), int32_t(i * k + j)});
                }
            }
            output_start.push_back((int32_t)of_output.size());
            return;
        }
        for (int64_t a = 0; a < h; ++a) for (int64_t b = 0; b < w; ++b) {
            input_start.push_back((int32_t)of_input.size());
            for (int64_t i = 0; i < k; ++i) for (int64_t j = 0; j < k; ++j) {
                int64_t y = a + p - i, x = b + p - j;
                if (y >= 0 && x >= 0 && y % s == 0 && x % s == 0 && y / s < oh && x / s < ow)
                    of_input.push_back({int32_t(y / s * ow + x / s), int32_t(i * k + j)});
            }
        }
        input_start.push_back((int32_t)of_input.size());
        int64_t lines = std::max<int64_t>(1, 24 / ow);  // lines of outputs in a strip
        for (int64_t first = 0; first < oh; first += lines)
            for (int64_t i = 0; i < k; ++i) for (int64_t j = 0; j < k; ++j) {
                int32_t begin = (int32_t)meetings.size();
                for (int64_t a = first; a < std::min(oh, first + lines); ++a) for (int64_t b = 0; b < ow; ++b) {
                    int64_t ih = a * s + i - p, iw = b * s + j - p;
                    if (ih >= 0 && ih < h && iw >= 0 && iw < w) meetings.push_back({int32_t(ih * w + iw), int32_t(a * ow + b)});
                }
                if ((int32_t)meetings.size() > begin) segments.push_back({int32_t(i * k + j), begin, (int32_t)meetings.size()});
            }
    }
    int64_t group() const { return std::max<int64_t>(1, 16 / (h * w)); }  // images taken together
};

// Sums over the pairs of each of `pixels` pixels: sink(pixel, sum of source[pair.pixel] * taps[pair.tap]).
// Everything dense in blocks of B vectors of channels.
template <int B, class Sink>
INLINE void convolve(const float* source, const float* taps, const int32_t* start, const Geometry::Pair* pairs,
                     int64_t pixels, Sink sink) {
    constexpr int block = B * LANES;
    for (int64_t o = 0; o < pixels; ++o) {
        vec sum[B] = {};
        for (int32_t e = start[o]; e < start[o + 1]; ++e) {
            const float* a = source + (int64_t)pairs[e].pixel * block;
            const float* t = taps + (int64_t)pairs[e].tap * block;
            for (int b = 0; b < B; ++b) sum[b] += load(a + b * LANES) * load(t + b * LANES);
        }
        sink(o, sum);
    }
}

// One block of channels of `rows` rows into dense memory; lanes beyond `lanes` become 0.
template <class T> INLINE void gather(const T* x, int64_t c, int64_t rows, int lanes, int block, float* dense) {
    for (int64_t r = 0; r < rows; ++r, x += c, dense += block) {
        int i = 0;
        for (; i + LANES <= lanes; i += LANES) store(dense + i, load(x + i));
        if (i < lanes) store(dense + i, load_part(x + i, lanes - i));
    }
}

// activate(scale * x + offset) of one block of channels into dense memory, and its derivative unless null.
template <class T, int A>
static void prepare(const T* x, int64_t c, int64_t rows, int lanes, int block, const float* scale, const float* offset,
                    float* dense, float* derivative) {
    OVER_VECTORS(lanes, {
        vec a = get<WHOLE>(scale + i, part), b = get<WHOLE>(offset + i, part);
        for (int64_t r = 0; r < rows; ++r) {
            vec z = get<WHOLE>(x + r * c + i, part) * a + b;
            if (derivative) {
                vec d;
                store(dense + r * block + i, activate_both<A>(z, d));
                store(derivative + r * block + i, d);
            } else store(dense + r * block + i, activate<A>(z));
        }
    })
}

// One part of the batch and one block of channels, from channel `at`, `lanes` of them in B vectors.
template <class T, int B>
static void forward_block(const T* x, const float* scale, const float* offset, int act, const float* taps, T* y,
                          const Geometry& d, int64_t first, int64_t last, int64_t at, int lanes, float* shift,
                          double* sums, std::vector<float>& scratch) {
    constexpr int block = B * LANES;
    int64_t in = d.h * d.w, out = d.oh * d.ow, group = d.group();
    scratch.resize((group * in + d.k * d.k) * block);
    float *source = scratch.data(), *dense_taps = source + group * in * block;
    gather(taps + at, d.c, d.k * d.k, lanes, block, dense_taps);
    vec base[B] = {};
    bool fresh = true;
    for (int64_t n = first; n < last; n += group) {
        int64_t images = std::min(group, last - n);
        const T* xn = x + n * in * d.c + at;
        if (scale) { BY_ACTIVATION(act, (prepare<T, ACT>(xn, d.c, images * in, lanes, block, scale + at, offset + at, source, nullptr))) }
        else gather(xn, d.c, images * in, lanes, block, source);
        vec total[B] = {}, square[B] = {};
        for (int64_t m = 0; m < images; ++m) {
            T* yn = y + (n + m) * out * d.c + at;
            convolve<B>(source + m * in * block, dense_taps, d.output_start.data(), d.of_output.data(), out, [&](int64_t o, const vec* sum) {
                for (int b = 0; b < B; ++b) {
                    if (fresh) base[b] = sum[b];
                    vec away = sum[b] - base[b];
                    total[b] += away;
                    square[b] += away * away;
                    if (lanes >= (b + 1) * LANES) store(yn + o * d.c + b * LANES, sum[b]);
                    else if (lanes > b * LANES) store_part(yn + o * d.c + b * LANES, sum[b], lanes - b * LANES);
                }
                fresh = false;
            });
        }
        if (sums) for (int i = 0; i < lanes; ++i) {
            sums[at + i] += total[i / LANES][i % LANES];
            sums[d.c + at + i] += square[i / LANES][i % LANES];
        }
    }
    if (sums) for (int i = 0; i < lanes; ++i) shift[at + i] = base[i / LANES][i % LANES];
}

template <class T, int B>
static void backward_block(const T* x, const Norm& norm, int act, const float* taps, const T* g, T* gx, float* gtaps,
                           const Geometry& d, int64_t first, int64_t last, int64_t at, int lanes, double* sums,
                           std::vector<float>& scratch) {
    constexpr int block = B * LANES;
    int64_t in = d.h * d.w, out = d.oh * d.ow, group = d.group(), kernel = d.k * d.k;
    scratch.resize((group * (2 * in + out) + 2 * kernel) * block);
    float *source = scratch.data(), *derivative = source + group * in * block, *gradient = derivative + group * in * block;
    float *dense_taps = gradient + group * out * block, *dense_gtaps = dense_taps + kernel * block;
    gather(taps + at, d.c, kernel, lanes, block, dense_taps);
    std::fill(dense_gtaps, dense_gtaps + kernel * block, 0.f);
    for (int64_t n = first; n < last; n += group) {
        int64_t images = std::min(group, last - n);
        const T* xn = x + n * in * d.c + at;
        gather(g + n * out * d.c + at, d.c, images * out, lanes, block, gradient);
        if (norm.scale) { BY_ACTIVATION(act, (prepare<T, ACT>(xn, d.c, images * in, lanes, block, norm.scale + at, norm.offset + at, source, derivative))) }
        else if (gtaps) gather(xn, d.c, images * in, lanes, block, source);
        if (gtaps) for (const Geometry::Segment& segment : d.segments) {
            float* t = dense_gtaps + (int64_t)segment.tap * block;
            vec sum[B];
            for (int b = 0; b < B; ++b) sum[b] = load(t + b * LANES);
            for (int64_t m = 0; m < images; ++m) {
                const float *sm = source + m * in * block, *gm = gradient + m * out * block;
                for (int32_t e = segment.begin; e < segment.end; ++e) {
                    const float *a = sm + (int64_t)d.meetings[e].input * block, *b2 = gm + (int64_t)d.meetings[e].output * block;
                    for (int b = 0; b < B; ++b) sum[b] += load(a + b * LANES) * load(b2 + b * LANES);
                }
            }
            for (int b = 0; b < B; ++b) store(t + b * LANES, sum[b]);
        }
        if (!gx) continue;
        vec total[B] = {}, dot[B] = {};
        for (int64_t m = 0; m < images; ++m) {
            const T* xm = xn + m * in * d.c;
            T* gxm = gx + (n + m) * in * d.c + at;
            const float* dm = derivative + m * in * block;
            convolve<B>(gradient + m * out * block, dense_taps, d.input_start.data(), d.of_input.data(), in, [&](int64_t o, const vec* sum) {
                for (int b = 0; b < B; ++b) {
                    int left = lanes - b * LANES;
                    if (left <= 0) break;
                    vec v = sum[b];
                    if (norm.scale) {
                        v *= load(dm + o * block + b * LANES);
                        vec away = left >= LANES ? load(xm + o * d.c + b * LANES) - load(norm.mean + at + b * LANES)
                                                 : load_part(xm + o * d.c + b * LANES, left) - load_part(norm.mean + at + b * LANES, left);
                        total[b] += v;
                        dot[b] += v * away;
                    }
                    if (left >= LANES) store(gxm + o * d.c + b * LANES, v); else store_part(gxm + o * d.c + b * LANES, v, left);
                }
            });
        }
        if (norm.scale) for (int i = 0; i < lanes; ++i) {
            sums[at + i] += total[i / LANES][i % LANES];
            sums[d.c + at + i] += dot[i / LANES][i % LANES];
        }
    }
    if (gtaps) for (int64_t t = 0; t < kernel; ++t) memcpy(gtaps + t * d.c + at, dense_gtaps + t * block, lanes * sizeof(float));
}

#define OVER_BLOCKS(c, ...)                                                                                   \
    {                                                                                                          \
        int64_t at = 0;                                                                                        \
        for (; at + 4 * LANES <= (c); at += 4 * LANES) { constexpr int B = 4; const int lanes = 4 * LANES; __VA_ARGS__; } \
        for (; at + 2 * LANES <= (c); at += 2 * LANES) { constexpr int B = 2; const int lanes = 2 * LANES; __VA_ARGS__; } \
        for (; at < (c); at += LANES) { constexpr int B = 1; const int lanes = (int)std::min<int64_t>(LANES, (c) - at); __VA_ARGS__; } \
    }

// y = depthwise convolution of activate(scale * x + offset), or of x where scale is null; taps are (k*k, c).
// Unless mean is null, y's mean and variance are given too.
template <class T>
static void depthwise_forward(const T* x, const float* scale, const float* offset, int act, const float* taps, T* y,
                              float* mean, float* variance, const int64_t* shape, int threads) {
    Geometry d(shape, false);
    int64_t each = (d.n + PARTS - 1) / PARTS;
    Sums sums(mean ? d.c : 0);
    std::vector<float> shifts(mean ? PARTS * d.c : 0);
    std::vector<int64_t> counts(PARTS, 0);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t first = q * each, last = std::min(first + each, d.n);
        if (first >= last) continue;
        counts[q] = (last - first) * d.oh * d.ow;
        std::vector<float> scratch;
        float* shift = mean ? &shifts[q * d.c] : nullptr;
        double* sum = mean ? &sums.values[q * 2 * d.c] : nullptr;
        OVER_BLOCKS(d.c, (forward_block<T, B>(x, scale, offset, act, taps, y, d, first, last, at, lanes, shift, sum, scratch)))
    }
    if (mean) combine_moments(sums, shifts, counts, mean, variance);
}

// Gradients of the taps (unless null), and of x (unless null), through the batch norm with its weight and bias where
// norm.scale is not null.
template <class T>
static void depthwise_backward(const T* x, const Norm& norm, int act, const float* taps, const T* g, T* gx, float* gtaps,
                               float* gweight, float* gbias, const int64_t* shape, int threads) {
    Geometry d(shape, true);
    int64_t size = d.k * d.k * d.c, each = (d.n + PARTS - 1) / PARTS, rows = d.n * d.h * d.w;
    Sums sums(d.c);
    std::vector<float> parts(gtaps ? PARTS * size : 0, 0.f);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t first = q * each, last = std::min(first + each, d.n);
        if (first >= last) continue;
        std::vector<float> scratch;
        float* out = gtaps ? &parts[q * size] : nullptr;
        OVER_BLOCKS(d.c, (backward_block<T, B>(x, norm, act, taps, g, gx, out, d, first, last, at, lanes, &sums.values[q * 2 * d.c], scratch)))
    }
    if (gtaps) for (int64_t i = 0; i < size; ++i) {
        float s = 0;
        for (int q = 0; q < PARTS; ++q) s += parts[q * size + i];
        gtaps[i] = s;
    }
    if (!norm.scale || !gx) return;
    std::vector<float> slope, constant;
    finish_sums(sums, norm, rows, gweight, gbias, slope, constant);
    finish_input<T>(x, gx, gx, rows, d.c, norm.scale, slope.data(), constant.data(), threads);
}

// ---- batch norm, skip, activation, gate -----------------------------------------------------------------------

// Strips of rows, each inside one image: strip k is rows first .. first + count of the whole.
struct Strips {
    int64_t images, rows, each, total;
    Strips(int64_t n, int64_t r) : images(n), rows(r), each((r + STRIP - 1) / STRIP), total(n * each) {}
    int64_t image(int64_t k) const { return k / each; }
    int64_t first(int64_t k) const { return k / each * rows + k % each * STRIP; }
    int64_t count(int64_t k) const { return std::min(STRIP, rows - k % each * STRIP); }
};

template <class T>
static void moments(const T* x, int64_t rows, int64_t c, float* mean, float* variance, int threads) {
    Strips strips(1, rows);
    int64_t each = (strips.total + PARTS - 1) / PARTS;
    Sums sums(c);
    std::vector<float> shifts(PARTS * c);
    std::vector<int64_t> counts(PARTS, 0);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t begin = q * each, end = std::min(begin + each, strips.total), pending = 0;
        if (begin >= end) continue;
        float* shift = &shifts[q * c];
        OVER_VECTORS(c, (put<WHOLE>(shift + i, get<WHOLE>(x + strips.first(begin) * c + i, part), part)))
        std::vector<float> local(2 * c);
        for (int64_t k = begin; k < end; ++k) {
            int64_t count = strips.count(k);
            OVER_VECTORS(c, {
                vec base = get<WHOLE>(shift + i, part), s = {}, t = {};
                const T* p = x + strips.first(k) * c + i;
                for (int64_t r = 0; r < count; ++r, p += c) { vec v = get<WHOLE>(p, part) - base; s += v; t += v * v; }
                put<WHOLE>(&local[i], get<WHOLE>(&local[i], part) + s, part);
                put<WHOLE>(&local[c + i], get<WHOLE>(&local[c + i], part) + t, part);
            })
            counts[q] += count;
            if ((pending += count) >= 8 * STRIP || k + 1 == end) {
                sums.add(q, &local[0], &local[c]);
                std::fill(local.begin(), local.end(), 0.f);
                pending = 0;
            }
        }
    }
    combine_moments(sums, shifts, counts, mean, variance);
}

// y = activate(scale * x + offset + skip) * gate; skip (like x) and gate (images, c) may be null.
template <class T, int A>
static void apply(const T* x, const T* skip, const float* gate, T* y, const Strips& strips, int64_t c, const float* scale,
                  const float* offset, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 8)
    for (int64_t k = 0; k < strips.total; ++k) {
        int64_t first = strips.first(k), count = strips.count(k);
        const float* gates = gate ? gate + strips.image(k) * c : nullptr;
        OVER_VECTORS(c, {
            vec a = get<WHOLE>(scale + i, part), b = get<WHOLE>(offset + i, part), m = {};
            if (gates) m = get<WHOLE>(gates + i, part);
            int64_t at = first * c + i;
            for (int64_t r = 0; r < count; ++r, at += c) {
                vec z = get<WHOLE>(x + at, part) * a + b;
                if (skip) z += get<WHOLE>(skip + at, part);
                z = activate<A>(z);
                if (gates) z *= m;
                put<WHOLE>(y + at, z, part);
            }
        })
    }
}

// Per image and channel: the mean of activate(scale * x + offset), or with g the sum of g * that.
template <class T, int A>
static void pool(const T* x, const T* g, float* pooled, int64_t images, int64_t rows, int64_t c, const float* scale,
                 const float* offset, int threads) {
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t n = 0; n < images; ++n) OVER_VECTORS(c, {
        vec a = get<WHOLE>(scale + i, part), b = get<WHOLE>(offset + i, part), s = {};
        int64_t at = n * rows * c + i;
        for (int64_t r = 0; r < rows; ++r, at += c) {
            vec z = activate<A>(get<WHOLE>(x + at, part) * a + b);
            s += g ? z * get<WHOLE>(g + at, part) : z;
        }
        put<WHOLE>(pooled + n * c + i, g ? s : s * (1.f / rows), part);
    })
}

// The way back of `apply`: with d = (g * gate + more) * activate'(scale * x + offset + skip), gx is d taken through
// the batch norm, and gskip (null without skip) is d. gate and more are (images, c) or null.
template <class T, int A>
static void normalise_backward(const T* x, const T* skip, const T* g, const float* gate, const float* more, T* gx, T* gskip,
                               const Strips& strips, int64_t c, const Norm& norm, float* gweight, float* gbias, int threads) {
    bool same = A == IDENTITY && !gate;  // d is g
    T* d_out = same ? nullptr : gskip ? gskip : gx;
    int64_t each = (strips.total + PARTS - 1) / PARTS;
    Sums sums(c);
    #pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t q = 0; q < PARTS; ++q) {
        int64_t begin = q * each, end = std::min(begin + each, strips.total), pending = 0;
        std::vector<float> local(2 * c);
        for (int64_t k = begin; k < end; ++k) {
            int64_t first = strips.first(k), count = strips.count(k), image = strips.image(k) * c;
            OVER_VECTORS(c, {
                vec a = get<WHOLE>(norm.scale + i, part), b = get<WHOLE>(norm.offset + i, part), mean = get<WHOLE>(norm.mean + i, part);
                vec s = {}, t = {}, gates = {}, extra = {};
                if (gate) { gates = get<WHOLE>(gate + image + i, part); extra = get<WHOLE>(more + image + i, part); }
                int64_t at = first * c + i;
                for (int64_t r = 0; r < count; ++r, at += c) {
                    vec v = get<WHOLE>(x + at, part), d = get<WHOLE>(g + at, part);
                    if (gate) d = d * gates + extra;
                    if (A != IDENTITY) {
                        vec z = v * a + b;
                        if (skip) z += get<WHOLE>(skip + at, part);
                        d = activate_backward<A>(z, d);
                    }
                    if (d_out) put<WHOLE>(d_out + at, d, part);
                    s += d;
                    t += d * (v - mean);
                }
                put<WHOLE>(&local[i], get<WHOLE>(&local[i], part) + s, part);
                put<WHOLE>(&local[c + i], get<WHOLE>(&local[c + i], part) + t, part);
            })
            if ((pending += count) >= 8 * STRIP || k + 1 == end) {
                sums.add(q, &local[0], &local[c]);
                std::fill(local.begin(), local.end(), 0.f);
                pending = 0;
            }
        }
    }
    std::vector<float> slope, constant;
    int64_t rows = strips.images * strips.rows;
    finish_sums(sums, norm, rows, gweight, gbias, slope, constant);
    if (gx) finish_input<T>(x, same ? g : d_out, gx, rows, c, norm.scale, slope.data(), constant.data(), threads);
}

// ---- the interface: each function for float32 and for bfloat16 maps ------------------------------------------

#define INTERFACE(TYPE, T)                                                                                             \
    extern "C" void depthwise_forward_##TYPE(const T* x, const float* scale, const float* offset, int act,             \
                                             const float* taps, T* y, float* mean, float* variance,                    \
                                             const int64_t* shape, int threads) {                                      \
        depthwise_forward<T>(x, scale, offset, act, taps, y, mean, variance, shape, threads);                          \
    }                                                                                                                  \
    extern "C" void depthwise_backward_##TYPE(const T* x, const float* scale, const float* offset, const float* mean,  \
                                              const float* inverse, const float* weight, int act, const float* taps,   \
                                              const T* g, T* gx, float* gtaps, float* gweight, float* gbias,           \
                                              const int64_t* shape, int threads) {                                     \
        depthwise_backward<T>(x, Norm{scale, offset, mean, inverse, weight}, act, taps, g, gx, gtaps, gweight, gbias,  \
                              shape, threads);                                                                         \
    }                                                                                                                  \
    extern "C" void moments_##TYPE(const T* x, int64_t rows, int64_t c, float* mean, float* variance, int threads) {   \
        moments<T>(x, rows, c, mean, variance, threads);                                                               \
    }                                                                                                                  \
    extern "C" void apply_##TYPE(const T* x, const T* skip, const float* gate, T* y, int64_t images, int64_t rows,     \
                                 int64_t c, const float* scale, const float* offset, int act, int threads) {           \
        BY_ACTIVATION(act, (apply<T, ACT>(x, skip, gate, y, Strips(images, rows), c, scale, offset, threads)))         \
    }                                                                                                                  \
    extern "C" void pool_##TYPE(const T* x, const T* g, float* pooled, int64_t images, int64_t rows, int64_t c,        \
                                const float* scale, const float* offset, int act, int threads) {                       \
        BY_ACTIVATION(act, (pool<T, ACT>(x, g, pooled, images, rows, c, scale, offset, threads)))                      \
    }                                                                                                                  \
    extern "C" void normalise_backward_##TYPE(const T* x, const T* skip, const T* g, const float* gate,                \
                                              const float* more, T* gx, T* gskip, int64_t images, int64_t rows,        \
                                              int64_t c, const float* mean, const float* inverse, const float* weight, \
                                              const float* scale, const float* offset, float* gweight, float* gbias,   \
                                              int act, int threads) {                                                  \
        BY_ACTIVATION(act, (normalise_backward<T, ACT>(x, skip, g, gate, more, gx, gskip, Strips(images, rows), c,     \
                                                       Norm{scale, offset, mean, inverse, weight}, gweight, gbias,     \
                                                       threads)))                                                      \
    }

INTERFACE(float32, float)
INTERFACE(bfloat16, bf16)
