// Segments of generated rows for the samplers' tests.
#ifndef SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_
#define SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

using RowFunction = std::function<float(int64_t row, int column)>;

inline memory::AlignedBuffer MakeRows(int64_t rows, int dim, base::DType dtype,
                                      const RowFunction& value) {
  memory::AlignedBuffer buffer(rows * dim * base::SizeOf(dtype));
  for (int64_t r = 0; r < rows; ++r) {
    for (int c = 0; c < dim; ++c) {
      base::StoreElement(value(r, c), buffer.data() + (r * dim + c) * base::SizeOf(dtype), dtype);
    }
  }
  return buffer;
}

// A segment with the index the sampler gives it.
inline std::unique_ptr<Segment> MakeSegment(const Sampler& sampler, int64_t rows, int dim,
                                            base::DType dtype, const RowFunction& key,
                                            const RowFunction& value) {
  auto segment = Segment::Create(0, rows, dim, dtype, MakeRows(rows, dim, dtype, key),
                                 MakeRows(rows, dim, dtype, value));
  CHECK(segment.ok()) << segment.status().ToString();
  Scratch scratch;
  auto index = sampler.BuildIndex(**segment, scratch);
  CHECK(index.ok()) << index.status().ToString();
  if (*index != nullptr) (*segment)->SetIndex(*std::move(index));
  return *std::move(segment);
}

// Independent normal numbers, the same for the same seed.
inline RowFunction Gaussian(uint64_t seed, double spread = 1, double offset = 0) {
  auto stream = std::make_shared<base::PhiloxStream>(seed, 0);
  return [stream, spread, offset](int64_t, int) {
    return static_cast<float>(spread * stream->NextGaussian() + offset);
  };
}

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_
