// D2-Net's objective of a batch on the CPU with the gradients of every weight: the ops of a training step, one after the
// other, in one call. Each has the bits that it has by itself.
#pragma once

#include <cstdint>

#include "d2kernels/head.h"
#include "d2kernels/losses.h"
#include "d2kernels/temporal_conv.h"

namespace d2k::cpu {

// A convolution of each stream apart, its gradients beside its weights; channels are of one stream.
struct ObjectiveLayer {
    int64_t c_in, c_out, taps, dilation;
    bool winograd;
    const float *weight, *bias;
    float *weight_gradient, *bias_gradient;
};

struct Objective {
    Sequences sequences;
    const float* features;  // (total, streams · D)
    const bool* labels;     // (sequences, classes)
    int64_t streams, classes;
    ObjectiveLayer first, second, classifier;
    bool activates;      // whether LeakyReLU follows the first two layers
    float slope;
    bool residual;
    Dropping dropping;   // of the second layer's output
    int64_t divisor;     // of top-k pooling
    bool ceil;
    float foreground_threshold, background_threshold;  // of the embeddings
    bool inclusive, normalize;
    bool by_labels;      // L_DS takes λ of own labels on its foreground
    const float* reference;  // x_ref (D)
    bool lowest;         // x_ref follows the rows of lowest λ, else x_bg
    int64_t min_snippets;
    double momentum;
    Losses<float> losses;  // its options, keys and iteration; the rest is filled in

    int64_t width() const { return second.c_out; }  // D
};

struct ObjectiveOut {
    float* terms;      // (4): the total and its terms
    float* reference;  // x_ref after the step (D)
};

// Bytes of memory that `objective` works in.
int64_t objective_workspace(const Objective& problem);

// `workspace` need not be aligned beyond what malloc gives.
Status objective(const Objective& problem, const ObjectiveOut& out, void* workspace, int threads);

}  // namespace d2k::cpu
