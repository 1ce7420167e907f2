// Which basic blocks the warps of a launch execute, in $GPUEMU_TRACE/NUMBER.KERNEL: a Step each, and another one of block
// FAR where a generic address in global memory is loaded from in the block.
//
// A warp executes a block once for all of its lanes that come to it in the same turns of the loops around it, as where
// lanes that part meet again behind the branch or the loop.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_set>

#include "internal.h"

namespace gpuemu {
namespace {

struct Step {
    u32 epoch;  // barriers that the launch has passed
    u16 block;
    u16 warp;
};

constexpr int MOST_LOOPS = 512, FAR = 0xffff;
struct Way {
    int block;
    u64 key;                // of the block in these turns
    u32 turn[MOST_LOOPS];  // of each loop that the thread is in
    u64 path[MOST_LOOPS];  // of the turns of the loop and of those around it
};
Way ways[1024];
std::unordered_set<u64> seen[32];
FILE* file = nullptr;
u32 block_start = 0, epoch = 0;

u64 mixed(u64 path, u64 with) {
    u64 x = (path ^ with) * 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ull;
    return x ^ (x >> 32);
}

bool inside(const Flow& flow, int loop, int of) {
    while (loop > of) loop = flow.parent[loop];
    return loop == of;
}

void note(const Thread& t, u64 key, int block) {
    if (!seen[t.warp].insert(key).second) return;
    const Step one{C.epoch - C.launch_start, u16(block), u16(t.warp)};
    fwrite(&one, sizeof one, 1, file);
}

}  // namespace

bool tracing = false;

void begin_trace(const char* kernel) {
    static int number = 0;
    if (file) fclose(file);
    file = nullptr;
    const char* folder = getenv("GPUEMU_TRACE");
    if (folder) file = fopen((std::string(folder) + "/" + std::to_string(number++) + "." + kernel).c_str(), "wb");
    tracing = file != nullptr;
}

void step(Thread& t, const Flow& flow, int block) {
    if (!tracing) return;
    if (block_start != C.block_start) {
        block_start = C.block_start;
        for (Way& way : ways) way.block = -1;
    }
    // What a warp came to before a barrier it does not come to again in the same turns.
    if (epoch != C.epoch) {
        epoch = C.epoch;
        for (auto& keys : seen) keys.clear();
    }
    Way& way = ways[t.number];
    const int loop = flow.loop[block], before = way.block < 0 ? -1 : flow.loop[way.block];
    way.block = block;
    if (loop >= 0 && flow.header[loop] == block) {
        way.turn[loop] = inside(flow, before, loop) ? way.turn[loop] + 1 : 0;
        const int around = flow.parent[loop];
        way.path[loop] = mixed(around < 0 ? 0 : way.path[around], (u64(loop + 1) << 32) | way.turn[loop]);
    }
    way.key = mixed(loop < 0 ? 0 : way.path[loop], ~u64(block));
    note(t, way.key, block);
}

void trace_far_load(Thread& t) { note(t, ~ways[t.number].key, FAR); }

void end_trace() {
    if (file) fclose(file);
    file = nullptr;
    tracing = false;
}

}  // namespace gpuemu
