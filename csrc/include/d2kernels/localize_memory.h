// Memory that localize works in: the planes of one item, and what items leave for their sequences.
#pragma once

#include <type_traits>

#include "d2kernels/localize.h"

namespace d2k {

// Hands out arrays one after another, each at a whole 16 bytes; from address 0 on it only counts.
class Layout {
public:
    D2K_DEVICE explicit Layout(uintptr_t base) : base_(base), next_(base) {}

    template <class Element>
    D2K_DEVICE void place(Element*& pointer, int64_t count) {
        pointer = reinterpret_cast<Element*>(next_);
        next_ += (static_cast<size_t>(count) * sizeof(Element) + 15) / 16 * 16;
    }
    D2K_DEVICE int64_t bytes() const { return static_cast<int64_t>(next_ - base_); }

private:
    uintptr_t base_, next_;
};

// Where one item's planes go: so many bytes at hand, in shared memory, and what does not fit there elsewhere.
struct LocalizePlace {
    unsigned char* at_hand;
    int64_t bytes;
    unsigned char* far;
};

// What one item's team works on.
template <class T>
struct LocalizePlanes {
    T* rows;         // the column, smoothed
    double* sums;    // before each row, and after the last
    int32_t* above;  // of each position: how many thresholds lie below it; 0 after the last
    // (levels, words): a bit for each position that more than so many thresholds lie below, and for the one after the
    // last; lies where the scores do, which come after it.
    uint32_t* bits;
    int32_t words;
    int32_t* first;  // of each position: how many runs start before it
    // By falling end within rising start: those inside a run follow it, up to `last`. outer: the smallest around it, or -1.
    struct alignas(16) Run {
        int32_t start, end, outer, last;
    } * runs;
    double* score;  // of each run
    struct State {
        int8_t status, decision;
    } * states;  // of each run
    int32_t *list, *spare;  // lie where `first` and the sums do, which come before them

    static constexpr int kBits = 32;

    // Those that are read most, and at random, come first, so that they are at hand. Returns the bytes elsewhere.
    D2K_DEVICE int64_t lay_out(const LocalizePlace& to, int64_t length, int64_t factor, int64_t levels) {
        const int64_t positions = length * factor, of_bits = levels * (positions / kBits + 1);
        words = static_cast<int32_t>(positions / kBits + 1);
        Layout near(reinterpret_cast<uintptr_t>(to.at_hand)), far(reinterpret_cast<uintptr_t>(to.far));
        const auto place = [&](auto*& plane, int64_t count) {
            Layout with = near;
            with.place(plane, count);
            if (with.bytes() <= to.bytes) near = with;
            else far.place(plane, count);
        };
        place(score, Max{}(positions, (of_bits + 1) / 2));
        bits = reinterpret_cast<uint32_t*>(score);
        place(states, positions);
        place(first, positions + 1);
        place(above, positions + 1);
        place(runs, positions);
        place(sums, positions + 1);
        list = first;
        spare = reinterpret_cast<int32_t*>(sums);
        place(rows, length);
        return far.bytes();
    }

    // Elsewhere, with so many at hand.
    static D2K_DEVICE int64_t bytes(int64_t length, int64_t factor, int64_t levels, int64_t at_hand = 0) {
        LocalizePlanes unplaced;
        return unplaced.lay_out({nullptr, at_hand, nullptr}, length, factor, levels);
    }
};

// What is known of items and sequences. A slot is an item that is wanted, in their order.
template <class T>
struct LocalizeMemory {
    int64_t items_most, sequences, room, factor, levels;
    int64_t near;  // bytes that a team has at hand for planes; items of more than `short_most` rows need more and are long
    int64_t short_most;
    // Long items lie one after another in `far`, as if it had no end. A turn is as much as there is room for at once: those
    // of a turn begin when those of all turns before it are done.
    int64_t far_bytes, turn;
    unsigned char* far;

    struct Counts {
        int64_t wanted, lengthy;  // slots; long items
        // Of a GPU: the next slot to be worked on; long items and slots that are done.
        unsigned long long next, lengthy_done, done;
    } * counts;
    // Of a slot: its item, the positions of those before it, and where its planes elsewhere begin, or -1 where it has none.
    int64_t *item, *first, *at;
    int64_t* order;  // long ones from the front, then the others from the back
    // Of a slot: how many detections it has, kNotANumber where a score is none, and the best score; the detections that the
    // keep rule leaves in its sequence up to and with it.
    int64_t *found, *kept;
    double* best;
    int64_t* slot;             // (sequences + 1): the first of each sequence
    unsigned long long* done;  // of a sequence: slots that are done
    // Detections, best first, from position first[slot] on.
    int32_t *start, *end;
    double* score;

