// The losses' options, in the order of the fields of d2kernels/ops/losses/schema.py.
#pragma once

#include "bindings/reader.h"
#include "d2kernels/losses.h"

namespace d2k {

template <class T>
void read_options(Reader& r, Losses<T>& x) {
    r.read(x.min_snippets, x.clamp);
    x.pairs = static_cast<Pairs>(r.next<int>());
    r.rest(x.torch_cosine, x.per_entry, x.gamma, x.beta, x.pair_warmup, x.denoising_start, x.denoising_warmup,
           x.snippet, x.video, x.snippet_weight, x.video_weight, x.foreground_threshold, x.background_threshold,
           x.joint, x.floor, x.rtol, x.skip_one_sided, x.forward_only, x.floored, x.relative_floor, x.normalize_rows,
           x.per_class, x.video_atol, x.video_rtol);
}

}  // namespace d2k
