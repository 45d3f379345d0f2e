// Convolutions with few channels and sparse (dilated) taps, directly, vectorised over time.
//
// A *term* is one product of such a convolution: an input channel, a shift (df, dt) and one weight for each of
// the O outputs of a *block*. Forward pass and gradient of the input are the same sum of terms over different tables.
#include <algorithm>
#include <cstring>
#include <vector>

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif
typedef float Vec __attribute__((vector_size(LANES * 4), aligned(4)));

constexpr int ROWS = 5;        // rows of the frequency axis that are computed at once
constexpr int FRAMES = 416;    // frames that are computed at once

struct Tile {  // a piece of the output and where to find it
    int b, f, t, rows, frames;
};

struct Shape {
    int b, channels, f, t;
    int f_halo, t_halo;
    int f_tiles() const { return (f + ROWS - 1) / ROWS; }
    int t_tiles() const { return (t + FRAMES - 1) / FRAMES; }
    int tiles() const { return b * f_tiles() * t_tiles(); }
    int width() const { return (std::min(t, FRAMES) + LANES - 1) / LANES * LANES + 2 * t_halo; }
    int plane() const { return (ROWS + 2 * f_halo) * width(); }
    Tile tile(int i) const {
        Tile tile{i / (f_tiles() * t_tiles()), i / t_tiles() % f_tiles() * ROWS, i % t_tiles() * FRAMES, 0, 0};
        tile.rows = std::min(ROWS, f - tile.f);
        tile.frames = std::min(FRAMES, t - tile.t);
        return tile;
    }
};

// Copy a tile with its halo into scratch (channels, ROWS + 2 f_halo, width), zero outside of x.
static void load_tile(const float* x, const Shape& s, const Tile& tile, float* scratch) {
    const int width = s.width();
    const int begin = std::max(0, tile.t - s.t_halo), end = std::min(s.t, tile.t + tile.frames + s.t_halo);
    for (int c = 0; c < s.channels; c++)
        for (int r = 0; r < ROWS + 2 * s.f_halo; r++, scratch += width) {
            const int f = tile.f + r - s.f_halo;
            std::fill(scratch, scratch + width, 0.f);
            if (f >= 0 && f < s.f && r < tile.rows + 2 * s.f_halo)
                std::memcpy(scratch + begin - tile.t + s.t_halo, x + ((size_t(tile.b) * s.channels + c) * s.f + f) * s.t + begin,
                            (end - begin) * sizeof(float));
        }
}

// offsets of terms (channel, df, dt) within the scratch
static std::vector<int> term_offsets(const int* terms, int n, const Shape& s) {
    std::vector<int> offsets(n);
    for (int i = 0; i < n; i++, terms += 3)
        offsets[i] = terms[0] * s.plane() + (terms[1] + s.f_halo) * s.width() + terms[2] + s.t_halo;
    return offsets;
}

// V vectors of O outputs: the sum over n terms
template <int O, int V>
static void accumulate(const float* x, const int* offsets, const float* weights, int n, float* out, int stride) {
    Vec acc[O][V] = {};
    for (int i = 0; i < n; i++, weights += O)
        for (int v = 0; v < V; v++) {
            const Vec in = *(const Vec*)(x + offsets[i] + v * LANES);
            for (int o = 0; o < O; o++) acc[o][v] += weights[o] * in;
        }
    for (int o = 0; o < O; o++)
        for (int v = 0; v < V; v++) *(Vec*)(out + o * stride + v * LANES) = acc[o][v];
}

