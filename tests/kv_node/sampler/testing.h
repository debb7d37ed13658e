// Segments of generated rows, answers of samplers and statistics over seeds for the samplers'
// tests.
#ifndef SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_
#define SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/kernels/signature.h"
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
                                            const RowFunction& value,
                                            base::Position first_position = 0) {
  auto segment = Segment::Create(first_position, rows, dim, dtype, MakeRows(rows, dim, dtype, key),
                                 MakeRows(rows, dim, dtype, value));
  CHECK(segment.ok()) << segment.status().ToString();
  Scratch scratch;
  auto index = sampler.BuildIndex(*(*segment)->rows(), scratch);
  CHECK(index.ok()) << index.status().ToString();
  (*segment)->SetIndex(*std::move(index));
  return *std::move(segment);
}

// Independent normal numbers, the same for the same seed.
inline RowFunction Gaussian(uint64_t seed, double spread = 1, double offset = 0) {
  auto stream = std::make_shared<base::PhiloxStream>(seed, 0);
  return [stream, spread, offset](int64_t, int) {
    return static_cast<float>(spread * stream->NextGaussian() + offset);
  };
}

// The queries of a group, signed as the sampler wants them.
struct Group {
  Group(const Sampler& sampler, int num_queries, int query_dim, const RowFunction& value)
      : dim(query_dim), queries(num_queries * query_dim), group(num_queries) {
    for (int g = 0; g < group; ++g) {
      for (int c = 0; c < dim; ++c) queries[g * dim + c] = value(g, c);
    }
    if (sampler.projection() == nullptr) return;
    words = sampler.projection()->params().words();
    signatures.resize(group * words);
    kernels::SignVectors(*sampler.projection(), queries.data(), dim, group, signatures.data());
  }
  GroupQuery Query(int64_t begin, int64_t end) const {
    GroupQuery query;
    query.queries = queries.data();
    query.group = group;
    query.signatures = signatures.empty() ? nullptr : signatures.data();
    query.row_begin = begin;
    query.row_end = end;
    query.scale = 1 / std::sqrt(static_cast<float>(dim));
    return query;
  }
  int dim;
  std::vector<float> queries;
  int group;
  int words = 0;
  std::vector<uint64_t> signatures;
};

struct Answer {
  std::vector<float> outputs;
  std::vector<float> lse;
  std::vector<ErrorTerms> errors;
  AttendStats stats;
};

inline Answer Ask(const Sampler& sampler, const Segment& segment, const GroupQuery& query,
                  Scratch& scratch) {
  Answer answer = {std::vector<float>(query.group * segment.dim(), NAN),
                   std::vector<float>(query.group, NAN),
                   std::vector<ErrorTerms>(query.group),
                   {}};
  sampler.Attend(segment, query, scratch, answer.outputs.data(), answer.lse.data(),
                 answer.errors.data(), &answer.stats);
  return answer;
}

inline Answer Ask(const Sampler& sampler, const Segment& segment, const GroupQuery& query) {
  Scratch scratch;
  return Ask(sampler, segment, query, scratch);
}

// Mean over seeds and its standard error.
struct Statistic {
  void Add(double x) {
    ++count;
    sum += x;
    squares += x * x;
  }
  double mean() const { return sum / count; }
  double standard_error() const {
    return std::sqrt(std::max(0.0, squares / count - mean() * mean()) / (count - 1));
  }
  // How far the mean is from `expected`, in standard errors.
  double ErrorsFrom(double expected) const {
    return std::abs(mean() - expected) / std::max(standard_error(), 1e-9);
  }
  // Whether the mean is 1 as far as can be told.
  bool IsOne() const { return ErrorsFrom(1) <= 4; }
  int count = 0;
  double sum = 0;
  double squares = 0;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_TESTS_KV_NODE_SAMPLER_TESTING_H_
