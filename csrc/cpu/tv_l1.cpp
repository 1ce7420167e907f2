#include "d2kernels/tv_l1.h"

#include <algorithm>
#include <new>
#include <vector>

#include "parallel.h"
#include "patience.h"
#include "vectorize.h"

namespace d2k::cpu {
namespace {

constexpr int kLine = 16;    // floats of a cache line
constexpr int kLanes = 8;    // medians at once
constexpr int kAround = 4;   // zeros around the next frame, as many as a cubic reaches
constexpr double kSteps = 1.0;  // nanoseconds a pixel and iteration

#if defined(__GNUC__)
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float)), aligned(4), may_alias));
typedef float Four __attribute__((vector_size(4 * sizeof(float)), aligned(4), may_alias));
D2K_INLINE Four scaled(const Four& x, float by) { return x * by; }
#else
struct Four {
    float v[4];
    float operator[](int i) const { return v[i]; }
    Four& operator+=(const Four& other) {
        for (int i = 0; i < 4; ++i) v[i] += other.v[i];
        return *this;
    }
};
inline Four scaled(Four x, float by) {
    for (float& value : x.v) value *= by;
    return x;
}
#endif

// A plane of floats with room before and after each row: p is 0 at x = -1, u at x = width is as at width - 1.
struct Plane {
    float* first;
    int64_t stride;

    D2K_INLINE float* row(int y) const { return first + y * stride; }
};

struct Planes {
    Plane u[3], px[3], py[3];     // flow and its dual variables by channel
    Plane x, y, inverse, rest;    // TvL1Pixel
    float* error;                 // (width) squared change of the last iteration, summed over rows
    const float* zeros;           // (width)
};

// u of a row, from its dual variables and those of the row above.
template <int channels>
D2K_INLINE void primal(const Planes& a, int y, int width, const TvL1Rules& rules) {
    const float most = rules.threshold(), theta = rules.theta, gamma = rules.gamma;
    const float *ix = a.x.row(y), *iy = a.y.row(y), *inverse = a.inverse.row(y), *rest = a.rest.row(y);
    const auto above = [&](int c) { return y ? a.py[c].row(y - 1) : a.zeros; };
    float *u = a.u[0].row(y), *v = a.u[1].row(y), *w = a.u[2].row(y), *error = a.error;
    const float *ux = a.px[0].row(y), *uy = a.py[0].row(y), *u_above = above(0);
    const float *vx = a.px[1].row(y), *vy = a.py[1].row(y), *v_above = above(1);
    const float *wx = a.px[2].row(y), *wy = a.py[2].row(y), *w_above = above(2);
    D2K_LANES
    for (int i = 0; i < width; ++i) {
        float residual = rest[i] + (ix[i] * u[i] + iy[i] * v[i]);
        if constexpr (channels == 3) residual += gamma * w[i];
        const float step = TvL1Pixel::step(residual, inverse[i], most);
        const float new_u = u[i] + step * ix[i] + theta * ((ux[i] - ux[i - 1]) + (uy[i] - u_above[i]));
        const float new_v = v[i] + step * iy[i] + theta * ((vx[i] - vx[i - 1]) + (vy[i] - v_above[i]));
        const float du = new_u - u[i], dv = new_v - v[i];
        float squared = du * du + dv * dv;
        u[i] = new_u;
        v[i] = new_v;
        if constexpr (channels == 3) {
            const float new_w = w[i] + step * gamma + theta * ((wx[i] - wx[i - 1]) + (wy[i] - w_above[i]));
            squared += (new_w - w[i]) * (new_w - w[i]);
            w[i] = new_w;
        }
        error[i] += squared;
    }
    for (int c = 0; c < channels; ++c) a.u[c].row(y)[width] = a.u[c].row(y)[width - 1];
}

// The dual variables of a row, from u of it and of the next one.
D2K_INLINE void dual(const Planes& a, int c, int y, int next, int width, float step) {
    const float *u = a.u[c].row(y), *below = a.u[c].row(next);
    float *px = a.px[c].row(y), *py = a.py[c].row(y);
    D2K_LANES
    for (int i = 0; i < width; ++i) {
        const float dx = u[i + 1] - u[i], dy = below[i] - u[i];
        const float shrink = 1 / (1 + step * std::sqrt(dx * dx + dy * dy));
        px[i] = (px[i] + step * dx) * shrink;
        py[i] = (py[i] + step * dy) * shrink;
    }
}

