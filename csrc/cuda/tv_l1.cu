#include "d2kernels/tv_l1.h"

#include <algorithm>

#include "launch.h"

namespace d2k::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;  // pixels a side of a block's part in an inner iteration

// Where a pair stands. Launches read one copy and write the other: blocks of a launch do not wait for each other.
enum State : int { kDone = 1, kOtherU = 2, kOtherP = 4 };

// A pair's memory, one pair after the other; every plane has room for the full size.
struct Work {
    TvL1 problem;
    int64_t pyramid;  // floats of the levels but the first, of one frame
    int tiles;        // at most, of a level
    float* memory;
    int* states;      // (2, count)

    __host__ __device__ int64_t size() const { return static_cast<int64_t>(problem.height) * problem.width; }
    __host__ __device__ int64_t each() const {
        return 2 * pyramid + (6 + 6 * problem.rules.channels()) * size() + 2 * tiles;
    }
    __device__ float* of(int pair) const { return memory + pair * each(); }
    // frame 0 is the previous one, 1 the next.
    __device__ float* smaller(int pair, int frame, int64_t at) const { return of(pair) + frame * pyramid + at; }
    __device__ float* plane(int pair, int i) const { return of(pair) + 2 * pyramid + i * size(); }
    __device__ float* gradient(int pair, int axis) const { return plane(pair, axis); }
    __device__ float* data(int pair, int i) const { return plane(pair, 2 + i); }  // a field of TvL1Pixel
    __device__ float* u(int pair, bool other, int c) const {
        return plane(pair, 6 + (other ? problem.rules.channels() : 0) + c);
    }
    __device__ float* p(int pair, bool other, int c, int axis) const {
        const int channels = problem.rules.channels();
        return plane(pair, 6 + 2 * channels + (other ? 2 * channels : 0) + 2 * c + axis);
    }
    __device__ float* errors(int pair, int copy) const {
        return plane(pair, 6 + 6 * problem.rules.channels()) + copy * tiles;
    }
    __device__ int state(int pair, int copy) const { return states[copy * problem.count + pair]; }
    // By one thread of a launch.
    __device__ void set_state(int pair, int copy, int state) const { states[copy * problem.count + pair] = state; }
};

// A level, and where its frames are: at full size the problem's own.
struct Place {
    TvL1Level level;
    int64_t at;  // in the pyramid; -1 at full size

    __device__ const float* frame(const Work& work, int pair, int which) const {
        if (at >= 0) return work.smaller(pair, which, at);
        return (which ? work.problem.next : work.problem.previous) + pair * work.size();
    }
};

__device__ bool first_thread() { return blockIdx.x == 0 && threadIdx.x == 0; }

// Pixels of a level, block by block; blockIdx.y is the pair.
template <class Body>
__device__ void each_pixel(const TvL1Level& level, const Body& body) {
    const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (i < level.size()) body(static_cast<int>(i / level.width), static_cast<int>(i % level.width), i);
}

// A frame of a level out of the level before.
__global__ void __launch_bounds__(kThreads) shrink_kernel(Work work, Place from, Place to) {
    const int pair = blockIdx.y, which = blockIdx.z;
    const double scale = 1 / work.problem.rules.scale_step;
    each_pixel(to.level, [&](int y, int x, int64_t i) {
        work.smaller(pair, which, to.at)[i] =
            tv_l1_scaled(from.frame(work, pair, which), from.level.width, TvL1Between::of(y, scale, from.level.height),
                         TvL1Between::of(x, scale, from.level.width));
    });
}

// Central differences of a level's next frame.
__global__ void __launch_bounds__(kThreads) gradient_kernel(Work work, Place place) {
    const int pair = blockIdx.y;
    const float* image = place.frame(work, pair, 1);
    const int width = place.level.width, height = place.level.height;
    each_pixel(place.level, [&](int y, int x, int64_t i) {
        const int left = x > 0, right = x < width - 1;
        const int64_t above = y > 0 ? width : 0, below = y < height - 1 ? width : 0;
        work.gradient(pair, 0)[i] = 0.5f * (image[i + right] - image[i - left]);
        work.gradient(pair, 1)[i] = 0.5f * (image[i + below] - image[i - above]);
    });
}

