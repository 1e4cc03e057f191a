// The selective scan's call record, and what its forward and backward share.
#pragma once

#include "workspace.h"

// Mirrored field by field in ops/selective_scan/cpu.py; every field is eight bytes.
// Strides count elements from one row to the next; channels are contiguous.
struct ScanCall {
  int64_t batch, length, d, n, modalities, softplus, bf16, threads;
  int64_t u_stride, delta_stride, b_stride, c_stride, z_stride, y_stride;
  int64_t dy_stride, du_stride, ddelta_stride, db_stride, dc_stride, dz_stride;
  const void *u, *delta, *B, *C, *z;
  const float *A, *D, *bias;                 // (d, n), (d), (modalities, d)
  const int32_t *rows, *modality;            // (batch, length)
  const uint8_t* resets;                     // (batch, length)
  const float* state;                        // (batch, d, n)
  float* checkpoints;                        // (batch, ceil(length / CHECKPOINT_STEPS), padded d * n)
  void* y;                                   // forward out
  float* final_state;                        // (batch, d, n)
  const void* dy;                            // backward in
  const float* dfinal;
  void *du, *ddelta, *dB, *dC, *dz;          // backward out
  float *dA, *dD, *dbias, *dstate;
  float* partials;                           // (planes, rows, 2, n) sums of dB and dC, if planes > 1
  double* parameter_partials;                // (batch, n + 1 + modalities, padded d)
};

namespace mom {

constexpr int CHECKPOINT_STEPS = 8;  // between two checkpoints; STEPS of ops/selective_scan/cpu.py
constexpr int MIN_TASKS = 8;         // if the shape allows it: common thread counts divide it
constexpr int MIN_GROUP = 4, MAX_GROUP = 16;  // blocks (vectors of channels) of a group, see Partition
constexpr int MAX_BLOCKS = 32;                // of a task, so that its values stay in the L2 cache

// A checkpoint is [block][n][lane], padded to a multiple of 16 channels for every vector width.
constexpr int CHECKPOINT_LANES = 16;

// How the work is divided into tasks. Sums over channels (dB, dC) are formed within groups of blocks, and
// then by a tree over the groups. The groups follow from the shape alone, so results do not depend on the
// number of threads. A task is a subtree, that is a power of two of neighbouring groups: as many as keep
// all threads busy, because long contiguous rows use whole cache lines. A task writes one plane of sums.
struct Partition {
  int64_t blocks, group, groups, span, planes, padded_d, checkpoint;  // group in blocks, span in groups

  explicit Partition(const ScanCall& c) {
    blocks = ceil_div(c.d, W);
    group = blocks * c.batch / MIN_TASKS;
    group = group < MIN_GROUP ? MIN_GROUP : group > MAX_GROUP ? MAX_GROUP : group;
    group = group < blocks ? group : blocks;
    groups = ceil_div(blocks, group);
    span = 1;
    for (int64_t wider = 2; wider < 2 * groups && wider * group <= MAX_BLOCKS; wider *= 2)
      if (busiest_blocks(c, wider) <= busiest_blocks(c, span)) span = wider;
    planes = ceil_div(groups, span);
    padded_d = blocks * W;
    checkpoint = ceil_div(c.d, CHECKPOINT_LANES) * CHECKPOINT_LANES * c.n;
  }

  // Blocks of the busiest thread if a task is `width` groups.
  int64_t busiest_blocks(const ScanCall& c, int64_t width) const {
    const int64_t each = width * group < blocks ? width * group : blocks;
    return ceil_div(c.batch * ceil_div(groups, width), c.threads > 1 ? c.threads : 1) * each;
  }
  int64_t first_block(int64_t task) const { return task * span * group; }
  int64_t task_blocks(int64_t task) const {
    const int64_t left = blocks - first_block(task);
    return left < span * group ? left : span * group;
  }
};

// Divides the states into passes of 8 or 4, then of 4, 2 and 1. No pass is padded, because an infinite step
// times a padding zero is NaN. `run` gets the number of states of a pass as a constant, and the first.
template <typename Run>
MOM_INLINE void for_passes(int n, const Run& run) {
  int first = 0;
  for (; first + PASS_STATES <= n; first += PASS_STATES)
    run(std::integral_constant<int, PASS_STATES>{}, first);
  if (PASS_STATES > 4 && n - first >= 4) run(std::integral_constant<int, 4>{}, first), first += 4;
  if (n - first >= 2) run(std::integral_constant<int, 2>{}, first), first += 2;
  if (n - first >= 1) run(std::integral_constant<int, 1>{}, first);
}

// One chunk of COUNT steps of one sequence: the indices of its rows, and its B and C in float32; and the
// rows of the next chunk in the order of the computation, to be prefetched.
template <typename T, int COUNT>
struct StepIndex {
  int count, next_count;
  int64_t row[COUNT], next_row[COUNT];
  int64_t modality[COUNT];
  bool reset[COUNT];

