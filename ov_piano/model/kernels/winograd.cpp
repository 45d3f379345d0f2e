// The transforms before and after the matrix products of winograd.py, and their transposes.
//
// Tile i of a row of t frames has outputs 4 i ... 4 i + 3 and inputs 4 i - 1 ... 4 i + 4.
#include "winograd.h"

#include <cstring>
#include <vector>

// The number of frames in a tile, their start, and the factor between frame n and point p.
struct Input {
    static constexpr int FRAMES = 6, BEFORE = 1;
    static constexpr float at(int p, int n) { return FROM_IN[p][n]; }
};
struct Output {
    static constexpr int FRAMES = 4, BEFORE = 0;
    static constexpr float at(int p, int n) { return TO_OUT[n][p]; }
};

struct Shape {
    int b, c, t;
    int tiles() const { return (t + 3) / 4; }
    size_t row(int i) const { return (size_t(i % b) * c + i / b) * t; }  // of the i-th (c, b)
};

// x (b, c, t) -> points (6, c, b, tiles)
template <typename Side> static void to_points(const float* x, float* points, const Shape& s) {
    const int tiles = s.tiles(), rows = s.b * s.c;
#pragma omp parallel
    {
        std::vector<float> row(4 * tiles + 8), phases(4 * (tiles + 1));
#pragma omp for
        for (int i = 0; i < rows; i++) {
            std::memcpy(&row[Side::BEFORE], x + s.row(i), s.t * sizeof(float));
            for (int k = 0; k < 4; k++)
                for (int j = 0; j <= tiles; j++) phases[k * (tiles + 1) + j] = row[4 * j + k];
            for (int p = 0; p < 6; p++) {
                float* to = points + (size_t(p) * rows + i) * tiles;
                const float* from = phases.data();
                float factors[Side::FRAMES];
                for (int n = 0; n < Side::FRAMES; n++) factors[n] = Side::at(p, n);
#pragma omp simd
                for (int j = 0; j < tiles; j++) {
                    float sum = 0;
                    for (int n = 0; n < Side::FRAMES; n++) sum += factors[n] * from[n % 4 * (tiles + 1) + j + n / 4];
                    to[j] = sum;
                }
            }
        }
    }
}

// points (6, c, b, tiles) -> x (b, c, t): leaky_relu(x + shift of the channel)
template <typename Side>
static void from_points(const float* points, float* x, const float* shifts, float slope, const Shape& s) {
    const int tiles = s.tiles(), rows = s.b * s.c;
#pragma omp parallel
    {
        std::vector<float> row(4 * tiles + 8), phases(4 * (tiles + 1));
#pragma omp for
        for (int i = 0; i < rows; i++) {
            std::memset(phases.data(), 0, phases.size() * sizeof(float));
            const float* from = points + size_t(i) * tiles;
            const size_t step = size_t(rows) * tiles;
            for (int n = 0; n < Side::FRAMES; n++) {
                float* to = &phases[n % 4 * (tiles + 1) + n / 4];
#pragma omp simd
                for (int j = 0; j < tiles; j++) {
                    float sum = to[j];
                    for (int p = 0; p < 6; p++) sum += Side::at(p, n) * from[p * step + j];
                    to[j] = sum;
                }
            }
            const float shift = shifts ? shifts[i / s.b] : 0;
            for (float& value : phases) value = value + shift > 0 ? value + shift : slope * (value + shift);
            for (int k = 0; k < 4; k++)
                for (int j = 0; j <= tiles; j++) row[4 * j + k] = phases[k * (tiles + 1) + j];
            std::memcpy(x + s.row(i), &row[Side::BEFORE], s.t * sizeof(float));
        }
    }
}

extern "C" {
void inputs_to_points(const float* x, float* points, const Shape* s) { to_points<Input>(x, points, *s); }
void outputs_to_points(const float* x, float* points, const Shape* s) { to_points<Output>(x, points, *s); }
void points_to_inputs(const float* points, float* x, const Shape* s) {
    from_points<Input>(points, x, nullptr, 1, *s);
}
void points_to_outputs(const float* points, float* x, const float* shifts, float slope, const Shape* s) {
    from_points<Output>(points, x, shifts, slope, *s);
}
}
