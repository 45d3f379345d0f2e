// Direct convolutions with few channels, dilated in time and vectorised over time.
//
// Rows are the frequency (or key) axis. Kernels have one row or three; with three, four rows of output are computed
// at once from six "points", linear combinations of six rows of input (Winograd's F(4, 3), arXiv 1509.09308).
//
// A *term* is one product of such a convolution: an input channel, a point, a shift in time, and one weight for each
// of the O channels of its *block*. A block has one sum of terms per point; `begins` holds their starts. The forward
// pass and the gradient of the input are the same sums with different tables of terms.
//
// Sums over several tiles are stored per tile and added in order, so results do not depend on the number of threads.
#include "winograd.h"

#include <algorithm>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
constexpr int LANES = 16, VECTORS = 4;  // floats of a vector; vectors of each output channel held in registers
#else
constexpr int LANES = 8, VECTORS = 2;
#endif
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));

static inline Vec load(const float* x) {
    Vec vec = *(const Vec*)x;
#ifdef __AVX512F__
    asm("" : "+v"(vec));  // keep it in a register: otherwise the compiler reloads it for each use
#endif
    return vec;
}

constexpr int whole_vectors(int frames) { return (frames + LANES - 1) / LANES * LANES; }
constexpr int FRAMES = 208, WIDTH = whole_vectors(FRAMES);  // frames that are computed at once
constexpr int MAX_HALO = 32;

template <bool WINOGRAD> struct Rows;  // rows of output and input, and points, in a group
template <> struct Rows<false> {
    static constexpr int OUT = 1, POINTS = 1, IN = 1, HALO = 0, GROUPS = 6;
    static constexpr float from_in(int, int) { return 1; }
    static constexpr float to_out(int, int) { return 1; }
};
template <> struct Rows<true> {
    static constexpr int OUT = 4, POINTS = 6, IN = 6, HALO = 1, GROUPS = 4;
    static constexpr float from_in(int p, int n) { return FROM_IN[p][n]; }
    static constexpr float to_out(int n, int p) { return TO_OUT[n][p]; }
};

struct Tensor {  // (b, channels, f, t)
    float* data;
    int b, channels, f, t;
    int halo;  // frames to read around a tile
    int lead;  // frames at the start that are only read, as context of the others
    int frames() const { return t - lead; }
    int width() const { return whole_vectors(std::min(FRAMES, frames()) + 2 * halo); }
    float* row(int b, int channel, int f) const { return data + ((size_t(b) * channels + channel) * this->f + f) * t; }
};

struct Plan {
    const int* terms;   // (n, 3): channel, point, shift in frames
    const int* begins;  // (blocks * points + 1)
    int blocks;
};

struct Epilogue {  // gates, norm and leaky ReLU after the convolution; out then has c channels
    const float* shifts;  // (blocks * O)
    const float* gates;   // (b, c): z = relu(skip) + gate * relu(context), the outputs being context and skip; or null
    const float* scales;  // (c, f, 2): out = leaky_relu(scale * z + shift)
    float slope;
    float* sums;  // (b, c, f): sums of out over time are added to it
};

struct Tile {  // GROUPS groups of OUT rows from f, `frames` frames from t, counted after the lead
    int b, f, t, frames;
};

template <bool W> static std::vector<Tile> tiles_of(const Tensor& x) {
    std::vector<Tile> tiles;
    for (int b = 0; b < x.b; b++)
        for (int f = 0; f < x.f; f += Rows<W>::OUT * Rows<W>::GROUPS)
            for (int t = 0; t < x.frames(); t += FRAMES) tiles.push_back({b, f, t, std::min(FRAMES, x.frames() - t)});
    return tiles;
}

// Copy a row of x into `to` (x.width()), zero outside of x.
static void load_row(const Tensor& x, int channel, int f, const Tile& tile, float* to) {
    const int first = x.lead + tile.t - x.halo, before = std::max(0, -first);  // frames before x begins
    const int begin = first + before, end = std::min(x.t, first + tile.frames + 2 * x.halo);
    const int frames = f >= 0 && f < x.f ? end - begin : 0;
    std::fill(to, to + before, 0.f);
    if (frames) std::memcpy(to + before, x.row(tile.b, channel, f) + begin, frames * sizeof(float));
    std::fill(to + before + frames, to + x.width(), 0.f);
}