// One inner iteration in one pass: a row's dual variables follow once u of the next row is there.
template <int channels>
D2K_INLINE void sweep(const Planes& a, const TvL1Level& level, const TvL1Rules& rules) {
    const float step = rules.step();
    for (int y = 0; y < level.height; ++y) {
        primal<channels>(a, y, level.width, rules);
        if (y)
            for (int c = 0; c < channels; ++c) dual(a, c, y - 1, y, level.width, step);
    }
    for (int c = 0; c < channels; ++c) dual(a, c, level.height - 1, level.height - 1, level.width, step);
}

D2K_CLONES D2K_FLATTEN void iterate(const Planes& a, const TvL1Level& level, const TvL1Rules& rules) {
    if (rules.gamma != 0) sweep<3>(a, level, rules);
    else sweep<2>(a, level, rules);
}

// Median of size x size pixels; outside are the pixels of the border. `room` is for
// 5 * (width + 4 + kLanes) floats.
D2K_CLONES D2K_FLATTEN void filter(const Plane& plane, const Plane& to, const TvL1Level& level, int size, float* room) {
    const int width = level.width, reach = size / 2, wide = width + 2 * reach;
    const int64_t stride = width + 4 + kLanes;
    for (int y = 0; y < level.height; ++y) {
        for (int k = 0; k < size; ++k) {
            const float* from = plane.row(std::clamp(y + k - reach, 0, level.height - 1));
            float* row = room + k * stride;
            std::copy(from, from + width, row + reach);
            std::fill_n(row, reach, from[0]);
            std::fill_n(row + reach + width, reach + kLanes, from[width - 1]);
        }
        float* out = to.row(y);
#if defined(__GNUC__)
        const auto at = [&](int k, int x) -> Lanes& { return *reinterpret_cast<Lanes*>(room + k * stride + x); };
        if (size == 5)
            for (int x = 0; x < wide; x += kLanes) {
                Lanes a = at(0, x), b = at(1, x), c = at(2, x), d = at(3, x), e = at(4, x);
                tv_l1_sort(a, b, c, d, e);
                at(0, x) = a, at(1, x) = b, at(2, x) = c, at(3, x) = d, at(4, x) = e;
            }
        for (int x = 0; x < width; x += kLanes) {
            Lanes found;
            if (size == 5) {
                Lanes v[5][5];
                D2K_UNROLLED_EVERYWHERE
                for (int i = 0; i < 5; ++i)
                    D2K_UNROLLED_EVERYWHERE
                    for (int k = 0; k < 5; ++k) v[i][k] = at(k, x + i);
                tv_l1_median_of_25(v, found);
            } else {
                Lanes v[9];
                D2K_UNROLLED_EVERYWHERE
                for (int i = 0; i < 9; ++i) v[i] = at(i / 3, x + i % 3);
                tv_l1_median_of_9(v, found);
            }
            for (int i = 0; i < std::min(kLanes, width - x); ++i) out[x + i] = found[i];
        }
#else
        (void)wide;
        for (int x = 0; x < width; ++x) {
            if (size == 5) {
                float v[5][5];
                for (int i = 0; i < 5; ++i) {
                    for (int k = 0; k < 5; ++k) v[i][k] = room[k * stride + x + i];
                    tv_l1_sort(v[i][0], v[i][1], v[i][2], v[i][3], v[i][4]);
                }
                tv_l1_median_of_25(v, out[x]);
            } else {
                float v[9];
                for (int i = 0; i < 9; ++i) v[i] = room[i / 3 * stride + x + i % 3];
                tv_l1_median_of_9(v, out[x]);
            }
        }
#endif
    }
}

