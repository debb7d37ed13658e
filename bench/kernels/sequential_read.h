// What merely reading K and V costs: the floor that attention over all rows is measured against.
// Pure, thread safe.
#ifndef SOUNDER_BENCH_KERNELS_SEQUENTIAL_READ_H_
#define SOUNDER_BENCH_KERNELS_SEQUENTIAL_READ_H_

#include <cstddef>
#include <cstdint>
#include <span>

namespace sounder::bench_kernels {

// Loads every byte once, in order, and returns the XOR of all 64-bit words (so that no load can be
// left out). The size must be a multiple of 8; the data 64-byte aligned.
uint64_t SequentialRead(std::span<const std::byte> data);

// The same words, but four quarters of the data at a time: the prefetchers follow several streams
// at once, which reads 10-15 % faster than one (see DESIGN.md). The size must be a multiple of 32.
uint64_t ParallelRead(std::span<const std::byte> data);

}  // namespace sounder::bench_kernels

#endif  // SOUNDER_BENCH_KERNELS_SEQUENTIAL_READ_H_