// Combine N rows from row f of one channel into points: `to` (POINTS, x.width()), `step` from one point to the next.
template <int N, int POINTS, typename Matrix>
static void load_points(const Tensor& x, int channel, int f, const Tile& tile, Matrix at, float* to, int step) {
    if (N == 1) return load_row(x, channel, f, tile, to);
    alignas(64) float rows[N][whole_vectors(WIDTH + 2 * MAX_HALO)];
    for (int n = 0; n < N; n++) load_row(x, channel, f + n, tile, rows[n]);
    for (int t = 0; t < x.width(); t += LANES)
#pragma GCC unroll 6
        for (int p = 0; p < POINTS; p++) {
            Vec sum = {};
#pragma GCC unroll 6
            for (int n = 0; n < N; n++)
                if (at(p, n) != 0) sum += at(p, n) * *(const Vec*)(rows[n] + t);
            *(Vec*)(to + p * step + t) = sum;
        }
}

// scratch: (GROUPS, POINTS, channels, x.width())
template <bool W> static void load_tile(const Tensor& x, const Tile& tile, float* scratch) {
    using R = Rows<W>;
    const auto matrix = [](int p, int n) { return R::from_in(p, n); };
    const int step = x.channels * x.width();
    for (int g = 0; g < R::GROUPS; g++)
        for (int c = 0; c < x.channels; c++)
            load_points<R::IN, R::POINTS>(x, c, tile.f + g * R::OUT - R::HALO, tile, matrix,
                                          scratch + g * R::POINTS * step + c * x.width(), step);
}

template <bool W> static size_t scratch_size(const Tensor& x) {
    return size_t(x.channels) * Rows<W>::GROUPS * Rows<W>::POINTS * x.width() + LANES;
}

// Where the terms of a tile's first group start in its scratch.
template <bool W> static std::vector<int> term_offsets(const Plan& plan, const Tensor& x) {
    std::vector<int> offsets(plan.begins[plan.blocks * Rows<W>::POINTS]);
    const int* term = plan.terms;
    for (int& offset : offsets) {
        offset = (term[1] * x.channels + term[0]) * x.width() + term[2] + x.halo;
        term += 3;
    }
    return offsets;
}

// out (O, V vectors): the sum over n terms
template <int O, int V>
static void add_terms(const float* x, const int* offsets, const float* weights, int n, float* out) {
    Vec sum[O][V] = {};
    for (int i = 0; i < n; i++, weights += O)
        for (int v = 0; v < V; v++) {
            const Vec in = load(x + offsets[i] + v * LANES);
            for (int o = 0; o < O; o++) sum[o][v] += weights[o] * in;
        }
    for (int o = 0; o < O; o++)
        for (int v = 0; v < V; v++) *(Vec*)(out + o * WIDTH + v * LANES) = sum[o][v];
}

// add_terms of min(vectors, V) vectors: those of a rest at once too, since a single one waits for its own sums
template <int O, int V>
static void add_terms_up_to(int vectors, const float* x, const int* offsets, const float* weights, int n, float* out) {
    if constexpr (V > 1)
        if (vectors < V) return add_terms_up_to<O, V - 1>(vectors, x, offsets, weights, n, out);
    add_terms<O, V>(x, offsets, weights, n, out);
}