// The next frame with its derivatives at x + u, y + v, and what the data term needs. `around` is the frame with its
// derivatives, with kAround zeros on each side.
D2K_CLONES D2K_FLATTEN void warp(const Four* around, const float* previous, const Planes& a,
                                 const TvL1Level& level) {
    const int64_t stride = level.width + 2 * kAround;
    for (int y = 0; y < level.height; ++y) {
        const float *u = a.u[0].row(y), *v = a.u[1].row(y), *before = previous + static_cast<int64_t>(y) * level.width;
        float *ix = a.x.row(y), *iy = a.y.row(y), *inverse = a.inverse.row(y), *rest = a.rest.row(y);
        for (int x = 0; x < level.width; ++x) {
            const auto column = TvL1Place::of(x, u[x], level.width), line = TvL1Place::of(y, v[x], level.height);
            const Four* first = around + (line.first + kAround) * stride + column.first + kAround;
            float across[4], down[4];
            column.weights(across);
            line.weights(down);
            Four sum{};
            for (int k = 0; k < 4; ++k, first += stride) {
                Four row = scaled(first[0], across[0]);
                for (int i = 1; i < 4; ++i) row += scaled(first[i], across[i]);
                sum += scaled(row, down[k]);
            }
            const auto pixel = TvL1Pixel::of(sum[0], sum[1], sum[2], u[x], v[x], before[x]);
            ix[x] = pixel.x;
            iy[x] = pixel.y;
            inverse[x] = pixel.inverse;
            rest[x] = pixel.rest;
        }
    }
}

void scale(const float* image, const TvL1Level& from, double by_y, double by_x, float* out, int64_t stride,
           const TvL1Level& to, float factor) {
    std::vector<TvL1Between> columns(to.width);
    for (int x = 0; x < to.width; ++x) columns[x] = TvL1Between::of(x, by_x, from.width);
    for (int y = 0; y < to.height; ++y) {
        const auto line = TvL1Between::of(y, by_y, from.height);
        for (int x = 0; x < to.width; ++x)
            out[y * stride + x] = factor * tv_l1_scaled(image, from.width, line, columns[x]);
    }
}

// One thread's memory, for pairs one after the other.
class Solver {
public:
    explicit Solver(const TvL1& problem) : problem_(problem), rules_(problem.rules) {
        count_ = tv_l1_levels(problem, levels_);
        int64_t pyramid = 0;
        for (int i = 1; i < count_; ++i) pyramid += levels_[i].size();
        before_.resize(pyramid);
        after_.resize(pyramid);
        const int64_t around = (problem.width + 2 * kAround) * (problem.height + 2 * kAround);
        around_.resize(4 * around);
        stride_ = kLine + (problem.width + 1 + kLine - 1) / kLine * kLine;
        // Planes a few lines apart from the same place in a page: equal ones would share a cache's few places.
        plane_ = stride_ * problem.height + 5 * kLine;
        const int channels = rules_.channels();
        memory_.resize(plane_ * (5 + 3 * channels) + 2 * kLine);
        error_.resize(problem.width);
        zeros_.resize(problem.width);
        room_.resize(5 * (problem.width + 4 + kLanes));
        low_.resize(levels_[count_ > 1 ? 1 : 0].size());
    }

    void solve(const float* previous, const float* next, float* flow) {
        std::vector<const float*> before(count_), after(count_);
        before[0] = previous;
        after[0] = next;
        int64_t at = 0;
        for (int i = 1; i < count_; at += levels_[i++].size()) {
            const double by = 1 / rules_.scale_step;
            scale(before[i - 1], levels_[i - 1], by, by, &before_[at], levels_[i].width, levels_[i], 1);
            scale(after[i - 1], levels_[i - 1], by, by, &after_[at], levels_[i].width, levels_[i], 1);
            before[i] = &before_[at];
            after[i] = &after_[at];
        }
        std::fill(memory_.begin(), memory_.end(), 0.0f);
        lay_out();
        const int channels = rules_.channels();
        for (int i = count_ - 1; i >= 0; --i) {
            const TvL1Level& level = levels_[i];
            if (i < count_ - 1) {
                const TvL1Level& from = levels_[i + 1];
                for (int c = 0; c < channels; ++c) {
                    dense(a_.u[c], from, low_.data());
                    const float factor = c < 2 ? static_cast<float>(1 / rules_.scale_step) : 1.0f;
                    scale(low_.data(), from, static_cast<double>(from.height) / level.height,
                          static_cast<double>(from.width) / level.width, a_.u[c].row(0), stride_, level, factor);
                }
            }
            one_level(before[i], after[i], level);
        }
        for (int c = 0; c < 2; ++c) dense(a_.u[c], levels_[0], flow + c * levels_[0].size());
    }

private:
    void lay_out() {
        const auto address = reinterpret_cast<uintptr_t>(memory_.data()) / sizeof(float);
        float* next = memory_.data() + (kLine - address % kLine) % kLine + kLine;
        const auto take = [&](Plane& plane) {
            plane = {next, stride_};
            next += plane_;
        };
        for (Plane* plane : {&a_.x, &a_.y, &a_.inverse, &a_.rest, &spare_}) take(*plane);
        for (int c = 0; c < rules_.channels(); ++c)
            for (Plane* plane : {&a_.u[c], &a_.px[c], &a_.py[c]}) take(*plane);
        a_.error = error_.data();
        a_.zeros = zeros_.data();
        if (rules_.channels() == 2) a_.u[2] = a_.u[0], a_.px[2] = a_.px[0], a_.py[2] = a_.py[0];  // not used
    }

