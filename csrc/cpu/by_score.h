// Sorting by falling score: a radix sort on the leading bits, then exactly within what these leave tied.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace d2k::cpu {

// `key` rises as the score falls; -0 equals 0 and NaN goes first.
struct Scored {
    uint64_t key;
    int64_t index;

    Scored() = default;
    Scored(double score, int64_t i) : index(i) {
        const double x = score + 0.0;
        uint64_t bits;
        std::memcpy(&bits, &x, sizeof bits);
        key = x != x ? 0 : bits >> 63 ? bits : ~(bits | uint64_t{1} << 63);
    }
};

// `before(a, b)` orders the indices of equal scores.
template <class Before>
void sort_by_score(std::vector<Scored>& items, std::vector<Scored>& spare, const Before& before) {
    constexpr int kDigits = 4, kBits = 8, kBuckets = 1 << kBits, kShift = 64 - kDigits * kBits;
    constexpr size_t kFew = 48;
    const auto less = [&](const Scored& a, const Scored& b) {
        return a.key != b.key ? a.key < b.key : before(a.index, b.index);
    };
    const size_t n = items.size();
    if (n < kFew) return std::sort(items.begin(), items.end(), less);
    size_t counts[kDigits][kBuckets] = {};
    for (const Scored& item : items)
        for (int d = 0; d < kDigits; ++d) ++counts[d][item.key >> (kShift + d * kBits) & (kBuckets - 1)];
    spare.resize(n);
    for (int d = 0; d < kDigits; ++d) {
        const auto digit = [d](const Scored& item) { return item.key >> (kShift + d * kBits) & (kBuckets - 1); };
        if (counts[d][digit(items[0])] == n) continue;
        size_t sum = 0;
        for (size_t& count : counts[d]) {
            const size_t next = sum + count;
            count = sum;
            sum = next;
        }
        for (const Scored& item : items) spare[counts[d][digit(item)]++] = item;
        items.swap(spare);
    }
    for (size_t i = 0; i < n;) {
        size_t j = i + 1;
        while (j < n && items[j].key >> kShift == items[i].key >> kShift) ++j;
        if (j > i + 1) std::sort(items.begin() + i, items.begin() + j, less);
        i = j;
    }
}

}  // namespace d2k::cpu