// Apply the epilogue to one row of context and skip, write it to out and return its sum.
template <bool GATED>
static float finish(const Epilogue& e, int b, int c, int channels, int f, int rows, int frames, float* context,
                    const float* skip) {
    const float shift = e.shifts[c], skip_shift = GATED ? e.shifts[c + channels] : 0, slope = e.slope;
    const float gate = GATED ? e.gates[b * channels + c] : 0;
    const float scale = e.scales[(c * rows + f) * 2], norm_shift = e.scales[(c * rows + f) * 2 + 1];
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int t = 0; t < frames; t++) {
        const float h = context[t] + shift, s = GATED ? skip[t] + skip_shift : 0;
        const float u = scale * (GATED ? std::max(s, 0.f) + gate * std::max(h, 0.f) : h) + norm_shift;
        const float out = std::max(u, 0.f) + slope * std::min(u, 0.f);
        context[t] = out;
        sum += out;
    }
    return sum;
}

template <int O, bool W>
static void convolve(const Tensor& x, const Tensor& out, const float* weights, const Plan& plan, const Epilogue* e) {
    using R = Rows<W>;
    const auto offsets = term_offsets<W>(plan, x);
    const auto tiles = tiles_of<W>(x);
    constexpr int ROWS = R::OUT * R::GROUPS;  // of a tile
    std::vector<float> sums(e ? tiles.size() * out.channels * ROWS : 0);
#pragma omp parallel
    {
        std::vector<float> scratch(scratch_size<W>(x)), lines(plan.blocks * O * R::OUT * WIDTH);
        alignas(64) float points[R::POINTS][O][WIDTH];
        const auto line = [&](int c, int r) { return &lines[(c * R::OUT + r) * WIDTH]; };
#pragma omp for schedule(dynamic)
        for (size_t i = 0; i < tiles.size(); i++) {
            const Tile tile = tiles[i];
            load_tile<W>(x, tile, scratch.data());
            for (int g = 0, f = tile.f; g < R::GROUPS && f < x.f; g++, f += R::OUT) {
                const float* from = scratch.data() + g * R::POINTS * x.channels * x.width();
                for (int j = 0; j < plan.blocks; j++) {
                    for (int p = 0; p < R::POINTS; p++) {
                        const int begin = plan.begins[j * R::POINTS + p];
                        const int n = plan.begins[j * R::POINTS + p + 1] - begin;
                        const float* w = weights + begin * O;
                        for (int t = 0; t < tile.frames; t += VECTORS * LANES)
                            add_terms_up_to<O, VECTORS>((tile.frames - t + LANES - 1) / LANES, from + t,
                                                        &offsets[begin], w, n, &points[p][0][t]);
                    }
                    for (int o = 0; o < O; o++)
#pragma GCC unroll 4
                        for (int r = 0; r < R::OUT; r++)
                            for (int t = 0; t < tile.frames; t += LANES) {
                                Vec sum = {};
#pragma GCC unroll 6
                                for (int p = 0; p < R::POINTS; p++)
                                    if (R::to_out(r, p) != 0) sum += R::to_out(r, p) * *(const Vec*)&points[p][o][t];
                                *(Vec*)(line(j * O + o, r) + t) = sum;
                            }
                }
                for (int c = 0; c < out.channels; c++)
                    for (int r = 0; r < R::OUT && f + r < x.f; r++) {
                        if (e) {
                            const auto row = e->gates ? finish<true> : finish<false>;
                            sums[(i * out.channels + c) * ROWS + f - tile.f + r] =
                                row(*e, tile.b, c, out.channels, f + r, x.f, tile.frames, line(c, r),
                                    line(e->gates ? c + out.channels : c, r));
                        }
                        std::memcpy(out.row(tile.b, c, f + r) + tile.t, line(c, r), tile.frames * 4);
                    }
            }
        }
    }
    for (size_t i = 0; e && i < tiles.size(); i++)
        for (int c = 0; c < out.channels; c++)
            for (int r = 0; r < ROWS && tiles[i].f + r < x.f; r++)
                e->sums[(size_t(tiles[i].b) * out.channels + c) * x.f + tiles[i].f + r] +=
                    sums[(i * out.channels + c) * ROWS + r];
}

