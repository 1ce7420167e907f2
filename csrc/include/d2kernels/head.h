// What the losses need of the network's output, from one read of layer 2's rows: activations T, attention λ, and the
// foreground and background embeddings; and how far rows point away from the reference x_ref, after its update.
#pragma once

#include <cstddef>
#include <cstdint>

#include "d2kernels/dtype.h"
#include "d2kernels/ragged.h"
#include "d2kernels/status.h"

namespace d2k {

// T: float, double, BFloat16 or Half; what is computed has the type V that T is summed in. A row of z is that of each
// stream, one after the other; embeddings x and activations are means over the streams.
template <class T>
struct Head {
    using V = ArithmeticOf<T>;
    Sequences sequences;
    const T* z;       // (total, streams, width)
    const T* logits;  // (total, streams, classes)
    int64_t streams, width, classes;
    const bool* labels;  // (sequences, classes), or null: no attention by own labels
    V foreground_threshold, background_threshold;
    bool inclusive, normalize;

    D2K_DEVICE static bool passes(V attention, V threshold, bool inclusive) {
        return inclusive ? attention >= threshold : attention > threshold;
    }
    D2K_DEVICE bool foreground(V attention) const { return passes(attention, foreground_threshold, inclusive); }
    D2K_DEVICE bool background(V attention) const { return passes(V(1) - attention, background_threshold, inclusive); }
};

template <class T>
struct HeadOut {
    using V = ArithmeticOf<T>;
    V* activations;       // (total, classes)
    V *attention, *own;   // (total): the largest activation of all classes, of the sequence's labels (or null)
    V* embedding;         // (sequences, 2, width)
    V* mass;              // (sequences, 2)
    V* lowest;            // (sequences, width): x of the first row of lowest attention, or null
};

// Gradients that are null are 0.
template <class T>
struct HeadGradients {
    using V = ArithmeticOf<T>;
    const V *activations, *attention, *own, *embedding;
    T *z, *logits;
};

// x_ref ← momentum · x_ref + (1 − momentum) · mean of the candidates of the videos that have a background and count;
// then λ' = 0.5 (1 − cos(x, x_ref)), with torch's eps rule.
template <class T>
struct ReferenceScore {
    using V = ArithmeticOf<T>;
    Sequences sequences;
    const T* z;  // (total, streams, width)
    int64_t streams, width, classes;
    const V* reference;  // (width)
    const V* candidate;  // (sequences, width), one every `stride`
    int64_t stride;
    const V* mass;       // (sequences, 2)
    const bool* labels;  // (sequences, classes)
    int64_t min_snippets;
    double momentum;
};

namespace cpu {
// `threads` 0 means all that may be used.
template <class T>
Status head(const Head<T>& problem, const HeadOut<T>& out, int threads);
template <class T>
Status head_backward(const Head<T>& problem, const HeadOut<T>& saved, const HeadGradients<T>& gradients, int threads);
// updated (width); score (total), 0 on gap rows, or null.
template <class T>
Status reference_score(const ReferenceScore<T>& problem, ArithmeticOf<T>* updated, ArithmeticOf<T>* score, int threads);
}  // namespace cpu

namespace cuda {
// Bytes of device memory that head and head_backward work in.
template <class T>
size_t head_workspace(const Head<T>& problem);
template <class T>
Status head(const Head<T>& problem, const HeadOut<T>& out, void* workspace, int device, void* stream);
template <class T>
Status head_backward(const Head<T>& problem, const HeadOut<T>& saved, const HeadGradients<T>& gradients,
                     void* workspace, int device, void* stream);
template <class T>
Status reference_score(const ReferenceScore<T>& problem, ArithmeticOf<T>* updated, ArithmeticOf<T>* score, int device,
                       void* stream);
}  // namespace cuda

}  // namespace d2k