// The flow of a level out of the coarser one's; or, where `flow` is, the result.
__global__ void __launch_bounds__(kThreads) enlarge_kernel(Work work, TvL1Level from, TvL1Level to, int copy, float* flow) {
    const int pair = blockIdx.y, c = blockIdx.z, state = work.state(pair, copy);
    const bool other = state & kOtherU;
    float* out = flow ? flow + (2 * static_cast<int64_t>(pair) + c) * work.size() : work.u(pair, !other, c);
    const float factor = flow || c == 2 ? 1.0f : static_cast<float>(1 / work.problem.rules.scale_step);
    const double by_y = static_cast<double>(from.height) / to.height, by_x = static_cast<double>(from.width) / to.width;
    each_pixel(to, [&](int y, int x, int64_t i) {
        out[i] = factor * tv_l1_scaled(work.u(pair, other, c), from.width, TvL1Between::of(y, by_y, from.height),
                                       TvL1Between::of(x, by_x, from.width));
    });
    if (!flow && c == 0 && first_thread()) work.set_state(pair, copy ^ 1, state ^ kOtherU);
}

// A pair's first warp of all finds no flow yet, a level's first no dual variables.
enum class First { kOfAll, kOfLevel, kNeither };

__global__ void __launch_bounds__(kThreads) warp_kernel(Work work, Place place, First first, int copy) {
    const int pair = blockIdx.y, width = place.level.width, height = place.level.height;
    const int channels = work.problem.rules.channels();
    const int state = first == First::kOfAll ? 0 : work.state(pair, copy) & ~kDone;
    const bool other = state & kOtherU;
    const float* images[3] = {place.frame(work, pair, 1), work.gradient(pair, 0), work.gradient(pair, 1)};
    const float* before = place.frame(work, pair, 0);
    each_pixel(place.level, [&](int y, int x, int64_t i) {
        if (first == First::kOfAll)
            for (int c = 0; c < channels; ++c) work.u(pair, other, c)[i] = 0;
        if (first != First::kNeither)
            for (int c = 0; c < channels; ++c)
                for (int axis = 0; axis < 2; ++axis) work.p(pair, state & kOtherP, c, axis)[i] = 0;
        const float u = first == First::kOfAll ? 0 : work.u(pair, other, 0)[i];
        const float v = first == First::kOfAll ? 0 : work.u(pair, other, 1)[i];
        const auto column = TvL1Place::of(x, u, width), line = TvL1Place::of(y, v, height);
        float across[4], down[4], sums[3] = {};
        column.weights(across);
        line.weights(down);
        D2K_UNROLLED
        for (int k = 0; k < 4; ++k) {
            const int row = line.first + k;
            if (row < 0 || row >= height) continue;
            for (int c = 0; c < 3; ++c) {
                const float* pixels = images[c] + static_cast<int64_t>(row) * width;
                float sum = 0;
                for (int j = 0; j < 4; ++j) {
                    const int at = column.first + j;
                    sum += at >= 0 && at < width ? pixels[at] * across[j] : 0.0f;
                }
                sums[c] += sum * down[k];
            }
        }
        const auto pixel = TvL1Pixel::of(sums[0], sums[1], sums[2], u, v, before[i]);
        work.data(pair, 0)[i] = pixel.x;
        work.data(pair, 1)[i] = pixel.y;
        work.data(pair, 2)[i] = pixel.inverse;
        work.data(pair, 3)[i] = pixel.rest;
    });
    if (first_thread()) work.set_state(pair, copy ^ 1, state);
}

// Whether a pair's iterations of this warp have ended, the same in every block; `tiles` is 0 before the first of them.
__device__ bool done(const Work& work, int pair, int state, int tiles, int copy, float enough, double* room) {
    if (state & kDone) return true;
    if (tiles == 0) return false;
    const float* errors = work.errors(pair, copy);
    double sum = 0;
    for (int i = threadIdx.x; i < tiles; i += kThreads) sum += errors[i];
    room[threadIdx.x] = sum;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
        __syncthreads();
    }
    const double error = room[0];
    __syncthreads();
    return !(error > enough);
}

__global__ void __launch_bounds__(kThreads) median_kernel(Work work, TvL1Level level, int tiles, int errors, float enough, int copy) {
    __shared__ double room[kThreads];
    const int pair = blockIdx.y, state = work.state(pair, copy);
    const bool other = state & kOtherU, ended = done(work, pair, state, tiles, errors, enough, room);
    if (blockIdx.z == 0 && first_thread()) work.set_state(pair, copy ^ 1, ended ? state | kDone : state ^ kOtherU);
    if (ended) return;
    const int c = blockIdx.z, reach = work.problem.rules.median / 2;
    const float* from = work.u(pair, other, c);
    float* to = work.u(pair, !other, c);
    each_pixel(level, [&](int y, int x, int64_t i) {
        const auto at = [&](int dy, int dx) {
            const int row = min(max(y + dy, 0), level.height - 1), column = min(max(x + dx, 0), level.width - 1);
            return from[static_cast<int64_t>(row) * level.width + column];
        };
        if (c == 2) {
            to[i] = from[i];
        } else if (reach == 2) {
            float v[5][5];
#pragma unroll
            for (int j = 0; j < 5; ++j) {
#pragma unroll
                for (int k = 0; k < 5; ++k) v[j][k] = at(k - 2, j - 2);
                tv_l1_sort(v[j][0], v[j][1], v[j][2], v[j][3], v[j][4]);
            }
            tv_l1_median_of_25(v, to[i]);
        } else {
            float v[9];
#pragma unroll
            for (int j = 0; j < 9; ++j) v[j] = at(j / 3 - 1, j % 3 - 1);
            tv_l1_median_of_9(v, to[i]);
        }
    });
}

