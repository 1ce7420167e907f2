#include "d2kernels/objective.h"

#include <algorithm>
#include <cstring>

#include "d2kernels/topk_pool.h"

namespace d2k::cpu {
namespace {

constexpr int64_t kAligned = 64;

// What one call works in; with a null base it only counts.
class Arena {
public:
    explicit Arena(void* base) : base_(static_cast<unsigned char*>(base)) {
        if (base_) at_ = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(base_) % kAligned);
    }

    template <class T>
    T* take(int64_t count) {
        T* const found = base_ ? reinterpret_cast<T*>(base_ + at_) : nullptr;
        at_ += (count * static_cast<int64_t>(sizeof(T)) + kAligned - 1) / kAligned * kAligned;
        most_ = std::max(most_, at_);
        return found;
    }

    int64_t at() const { return at_; }
    void back_to(int64_t at) { at_ = at; }
    int64_t most() const { return most_ + kAligned; }

private:
    unsigned char* base_;
    int64_t at_ = 0, most_ = 0;
};

// Where everything lies. `inner` comes last on the way back, when what it shares its memory with is no longer needed.
struct Memory {
    float *z1, *z2;  // both layers' output
    uint8_t *sign1, *sign2;
    float* grad;     // of z2, then of z1
    float* inner;    // the same before the activation
    float *logits, *activations, *attention, *own, *score;
    float *logits_gradient, *activations_gradient, *on, *off;
    HeadOut<float> head;
    TopkPoolOut<float> pooled;
    int64_t* k;
    LossesOut<float> losses;
    float *p_gradient, *embedding_gradient;

    static bool signs(const Objective& x) { return x.activates && (x.residual || x.slope <= 0); }

    static Memory in(Arena& arena, const Objective& x) {
        const int64_t n = x.sequences.count, total = x.sequences.total, c = x.classes, d = x.width();
        const int64_t channels = x.streams * d;
        Memory m{};
        m.z1 = arena.take<float>(total * channels);
        m.z2 = arena.take<float>(total * channels);
        if (signs(x))
            for (uint8_t** sign : {&m.sign1, &m.sign2}) *sign = arena.take<uint8_t>(total * ((channels + 7) / 8));
        m.grad = arena.take<float>(total * channels);
        const int64_t shared = arena.at();
        m.inner = arena.take<float>(total * channels);
        arena.back_to(shared);
        for (float** logits : {&m.logits, &m.logits_gradient}) *logits = arena.take<float>(total * x.streams * c);
        for (float** activations : {&m.activations, &m.activations_gradient}) *activations = arena.take<float>(total * c);
        for (float** of_row : {&m.attention, &m.own, &m.score, &m.on, &m.off}) *of_row = arena.take<float>(total);
        m.head = {m.activations, m.attention, x.by_labels ? m.own : nullptr, arena.take<float>(2 * n * d),
                  arena.take<float>(2 * n), arena.take<float>(n * d)};
        m.pooled = {arena.take<float>(n * c), arena.take<float>(n * c), arena.take<int32_t>(n * c),
                    arena.take<int32_t>(n * c)};
        m.k = arena.take<int64_t>(n);
        m.losses.factors = arena.take<double>(2);
        m.losses.by_p = arena.take<float>(n * c);
        m.losses.video_by_p = arena.take<double>(n * c);
        m.losses.by_embedding = arena.take<float>(2 * n * d);
        m.losses.snippet_by_row = arena.take<double>(2 * n);
        m.p_gradient = arena.take<float>(n * c);
        m.embedding_gradient = arena.take<float>(2 * n * d);
        return m;
    }
};

Convolution shape_of(const Objective& x, const ObjectiveLayer& layer) {
    const int64_t dilation = std::min(layer.dilation, std::max<int64_t>(x.sequences.total, 1));
    return {x.sequences, layer.c_in, layer.c_out, x.streams, layer.taps, dilation, layer.winograd};
}

class Step {
public:
    Step(const Objective& x, const ObjectiveOut& out, const Memory& m, int threads)
        : x_(x), out_(out), m_(m), threads_(threads), channels_(x.streams * x.width()) {}

    Status run() {
        Status (Step::*const parts[])() = {&Step::layers, &Step::pool, &Step::score, &Step::losses, &Step::head_back,
                                           &Step::layers_back};
        for (const auto part : parts)
            if (const Status status = (this->*part)(); status != kOk) return status;
        return kOk;
    }

private:
    const float* slope() const { return x_.activates ? &x_.slope : nullptr; }

    Head<float> head() const {
        return {x_.sequences, m_.z2, m_.logits, x_.streams, x_.width(), x_.classes, x_.by_labels ? x_.labels : nullptr,
                x_.foreground_threshold, x_.background_threshold, x_.inclusive, x_.normalize};
    }

    TopkPool<float> topk() const { return {x_.sequences, m_.activations, x_.classes, m_.k}; }

    Status convolve(const ObjectiveLayer& layer, const float* from, const float* slope, bool residual,
                    const Dropping& dropping, float* to, uint8_t* sign) {
        if (sign) memset(sign, 0, static_cast<size_t>(x_.sequences.total * ((channels_ + 7) / 8)));
        return temporal_conv(shape_of(x_, layer), from, x_.streams * layer.c_in, layer.weight, layer.bias, slope, residual,
                             dropping, to, sign, threads_);
    }

    Status layers() {
        Status status = convolve(x_.first, x_.features, slope(), x_.residual, {}, m_.z1, m_.sign1);
        if (status == kOk) status = convolve(x_.second, m_.z1, slope(), x_.residual, x_.dropping, m_.z2, m_.sign2);
        return status != kOk ? status : convolve(x_.classifier, m_.z2, nullptr, false, {}, m_.logits, nullptr);
    }

