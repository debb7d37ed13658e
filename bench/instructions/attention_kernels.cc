// Exact attention, and the lsh tables step by step as LshTablesSampler takes them.
#include <cstring>
#include <memory>

#include "bench/instructions/kernels.h"
#include "common/kernels/exact_attention.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/signature.h"
#include "common/lsh/inclusion_probability.h"
#include "kv_node/kernels/bucket_tables.h"
#include "kv_node/kernels/sampled_attention.h"

namespace sounder::instructions {
namespace {

using memory::AlignedBuffer;

constexpr int kBitsPerTable = 10;
constexpr int kTables = 150;

template <typename T>
T* Data(AlignedBuffer& buffer) {
  return buffer.As<T>().data();
}

// One query's sample and what is computed of it.
struct Sample {
  explicit Sample(int64_t n)
      : counts(kv_node::kCountBytes),
        candidates((n + kv_node::kSamplePadding) * sizeof(uint16_t)),
        logits((n + kv_node::kSamplePadding) * sizeof(float)),
        log_u((n + kv_node::kSamplePadding) * sizeof(float)) {}

  std::span<const uint16_t> rows() const { return {candidates.As<uint16_t>().data(), taken}; }

  AlignedBuffer counts;
  AlignedBuffer candidates;
  AlignedBuffer logits;
  AlignedBuffer log_u;
  size_t taken = 0;
};

class LshTables {
 public:
  explicit LshTables(const Rows& rows)
      : rows_(rows),
        keys_(rows.segment->keys()),
        projection_(*lsh::Projection::Create(
            {.bits_per_table = kBitsPerTable, .num_tables = kTables}, kDim)),
        inclusion_(projection_),
        code_stride_(keys_.rows + 32),
        codes_(kTables * code_stride_ * sizeof(uint16_t)),
        mean_(kDim * sizeof(float)),
        norms_(keys_.rows * sizeof(float)),
        starts_(kTables * ((size_t{1} << kBitsPerTable) + 1) * sizeof(uint16_t)),
        ids_(kTables * keys_.rows * sizeof(uint16_t)),
        full_bucket_(kTables * sizeof(int32_t)),
        signatures_(static_cast<size_t>(kGroup) * projection_.params().words()),
        seen_(kv_node::kCountBytes / 8),
        kept_((keys_.rows + kv_node::kSamplePadding) * sizeof(float)),
        outputs_(static_cast<size_t>(kGroup) * kDim),
        lse_(kGroup) {
    for (int q = 0; q < kGroup; ++q) samples_.emplace_back(keys_.rows);
    MeasureKeys();
    SignKeys();
    Build();
    SignQueries();
    Retrieve();
  }

  int64_t MeasureKeys() {
    kernels::MeanOfRows(keys_, Data<float>(mean_));
    kernels::CentredNorms(keys_, Data<float>(mean_), Data<float>(norms_));
    return keys_.rows;
  }

  int64_t SignKeys() {
    kernels::SignRows(projection_, keys_, Data<float>(mean_), Data<uint16_t>(codes_), code_stride_);
    return keys_.rows;
  }

  int64_t Build() {
    kv_node::BuildBucketTables(Data<uint16_t>(codes_), code_stride_, keys_.rows, kBitsPerTable,
                               kTables, Data<uint16_t>(starts_), Data<uint16_t>(ids_),
                               Data<int32_t>(full_bucket_));
    return keys_.rows;
  }

  int64_t SignQueries() {
    kernels::SignVectors(projection_, rows_.queries.data(), kDim, kGroup, signatures_.data());
    return kGroup;
  }

  void ClearCounts() {
    for (Sample& sample : samples_) {
      std::memset(sample.counts.data(), 0, sample.counts.size());
    }
  }

  int64_t Count(int probe_distance = 0) {
    const kv_node::BucketTables tables = {.rows = keys_.rows,
                                          .bits_per_table = kBitsPerTable,
                                          .num_tables = kTables,
                                          .starts = Data<uint16_t>(starts_),
                                          .ids = Data<uint16_t>(ids_),
                                          .full_bucket = Data<int32_t>(full_bucket_)};
    int64_t walked = 0;
    for (int q = 0; q < kGroup; ++q) {
      walked += kv_node::CountCollisions(
          tables, signatures_.data() + int64_t{q} * projection_.params().words(), probe_distance,
          Data<uint8_t>(samples_[q].counts));
    }
    return walked;
  }

