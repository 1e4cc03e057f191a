// Memory that a thread keeps between calls, and tasks distributed over threads.
#pragma once

#include <cstdlib>
#include <new>

#include "vector.h"

namespace mom {

// Aligned memory of one thread; it grows, and is kept for the next call.
class Workspace {
 public:
  template <typename T>
  T* get(size_t count) {
    const size_t bytes = (count * sizeof(T) + 127) / 128 * 128;
    if (bytes > size_) {
      std::free(data_);
      size_ = 0;
      data_ = std::aligned_alloc(128, bytes);
      if (!data_) throw std::bad_alloc();
      size_ = bytes;
    }
    return static_cast<T*>(data_);
  }
  ~Workspace() { std::free(data_); }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

// Calls run(T{}, i) for i in 0..count-1 on the call's threads, `grain` at a time; T is the dtype of rows.
template <typename Call, typename Run>
void parallel_tasks(const Call& c, int64_t count, int grain, const Run& run) {
#pragma omp parallel num_threads(int(c.threads)) if (c.threads > 1)
  {
    const FlushDenormals guard;
#pragma omp for schedule(dynamic, grain)
    for (int64_t i = 0; i < count; ++i) c.bf16 ? run(bf16{}, i) : run(0.0f, i);
  }
}

}  // namespace mom
