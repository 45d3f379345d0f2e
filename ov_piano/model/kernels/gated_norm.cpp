// Fused elementwise parts of a context-aware module and the norm and leaky ReLU after it: each pass reads the maps
// once and recomputes what is cheaper to compute than to read. Passes differ in their output.
//
//   z = relu(skip_scale * skip + skip_shift) + gate * relu(scale * context + shift)     (or z = the map, without gates)
//   u = norm_scale * z + norm_shift
//   out = u > 0 ? u : slope * u
#include <cstddef>

struct Channel {  // one for each (b, c)
    float scale, shift, skip_scale, skip_shift, gate;
    float mean_gradient;                                    // gradient of the mean of `out`, per frame and bin
    float p, q, r;                                          // gradient of context = p * mask * dz + q * context + r
    float skip_p, skip_q, skip_r;                           // gradient of skip, likewise
};
struct Bin {  // one for each (c, f)
    float scale, shift;  // norm_scale, norm_shift
    float p, q, r;       // dz = p * du + q * z + r
};

enum Pass { SUMS_OF_Z, OUT, SUMS_OF_DU, SUMS_OF_DZ, GRADIENT };

struct Maps {
    const float *maps;      // (b, 2 c, f, t): context and skip; or (b, c, f, t) without gates
    const float *gradient;  // gradient of out, (b, c, f, t)
    const Channel* channels;
    const Bin* bins;
    float *out;   // (b, c, f, t), or the gradient of maps
    float *sums;  // (b, c, f, 4), over time
    int b, c, f, t;
    float slope;
};

template <Pass PASS, bool GATED> static void run(const Maps& m) {
    const size_t plane = size_t(m.c) * m.f * m.t;  // from context to skip
#pragma omp parallel for schedule(static)
    for (int row = 0; row < m.b * m.c * m.f; row++) {
        const int bc = row / m.f, b = bc / m.c;
        const Channel ch = m.channels[bc];
        const Bin bin = m.bins[(bc % m.c) * m.f + row % m.f];
        const size_t at = size_t(row) * m.t, map_at = at + (GATED ? b * plane : 0);
        const float *context = m.maps + map_at, *skip = context + (GATED ? plane : 0), *gradient = m.gradient + at;
        float *out = m.out + (PASS == OUT ? at : map_at), *skip_out = out + plane;
        const float slope = m.slope;
        const int frames = m.t;
        float sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
#pragma omp simd reduction(+ : sum0, sum1, sum2, sum3)
        for (int t = 0; t < frames; t++) {
            const float h = ch.scale * context[t] + ch.shift, s = ch.skip_scale * skip[t] + ch.skip_shift;
            const float z = GATED ? (s > 0 ? s : 0) + ch.gate * (h > 0 ? h : 0) : context[t];
            const float u = bin.scale * z + bin.shift;
            if (PASS == SUMS_OF_Z) {
                sum0 += z;
                sum1 += z * z;
            } else if (PASS == OUT) {
                out[t] = u > 0 ? u : slope * u;
                sum0 += u > 0 ? u : slope * u;
            } else {
                const float du = (gradient[t] + ch.mean_gradient) * (u > 0 ? 1 : slope);
                const float dz = bin.p * du + bin.q * z + bin.r;
                if (PASS == SUMS_OF_DU) {
                    sum0 += du;
                    sum1 += du * z;
                } else if (PASS == SUMS_OF_DZ) {
                    const float dh = dz * (h > 0 ? 1 : 0), ds = dz * (s > 0 ? 1 : 0);
                    sum0 += dh;
                    sum1 += dh * context[t];
                    sum2 += ds;
                    sum3 += ds * skip[t];
                } else if (GATED) {
                    out[t] = ch.p * dz * (h > 0 ? 1 : 0) + ch.q * context[t] + ch.r;
                    skip_out[t] = ch.skip_p * dz * (s > 0 ? 1 : 0) + ch.skip_q * skip[t] + ch.skip_r;
                } else {
                    out[t] = dz;
                }
            }
        }
        if (PASS != GRADIENT) {
            float* sums = m.sums + size_t(row) * 4;
            sums[0] = sum0, sums[1] = sum1, sums[2] = sum2, sums[3] = sum3;
        }
    }
}

template <bool GATED> static void run(const Maps& m, int pass) {
    if (pass == SUMS_OF_Z) run<SUMS_OF_Z, GATED>(m);
    if (pass == OUT) run<OUT, GATED>(m);
    if (pass == SUMS_OF_DU) run<SUMS_OF_DU, GATED>(m);
    if (pass == SUMS_OF_DZ) run<SUMS_OF_DZ, GATED>(m);
    if (pass == GRADIENT) run<GRADIENT, GATED>(m);
}

extern "C" int gated_norm(const Maps* maps, int pass, int gated) {  // returns 1 for an unknown pass
    if (pass < SUMS_OF_Z || pass > GRADIENT) return 1;
    gated ? run<true>(*maps, pass) : run<false>(*maps, pass);
    return 0;
}