    // Lays all out from an address on; returns the bytes that it takes.
    int64_t lay_out(uintptr_t base, const LocalizeRoom& given, int64_t total, int64_t count, int64_t classes,
                    int64_t upsample, int64_t thresholds, int64_t at_hand) {
        sequences = count;
        room = given.rows;
        factor = upsample;
        levels = thresholds;
        near = at_hand;
        short_most = 0;
        for (int64_t step = Max{}(near, int64_t{1}); step > 0; step /= 2)
            while (LocalizePlanes<T>::bytes(short_most + step, factor, levels) <= near) short_most += step;
        items_most = Min{}(count * classes, room);  // none is wanted that has no rows
        const int64_t positions = room * factor, longest = LocalizePlanes<T>::bytes(total, factor, levels);
        // Rounding adds less than 256 bytes and a word a level to an item, and a long one has at least near / (64 + levels)
        // positions.
        const int64_t rounding = (256 + 4 * levels) * (positions / (near / (64 + levels) + 1) + 1);
        const int64_t all = LocalizePlanes<T>::bytes(room, factor, levels) + rounding;
        const int64_t bounded = longest + Max{}(longest, given.planes);
        const bool at_once = all <= bounded;
        far_bytes = longest <= near ? 0 : at_once ? all : bounded;
        turn = at_once ? all : bounded - longest;
        Layout layout(base);
        layout.place(counts, 1);
        for (int64_t** p : {&item, &first, &at, &order, &found, &kept}) layout.place(*p, items_most);
        layout.place(best, items_most);
        layout.place(slot, sequences + 1);
        layout.place(done, sequences);
        layout.place(score, positions);
        layout.place(start, positions);
        layout.place(end, positions);
        layout.place(far, far_bytes);
        return layout.bytes();
    }

    // The slot that is worked on n-th.
    D2K_DEVICE int64_t nth(int64_t n) const {
        return n < counts->lengthy ? order[n] : order[items_most - 1 - (n - counts->lengthy)];
    }

    // How many long items must be done before this slot's may begin.
    D2K_DEVICE int64_t done_before(int64_t which) const {
        const int64_t begin = at[which] / turn * turn;
        int64_t low = 0, high = begin > 0 ? counts->lengthy : 0;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (at[order[middle]] < begin) low = middle + 1;
            else high = middle;
        }
        return low;
    }

    // Where a slot's planes are: at `at_hand`, and those that do not fit among those of the long items.
    D2K_DEVICE LocalizePlace planes(int64_t which, unsigned char* at_hand) const {
        return {at_hand, near, at[which] < 0 ? nullptr : far + at[which] % turn};
    }
};

// Two sums that are scanned together.
struct Pair {
    int64_t a, b;

    D2K_DEVICE Pair operator()(const Pair& x, const Pair& y) const { return {x.a + y.a, x.b + y.b}; }
};

// Gives every item that is wanted its slot, and the sequences the first counts: nothing. Where there are more rows than
// room for them, as of sequences that overlap, nothing is wanted.
template <class Team, class T>
D2K_DEVICE void place_items(Team& team, const Localization<T>& problem, const LocalizeMemory<T>& memory,
                            int64_t* counts) {
    constexpr int kEach = 4;  // items a thread, whose loads are under way together
    const int64_t classes = problem.classes, items = problem.items();
    Pair slots{0, 0}, far{0, 0};  // rows and items; bytes and long items
    for (int64_t tile = 0; tile < items; tile += kEach * team.size()) {
        const int64_t begin = tile + kEach * team.rank();
        int64_t length[kEach], starts[kEach];  // of items; the sequence that begins with this item, or -1
        int64_t s = begin / classes, c = begin % classes;
        D2K_UNROLLED
        for (int e = 0; e < kEach; ++e) {
            const int64_t i = begin + e;
            length[e] = i < items && problem.wanted(i) ? problem.sequences[s].length : 0;
            starts[e] = i < items && c == 0 ? s : -1;
            if (++c == classes) c = 0, ++s;
        }
        Pair mine{0, 0}, own{0, 0};
        int64_t bytes[kEach];
        D2K_UNROLLED
        for (int e = 0; e < kEach; ++e) {
            bytes[e] = 0;
            if (length[e] > memory.short_most)
                bytes[e] = LocalizePlanes<T>::bytes(length[e], memory.factor, memory.levels, memory.near);
            mine = Pair{}(mine, {length[e], length[e] > 0});
            own = Pair{}(own, {bytes[e], bytes[e] > 0});
        }
        const Pair through = team.scan(mine, Pair{}, slots), to = team.scan(own, Pair{}, far);
        Pair here{through.a - mine.a, through.b - mine.b}, there{to.a - own.a, to.b - own.b};
        D2K_UNROLLED
        for (int e = 0; e < kEach; ++e) {
            if (starts[e] >= 0) memory.slot[starts[e]] = here.b;
            if (length[e] > 0 && here.a + length[e] <= memory.room) {
                memory.item[here.b] = begin + e;
                memory.first[here.b] = here.a * memory.factor;
                memory.at[here.b] = bytes[e] > 0 ? there.a : -1;
                memory.order[bytes[e] > 0 ? there.b : memory.items_most - 1 - (here.b - there.b)] = here.b;
            }
            here = Pair{}(here, {length[e], length[e] > 0});
            there = Pair{}(there, {bytes[e], bytes[e] > 0});
        }
    }
    team.barrier();
    const bool fits = slots.a <= memory.room && classes > 0;
    for_each(team, memory.sequences, [&](int64_t s) {
        counts[s] = 0;
        memory.done[s] = 0;
        if (!fits) memory.slot[s] = 0;
    });
    if (team.rank() == 0) {
        memory.slot[memory.sequences] = fits ? slots.b : 0;
        *memory.counts = {fits ? slots.b : 0, fits ? far.b : 0, 0, 0, 0};
    }
    team.barrier();
}

}  // namespace d2k