template <int O>
static void convolve(const float* x, float* out, const float* weights, const int* terms, const int* begins, int blocks, const Shape& s) {
    const auto offsets = term_offsets(terms, begins[blocks], s);
    constexpr int V = LANES == 16 ? 6 : 3;
#pragma omp parallel
    {
        std::vector<float> scratch(s.channels * s.plane() + LANES), line(O * s.width());
        const int width = s.width();
#pragma omp for schedule(dynamic)
        for (int i = 0; i < s.tiles(); i++) {
            const Tile tile = s.tile(i);
            load_tile(x, s, tile, scratch.data());
            for (int r = 0; r < tile.rows; r++)
                for (int j = 0; j < blocks; j++) {
                    const float* from = scratch.data() + r * width;
                    const int* offset = offsets.data() + begins[j];
                    const float* w = weights + size_t(begins[j]) * O;
                    const int n = begins[j + 1] - begins[j];
                    int t = 0;
                    for (; t + V * LANES <= tile.frames; t += V * LANES)
                        accumulate<O, V>(from + t, offset, w, n, line.data() + t, width);
                    for (; t < tile.frames; t += LANES)
                        accumulate<O, 1>(from + t, offset, w, n, line.data() + t, width);
                    for (int o = 0; o < O; o++)
                        std::memcpy(out + ((size_t(tile.b) * blocks * O + j * O + o) * s.f + tile.f + r) * s.t + tile.t,
                                    line.data() + o * width, tile.frames * sizeof(float));
                }
        }
    }
}

// add the products of N terms with O gradients, summed over a tile, to sums (N, O)
template <int O, int N>
static void correlate(const float* x, const int* offsets, const float* g, int rows, int frames, int width, int g_width, int g_plane, float* sums) {
    Vec acc[N][O] = {};
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < frames; t += LANES) {
            Vec grad[O];
            for (int o = 0; o < O; o++) grad[o] = *(const Vec*)(g + o * g_plane + r * g_width + t);
            for (int n = 0; n < N; n++) {
                const Vec in = *(const Vec*)(x + offsets[n] + r * width + t);
                for (int o = 0; o < O; o++) acc[n][o] += grad[o] * in;
            }
        }
    for (int n = 0; n < N; n++)
        for (int o = 0; o < O; o++)
            for (int l = 0; l < LANES; l++) sums[n * O + o] += acc[n][o][l];
}

template <int O>
static void weight_gradient(const float* x, const float* g, float* gradient, const int* terms, const int* begins, int blocks, const Shape& s) {
    const auto offsets = term_offsets(terms, begins[blocks], s);
    const Shape gs{s.b, blocks * O, s.f, s.t, 0, 0};
    const int total = begins[blocks] * O;
#pragma omp parallel
    {
        std::vector<float> scratch(s.channels * s.plane() + LANES), g_scratch(gs.channels * gs.plane()), sums(total);
#pragma omp for schedule(dynamic)
        for (int i = 0; i < s.tiles(); i++) {
            const Tile tile = s.tile(i);
            load_tile(x, s, tile, scratch.data());
            load_tile(g, gs, tile, g_scratch.data());
            for (int j = 0; j < blocks; j++) {
                const float* grad = g_scratch.data() + size_t(j) * O * gs.plane();
                int k = begins[j];
                for (; k + 5 <= begins[j + 1]; k += 5)
                    correlate<O, 5>(scratch.data(), &offsets[k], grad, tile.rows, tile.frames, s.width(), gs.width(), gs.plane(), &sums[k * O]);
                for (; k < begins[j + 1]; k++)
                    correlate<O, 1>(scratch.data(), &offsets[k], grad, tile.rows, tile.frames, s.width(), gs.width(), gs.plane(), &sums[k * O]);
            }
        }
#pragma omp critical
        for (int i = 0; i < total; i++) gradient[i] += sums[i];
    }
}

extern "C" void sparse_conv(const float* x, float* out, const float* weights, const int* terms, const int* begins, int blocks, int outputs, const Shape* s) {
    if (outputs == 4) convolve<4>(x, out, weights, terms, begins, blocks, *s);
    if (outputs == 3) convolve<3>(x, out, weights, terms, begins, blocks, *s);
}
extern "C" void sparse_conv_weight_gradient(const float* x, const float* g, float* gradient, const int* terms, const int* begins, int blocks, int outputs, const Shape* s) {
    if (outputs == 4) weight_gradient<4>(x, g, gradient, terms, begins, blocks, *s);
    if (outputs == 3) weight_gradient<3>(x, g, gradient, terms, begins, blocks, *s);
}