// One inner iteration: u of a tile and of the pixels right of it and below, then the tile's dual variables.
template <int channels>
__global__ void __launch_bounds__(kThreads) iterate_kernel(Work work, TvL1Level level, int tiles, int errors, float enough, int copy) {
    constexpr int kWide = kTile + 1;
    __shared__ double room[kThreads];
    __shared__ float moved[channels][kWide * kWide];
    const int pair = blockIdx.y, state = work.state(pair, copy), width = level.width, height = level.height;
    const bool ended = done(work, pair, state, tiles, errors, enough, room);
    if (first_thread()) work.set_state(pair, copy ^ 1, ended ? state | kDone : state ^ (kOtherU | kOtherP));
    if (ended) return;
    const TvL1Rules& rules = work.problem.rules;
    const bool other_u = state & kOtherU, other_p = state & kOtherP;
    const int across = (width + kTile - 1) / kTile;
    const int left = blockIdx.x % across * kTile, top = blockIdx.x / across * kTile;
    const float theta = rules.theta, gamma = rules.gamma, most = rules.threshold();
    double error = 0;
    for (int k = threadIdx.x; k < kWide * kWide; k += kThreads) {
        const int dx = k % kWide, dy = k / kWide, x = left + dx, y = top + dy;
        if (x >= width || y >= height) continue;
        const int64_t i = static_cast<int64_t>(y) * width + x;
        float u[channels];
        for (int c = 0; c < channels; ++c) u[c] = work.u(pair, other_u, c)[i];
        const float along[3] = {work.data(pair, 0)[i], work.data(pair, 1)[i], gamma};
        float residual = work.data(pair, 3)[i] + (along[0] * u[0] + along[1] * u[1]);
        if (channels == 3) residual += gamma * u[channels - 1];
        const float step = TvL1Pixel::step(residual, work.data(pair, 2)[i], most);
        float squared = 0;
        for (int c = 0; c < channels; ++c) {
            const float *px = work.p(pair, other_p, c, 0), *py = work.p(pair, other_p, c, 1);
            const float to_x = px[i] - (x ? px[i - 1] : 0.0f), to_y = py[i] - (y ? py[i - width] : 0.0f);
            const float now = u[c] + step * along[c] + theta * (to_x + to_y);
            squared += (now - u[c]) * (now - u[c]);
            moved[c][k] = now;
            if (dx < kTile && dy < kTile) work.u(pair, !other_u, c)[i] = now;
        }
        if (dx < kTile && dy < kTile) error += squared;
    }
    room[threadIdx.x] = error;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) work.errors(pair, errors ^ 1)[blockIdx.x] = static_cast<float>(room[0]);
    const float by = rules.step();
    for (int k = threadIdx.x; k < kTile * kTile; k += kThreads) {
        const int dx = k % kTile, dy = k / kTile, x = left + dx, y = top + dy, at = dy * kWide + dx;
        if (x >= width || y >= height) continue;
        const int64_t i = static_cast<int64_t>(y) * width + x;
        for (int c = 0; c < channels; ++c) {
            const float here = moved[c][at];
            const float ux = x < width - 1 ? moved[c][at + 1] - here : 0.0f;
            const float uy = y < height - 1 ? moved[c][at + kWide] - here : 0.0f;
            const float shrink = 1 / (1 + by * sqrtf(ux * ux + uy * uy));
            work.p(pair, !other_p, c, 0)[i] = (work.p(pair, other_p, c, 0)[i] + by * ux) * shrink;
            work.p(pair, !other_p, c, 1)[i] = (work.p(pair, other_p, c, 1)[i] + by * uy) * shrink;
        }
    }
}

int tiles_of(const TvL1Level& level) {
    return (level.width + kTile - 1) / kTile * ((level.height + kTile - 1) / kTile);
}