  int64_t Take() {
    for (Sample& sample : samples_) {
      sample.taken = kv_node::TakeCandidates(
          Data<uint8_t>(sample.counts), keys_.rows, projection_.params().min_collisions, 0,
          keys_.rows, Data<uint16_t>(sample.candidates), Data<uint64_t>(seen_));
    }
    return kGroup * keys_.rows;
  }

  int64_t Logits() {
    for (int q = 0; q < kGroup; ++q) {
      kv_node::SampledLogits({.query = rows_.queries.data() + int64_t{q} * kDim,
                              .keys = keys_,
                              .rows = samples_[q].rows(),
                              .scale = rows_.scale(),
                              .mean = Data<float>(mean_),
                              .norms = Data<float>(norms_),
                              .log_u = inclusion_.values()},
                             Data<float>(samples_[q].logits), Data<float>(samples_[q].log_u));
    }
    return SampledRows();
  }

  int64_t Values() {
    for (int q = 0; q < kGroup; ++q) {
      kv_node::WeightedValues(rows_.segment->values(), samples_[q].rows(),
                              Data<float>(samples_[q].logits), Data<float>(samples_[q].log_u),
                              outputs_.data() + int64_t{q} * kDim, &lse_[q]);
    }
    return SampledRows();
  }

  int64_t ValuesByRoulette() {
    for (int q = 0; q < kGroup; ++q) {
      kv_node::WeightedValuesByRoulette(rows_.segment->values(), samples_[q].rows(),
                                        /*start=*/0x9e3779b9, Data<float>(samples_[q].logits),
                                        Data<float>(samples_[q].log_u), Data<float>(kept_),
                                        outputs_.data() + int64_t{q} * kDim, &lse_[q]);
    }
    return SampledRows();
  }

 private:
  void Retrieve() {
    ClearCounts();
    Count();
    Take();
  }
  int64_t SampledRows() const {
    size_t sum = 0;
    for (const Sample& sample : samples_) sum += sample.taken;
    return static_cast<int64_t>(sum);
  }

  const Rows& rows_;
  const memory::RowsView keys_;
  const lsh::Projection projection_;
  const lsh::InclusionTable inclusion_;
  const int64_t code_stride_;
  AlignedBuffer codes_;
  AlignedBuffer mean_;
  AlignedBuffer norms_;
  AlignedBuffer starts_;
  AlignedBuffer ids_;
  AlignedBuffer full_bucket_;
  std::vector<uint64_t> signatures_;
  AlignedBuffer seen_;
  AlignedBuffer kept_;
  std::vector<Sample> samples_;
  std::vector<float> outputs_;
  std::vector<float> lse_;
};

}  // namespace

std::vector<Kernel> AttentionKernels(const Rows& rows) {
  const auto exact = [&rows, outputs = std::vector<float>(size_t{kGroup} * kDim),
                      lse = std::vector<float>(kGroup)]() mutable {
    kernels::ExactAttention({.queries = rows.queries.data(),
                             .query_stride = kDim,
                             .num_queries = kGroup,
                             .keys = rows.segment->keys(),
                             .values = rows.segment->values(),
                             .scale = rows.scale()},
                            outputs.data(), lse.data());
    return rows.segment->num_rows();
  };
  const auto lsh = std::make_shared<LshTables>(rows);
  const auto clear = [lsh] { lsh->ClearCounts(); };
  const auto count = [lsh] {
    lsh->ClearCounts();
    lsh->Count();
  };
  const auto logits = [lsh] { lsh->Logits(); };
  return {
      {"exact_attention", "row", {}, exact},
      {"lsh_key_statistics", "key", {}, [lsh] { return lsh->MeasureKeys(); }},
      {"lsh_sign_keys", "key", {}, [lsh] { return lsh->SignKeys(); }},
      {"lsh_build_tables", "key", {}, [lsh] { return lsh->Build(); }},
      {"lsh_sign_queries", "query", {}, [lsh] { return lsh->SignQueries(); }},
      {"lsh_count_collisions", "id", clear, [lsh] { return lsh->Count(); }},
      {"lsh_count_collisions_probed", "id", clear, [lsh] { return lsh->Count(1); }},
      {"lsh_take_candidates", "row and query", count, [lsh] { return lsh->Take(); }},
      {"lsh_logits", "sampled row", {}, [lsh] { return lsh->Logits(); }},
      {"lsh_values", "sampled row", logits, [lsh] { return lsh->Values(); }},
      {"lsh_values_roulette", "sampled row", logits, [lsh] { return lsh->ValuesByRoulette(); }},
  };
}

}  // namespace sounder::instructions
