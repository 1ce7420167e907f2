// Loops whose turns differ by lane: what a trace must count for each warp.
#include <cuda_runtime.h>

__global__ void loops(volatile int* out) {
    const int lane = threadIdx.x % 32;
#pragma unroll 1
    for (int i = 0; i < 3; ++i) {
#pragma unroll 1
        for (int j = 0; j <= lane % 4; ++j) out[threadIdx.x] = j;  // 4 turns, three times
        __syncthreads();
        if (lane % 2) out[threadIdx.x] = -i;  // once, three times
    }
}

int main() {
    int* out = nullptr;
    cudaMalloc(&out, 64 * sizeof(int));
    loops<<<1, 64>>>(out);
    return cudaDeviceSynchronize() != cudaSuccess;
}