// Add the products of N terms with O gradients over a tile to sums (N, O); *_step is the step between groups of rows.
template <int O, int N>
static void correlate(const float* x, const int* offsets, int x_step, const float* gradient, int gradient_step,
                      int groups, int frames, float* sums) {
    Vec sum[N][O] = {};
    for (int g = 0; g < groups; g++, x += x_step, gradient += gradient_step)
        for (int t = 0; t < frames; t += LANES) {
            Vec factors[O];
            for (int o = 0; o < O; o++) factors[o] = load(gradient + o * groups * gradient_step + t);
            for (int n = 0; n < N; n++) {
                const Vec in = load(x + offsets[n] + t);
                for (int o = 0; o < O; o++) sum[n][o] += factors[o] * in;
            }
        }
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++)
            for (int lane = 0; lane < LANES; lane++) sums[n * O + o] += sum[n][o][lane];
}

template <int O, bool W>
static void weight_gradient(const Tensor& x, const Tensor& gradient, float* out, const Plan& plan) {
    using R = Rows<W>;
    const auto offsets = term_offsets<W>(plan, x);
    const auto tiles = tiles_of<W>(x);
    const auto matrix = [](int p, int n) { return R::to_out(n, p); };
    constexpr int STEP = R::POINTS * WIDTH, SHARES = 16;
    const size_t size = offsets.size() * O;
    std::vector<float> shares(SHARES * size);
#pragma omp parallel
    {
        std::vector<float> scratch(scratch_size<W>(x)), factors(O * R::GROUPS * STEP);
#pragma omp for schedule(dynamic)
        for (int share = 0; share < SHARES; share++) {
            float* sums = &shares[share * size];
            const size_t begin = tiles.size() * share / SHARES, end = tiles.size() * (share + 1) / SHARES;
            for (size_t i = begin; i < end; i++) {
                const Tile tile = tiles[i];
                load_tile<W>(x, tile, scratch.data());
                for (int j = 0; j < plan.blocks; j++) {
                    for (int k = 0; k < O * R::GROUPS; k++)
                        load_points<R::OUT, R::POINTS>(gradient, j * O + k / R::GROUPS, tile.f + k % R::GROUPS * R::OUT, tile,
                                                       matrix, &factors[k * STEP], WIDTH);
                    for (int p = 0; p < R::POINTS; p++) {
                        const auto add = [&](auto kernel, int k) {
                            kernel(scratch.data(), &offsets[k], R::POINTS * x.channels * x.width(), &factors[p * WIDTH],
                                   STEP, R::GROUPS, tile.frames, &sums[k * O]);
                        };
                        int k = plan.begins[j * R::POINTS + p];
                        const int last = plan.begins[j * R::POINTS + p + 1];
                        for (; k + 5 <= last; k += 5) add(correlate<O, 5>, k);
                        for (; k < last; k++) add(correlate<O, 1>, k);
                    }
                }
            }
        }
    }
    for (int share = 0; share < SHARES; share++)
        for (size_t i = 0; i < size; i++) out[i] += shares[share * size + i];
}

// Return 1, without computing anything, if there is no such kernel.
#define DISPATCH(function, ...)                                         \
    if (x->halo > MAX_HALO) return 1;                                   \
    switch (outputs + (winograd ? 100 : 0)) {                           \
        case 104: function<4, true>(__VA_ARGS__); return 0;             \
        case 102: function<2, true>(__VA_ARGS__); return 0;             \
        case 4: function<4, false>(__VA_ARGS__); return 0;              \
        case 3: function<3, false>(__VA_ARGS__); return 0;              \
        case 2: function<2, false>(__VA_ARGS__); return 0;              \
        case 1: function<1, false>(__VA_ARGS__); return 0;              \
        default: return 1;                                              \
    }

extern "C" {
int sparse_conv(const Tensor* x, const Tensor* out, const float* weights, const Plan* plan, int outputs, int winograd,
                const Epilogue* epilogue) {
    DISPATCH(convolve, *x, *out, weights, *plan, epilogue)
}
int sparse_conv_weight_gradient(const Tensor* x, const Tensor* gradient, float* out, const Plan* plan, int outputs,
                                int winograd) {
    DISPATCH(weight_gradient, *x, *gradient, out, *plan)
}
}