    static void dense(const Plane& plane, const TvL1Level& level, float* out) {
        for (int y = 0; y < level.height; ++y) std::copy_n(plane.row(y), level.width, out + y * static_cast<int64_t>(level.width));
    }

    // The next frame and its central differences, zeros around them.
    void differentiate(const float* image, const TvL1Level& level) {
        const int width = level.width, height = level.height;
        const int64_t stride = width + 2 * kAround;
        std::fill_n(around_.begin(), 4 * stride * (height + 2 * kAround), 0.0f);
        for (int y = 0; y < height; ++y) {
            const float* row = image + static_cast<int64_t>(y) * width;
            const float* above = y ? row - width : row;
            const float* below = y < height - 1 ? row + width : row;
            float* to = &around_[4 * ((y + kAround) * stride + kAround)];
            for (int x = 0; x < width; ++x, to += 4) {
                to[0] = row[x];
                to[1] = 0.5f * (row[std::min(x + 1, width - 1)] - row[std::max(x - 1, 0)]);
                to[2] = 0.5f * (below[x] - above[x]);
            }
        }
    }

    void one_level(const float* previous, const float* next, const TvL1Level& level) {
        const int channels = rules_.channels();
        const double pixels = static_cast<double>(level.size());
        differentiate(next, level);
        for (int c = 0; c < channels; ++c)
            for (const Plane& plane : {a_.px[c], a_.py[c]})
                for (int y = 0; y < level.height; ++y) std::fill_n(plane.row(y) - 1, level.width + 1, 0.0f);
        const float enough = tv_l1_enough(rules_, level);
        for (int warped = 0; warped < rules_.warps; ++warped) {
            warp(reinterpret_cast<const Four*>(around_.data()), previous, a_, level);
            bool on = true;
            for (int outer = 0; on && outer < rules_.outer; ++outer) {
                if (rules_.median > 1)
                    for (int c = 0; c < 2; ++c) {
                        filter(a_.u[c], spare_, level, rules_.median, room_.data());
                        std::swap(a_.u[c], spare_);
                    }
                for (int inner = 0; on && inner < rules_.inner; ++inner) {
                    std::fill_n(error_.begin(), level.width, 0.0f);
                    iterate(a_, level, rules_);
                    double error = 0;
                    for (int x = 0; x < level.width; ++x) error += error_[x];
                    on = error > enough;
                    patience_.spend(kSteps * pixels);
                }
            }
        }
    }

    const TvL1& problem_;
    const TvL1Rules& rules_;
    TvL1Level levels_[kTvL1Levels];
    int count_;
    int64_t stride_, plane_;
    std::vector<float> before_, after_, around_, memory_, error_, zeros_, room_, low_;
    Planes a_;
    Plane spare_;
    Patience patience_;
};

}  // namespace

Status tv_l1(const TvL1& problem, int threads) {
    const int64_t size = static_cast<int64_t>(problem.height) * problem.width;
    const double steps = 300 * kSteps * static_cast<double>(size) * static_cast<double>(problem.count);
    return parallel_for(problem.count, 1, steps, threads, [&](int64_t begin, int64_t end) {
        Solver solver(problem);
        for (int64_t i = begin; i < end; ++i)
            solver.solve(problem.previous + i * size, problem.next + i * size, problem.flow + 2 * i * size);
    });
}

}  // namespace d2k::cpu