Work work_of(const TvL1& problem, void* workspace, TvL1Level (&levels)[kTvL1Levels], int* count) {
    *count = tv_l1_levels(problem, levels);
    Work work{problem, 0, tiles_of(levels[0]), static_cast<float*>(workspace), nullptr};
    for (int i = 1; i < *count; ++i) work.pyramid += levels[i].size();
    work.states = reinterpret_cast<int*>(work.memory + problem.count * work.each());
    return work;
}

// The launches of one call, with the copies of states and errors that are the latest.
class Launches {
public:
    Launches(const Work& work, void* stream) : work_(work), stream_(stream) {}

    template <class... Parameters, class... Arguments>
    cudaError_t pixels(void (*kernel)(Work, Parameters...), const TvL1Level& level, int depth, Arguments... arguments) {
        const auto blocks = static_cast<unsigned>((level.size() + kThreads - 1) / kThreads);
        return launch(kernel, dim3(blocks, pairs(), depth), kThreads, 0, stream_, work_, arguments...);
    }

    Status one_level(const Place& place, First first) {
        const TvL1Rules& rules = work_.problem.rules;
        const float enough = tv_l1_enough(rules, place.level);
        const int tiles = tiles_of(place.level);
        D2K_TRY(pixels(gradient_kernel, place.level, 1, place));
        for (int warped = 0; warped < rules.warps; ++warped) {
            D2K_TRY(pixels(warp_kernel, place.level, 1, place, warped ? First::kNeither : first, next_state()));
            for (int outer = 0; outer < rules.outer; ++outer) {
                if (rules.median > 1)
                    D2K_TRY(pixels(median_kernel, place.level, rules.channels(), place.level, outer ? tiles : 0, errors_,
                                   enough, next_state()));
                for (int inner = 0; inner < rules.inner; ++inner) {
                    const int behind = outer || inner ? tiles : 0;
                    D2K_TRY(launch(rules.channels() == 3 ? iterate_kernel<3> : iterate_kernel<2>, dim3(tiles, pairs()),
                                   kThreads, 0, stream_, work_, place.level, behind, errors_, enough, next_state()));
                    errors_ ^= 1;
                }
            }
        }
        return kOk;
    }

    cudaError_t enlarge(const TvL1Level& from, const TvL1Level& to) {
        return pixels(enlarge_kernel, to, work_.problem.rules.channels(), from, to, next_state(), nullptr);
    }

    cudaError_t finish(const TvL1Level& level) {
        return pixels(enlarge_kernel, level, 2, level, level, state_, work_.problem.flow);
    }

private:
    unsigned pairs() const { return static_cast<unsigned>(work_.problem.count); }
    // The copy that a launch reads; it writes the other one.
    int next_state() { return (state_ ^= 1) ^ 1; }

    Work work_;
    void* stream_;
    int state_ = 0, errors_ = 0;
};

}  // namespace

int64_t tv_l1_workspace(const TvL1& problem) {
    TvL1Level levels[kTvL1Levels];
    int count;
    const Work work = work_of(problem, nullptr, levels, &count);
    return static_cast<int64_t>(sizeof(float)) * work.each() + static_cast<int64_t>(2 * sizeof(int));
}

Status tv_l1(const TvL1& problem, void* workspace, int device, void* stream) {
    constexpr int64_t kMostPairs = 65535;  // of a grid
    const DeviceGuard guard(device);
    D2K_TRY(guard.status);
    TvL1Level levels[kTvL1Levels];
    TvL1 part = problem;
    for (int64_t done = 0; done < problem.count; done += part.count) {
        part.count = std::min(kMostPairs, problem.count - done);
        const int64_t size = static_cast<int64_t>(problem.height) * problem.width;
        part.previous = problem.previous + done * size;
        part.next = problem.next + done * size;
        part.flow = problem.flow + 2 * done * size;
        int count;
        const Work work = work_of(part, workspace, levels, &count);
        Launches launches(work, stream);
        Place places[kTvL1Levels] = {{levels[0], -1}};
        int64_t at = 0;
        for (int i = 1; i < count; at += levels[i++].size()) {
            places[i] = {levels[i], at};
            D2K_TRY(launches.pixels(shrink_kernel, levels[i], 2, places[i - 1], places[i]));
        }
        for (int i = count - 1; i >= 0; --i) {
            if (i < count - 1) D2K_TRY(launches.enlarge(levels[i + 1], levels[i]));
            if (const Status status = launches.one_level(places[i], i < count - 1 ? First::kOfLevel : First::kOfAll))
                return status;
        }
        D2K_TRY(launches.finish(levels[0]));
    }
    return kOk;
}

}  // namespace d2k::cuda