  StepIndex(const ScanCall& c, int64_t b, int64_t chunk, int64_t next, float* B, float* C) {
    next_count = 0;
    for (int64_t t = next * COUNT; t >= 0 && t < c.length && next_count < COUNT; ++t) {
      const int64_t at = b * c.length + t, row = c.rows ? c.rows[at] : at;
      next_row[next_count++] = row;
      __builtin_prefetch(static_cast<const T*>(c.B) + row * c.b_stride);
      __builtin_prefetch(static_cast<const T*>(c.C) + row * c.c_stride);
    }
    const int64_t start = chunk * COUNT;
    count = int(c.length - start < COUNT ? c.length - start : COUNT);
    for (int t = 0; t < count; ++t) {
      const int64_t at = b * c.length + start + t;
      row[t] = c.rows ? c.rows[at] : at;
      modality[t] = c.modality ? c.modality[at] : 0;
      reset[t] = c.resets && c.resets[at];
      const T* Bt = static_cast<const T*>(c.B) + row[t] * c.b_stride;
      const T* Ct = static_cast<const T*>(c.C) + row[t] * c.c_stride;
      for (int n = 0; n < c.n; ++n) {
        B[t * c.n + n] = widen(Bt[n]);
        C[t * c.n + n] = widen(Ct[n]);
      }
    }
  }
};

// Prefetch a vector of row t of the next chunk (inputs) or of this one (outputs). The hardware's prefetcher
// follows one row, and the rows of a chunk are far apart in memory. Called once per step of the recurrence:
// many prefetches in a row would stall it.
template <typename T, int COUNT>
MOM_INLINE void prefetch_next(const StepIndex<T, COUNT>& s, int t, const void* base, int64_t stride,
                           int64_t channel) {
  if (base && t < s.next_count)
    __builtin_prefetch(static_cast<const T*>(base) + s.next_row[t] * stride + channel, 0, 2);
}
template <typename T, int COUNT>
MOM_INLINE void prefetch_output(const StepIndex<T, COUNT>& s, int t, void* base, int64_t stride,
                             int64_t channel) {
  if (base) __builtin_prefetch(static_cast<T*>(base) + s.row[t] * stride + channel, 1, 3);
}

// (d, n) row-major -> n vectors over the channels of one block; lanes beyond d are zero.
inline void gather_states(const float* from, int64_t channel, int lanes, int64_t n, float scale,
                          vf* to) {
  float* out = reinterpret_cast<float*>(to);
  for (int64_t j = 0; j < n; ++j)
    for (int lane = 0; lane < W; ++lane)
      out[j * W + lane] = from && lane < lanes ? from[(channel + lane) * n + j] * scale : 0.0f;
}
inline void scatter_states(const vf* from, int64_t channel, int lanes, int64_t n, float* to) {
  const float* in = reinterpret_cast<const float*>(from);
  for (int lane = 0; lane < lanes; ++lane)
    for (int64_t j = 0; j < n; ++j) to[(channel + lane) * n + j] = in[j * W + lane];
}

// 0, or a code for the caller's error message: 1 a row index, 2 a modality is out of range.
inline int check_indices(const ScanCall& c) {
  const int64_t total = c.batch * c.length;
  if (c.rows) {
    uint32_t worst = 0;  // negative numbers are the largest unsigned ones
    for (int64_t i = 0; i < total; ++i) worst |= uint32_t(c.rows[i]) >= uint32_t(total);
    if (worst) return 1;
  }
  if (c.modality) {
    uint32_t worst = 0;
    for (int64_t i = 0; i < total; ++i) worst |= uint32_t(c.modality[i]) >= uint32_t(c.modalities);
    if (worst) return 2;
  }
  return 0;
}

}  // namespace mom