    Status pool() {
        const Status status = cpu::head(head(), m_.head, threads_);
        if (status != kOk) return status;
        for (int64_t i = 0; i < x_.sequences.count; ++i) {
            const int64_t length = x_.sequences.lengths[i];
            m_.k[i] = std::max<int64_t>((length + (x_.ceil ? x_.divisor - 1 : 0)) / x_.divisor, 1);
        }
        return topk_pool(topk(), m_.pooled, threads_);
    }

    Status score() {
        const int64_t d = x_.width();
        const ReferenceScore<float> problem{x_.sequences, m_.z2, x_.streams, d, x_.classes, x_.reference,
                                            x_.lowest ? m_.head.lowest : m_.head.embedding + d, x_.lowest ? d : 2 * d,
                                            m_.head.mass, x_.labels, x_.min_snippets, x_.momentum};
        return reference_score(problem, out_.reference, x_.losses.snippet ? m_.score : nullptr, threads_);
    }

    Status losses() {
        Losses<float> problem = x_.losses;
        problem.sequences = x_.sequences;
        problem.sequences.total = problem.snippet ? x_.sequences.total : 0;
        problem.p = m_.pooled.mean;
        problem.embedding = m_.head.embedding;
        problem.mass = m_.head.mass;
        problem.labels = x_.labels;
        problem.classes = x_.classes;
        problem.width = x_.width();
        if (problem.snippet) {
            problem.on = x_.by_labels ? m_.own : m_.attention;
            problem.off = m_.attention;
            problem.score = m_.score;
        }
        LossesOut<float> out = m_.losses;
        out.total = out_.terms;
        out.classification = out_.terms + 1;
        out.ds = out_.terms + 2;
        out.dv = out_.terms + 3;
        const Status status = cpu::losses(problem, out);
        if (status != kOk) return status;
        const float one = 1;
        const LossesSaved<float> saved{&one, nullptr, nullptr, nullptr, out.factors, out.by_p, out.video_by_p,
                                       out.by_embedding, out.snippet_by_row, problem.score, problem.foreground_threshold,
                                       problem.background_threshold};
        return losses_backward(problem.sequences, saved, x_.classes, x_.width(),
                               LossesGradients<float>{m_.p_gradient, m_.embedding_gradient, m_.on, m_.off});
    }

    Status head_back() {
        const TopkPoolSaved<float> saved{m_.p_gradient, m_.pooled.threshold, m_.pooled.above, m_.pooled.tied};
        const Status status = topk_pool_backward(topk(), saved, m_.activations_gradient, threads_);
        if (status != kOk) return status;
        const bool snippet = x_.losses.snippet;
        if (snippet && !x_.by_labels)
            for (int64_t t = 0; t < x_.sequences.total; ++t) m_.off[t] = m_.on[t] + m_.off[t];
        const HeadGradients<float> gradients{m_.activations_gradient,      snippet ? m_.off : nullptr,
                                             snippet && x_.by_labels ? m_.on : nullptr, m_.embedding_gradient,
                                             m_.grad,                      m_.logits_gradient};
        return head_backward(head(), m_.head, gradients, threads_);
    }

    // Of the weights, from the gradient before the activation.
    Status by_weight(const ObjectiveLayer& layer, const float* inner, const float* from) {
        return temporal_conv_weight_gradient(shape_of(x_, layer), inner, x_.streams * layer.c_out, from,
                                             x_.streams * layer.c_in, layer.weight_gradient, threads_);
    }

    // `inner` and the bias's gradient from m_.grad, in which what dropout leaves of it takes its place.
    Status before(const ObjectiveLayer& layer, const float* out, const uint8_t* sign, const Dropping& dropping, bool kept) {
        return temporal_conv_inner(shape_of(x_, layer), m_.grad, channels_, sign ? nullptr : out, sign, slope(), dropping,
                                   m_.inner, kept ? m_.grad : nullptr, layer.bias_gradient, threads_);
    }

    Status back(const ObjectiveLayer& layer, const float* inner, bool add) {
        return temporal_conv_input_gradient(shape_of(x_, layer), inner, x_.streams * layer.c_out, layer.weight,
                                            add ? m_.grad : nullptr, x_.streams * layer.c_in, m_.grad, threads_);
    }

    Status layers_back() {
        Status status = temporal_conv_inner(shape_of(x_, x_.classifier), m_.logits_gradient, x_.streams * x_.classes,
                                            nullptr, nullptr, nullptr, {}, nullptr, nullptr, x_.classifier.bias_gradient,
                                            threads_);
        if (status == kOk) status = back(x_.classifier, m_.logits_gradient, true);
        if (status == kOk) status = by_weight(x_.classifier, m_.logits_gradient, m_.z2);
        if (status == kOk)
            status = before(x_.second, m_.z2, m_.sign2, x_.dropping, x_.residual && x_.dropping.threshold > 0);
        if (status == kOk) status = back(x_.second, m_.inner, x_.residual);
        if (status == kOk) status = by_weight(x_.second, m_.inner, m_.z1);
        if (status == kOk) status = before(x_.first, m_.z1, m_.sign1, {}, false);
        return status != kOk ? status : by_weight(x_.first, m_.inner, x_.features);
    }

    const Objective& x_;
    const ObjectiveOut& out_;
    const Memory& m_;
    int threads_;
    int64_t channels_;
};

}  // namespace

int64_t objective_workspace(const Objective& problem) {
    Arena arena(nullptr);
    Memory::in(arena, problem);
    return arena.most();
}

Status objective(const Objective& problem, const ObjectiveOut& out, void* workspace, int threads) {
    Arena arena(workspace);
    const Memory memory = Memory::in(arena, problem);
    return Step(problem, out, memory, threads).run();
}

}  // namespace d2k::cpu
