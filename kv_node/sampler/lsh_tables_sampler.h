// MagicPIG's sampler (arXiv 2410.16179): keys centred by the segment's mean, L hash tables of K
// sign bits, a row is a candidate when it shares the query's bucket in at least min_collisions
// tables, its inclusion probability follows from the angle. Retrieval is per query head.
#ifndef SOUNDER_KV_NODE_SAMPLER_LSH_TABLES_SAMPLER_H_
#define SOUNDER_KV_NODE_SAMPLER_LSH_TABLES_SAMPLER_H_

#include <array>
#include <memory>

#include "common/lsh/inclusion_probability.h"
#include "kv_node/kernels/bucket_tables.h"
#include "kv_node/sampler/index_bytes.h"
#include "kv_node/sampler/sampler.h"

namespace sounder::kv_node {

// Buckets that a query looks into in every table.
int64_t BucketsProbed(const lsh::LshParams& params);

// Mean and centred norms of a segment's keys and the tables over them.
class LshTablesIndex : public SegmentIndex {
 public:
  LshTablesIndex(const lsh::Projection& projection, const memory::RowsView& keys, Scratch& scratch);
  // Of arrays that were stored: mean, norms, starts, ids, full buckets, of the sizes ArrayBytes
  // says. DATA_LOSS where they are no tables over the rows.
  static absl::StatusOr<std::unique_ptr<LshTablesIndex>> Restore(const lsh::Projection& projection,
                                                                 int64_t rows, IndexArrays stored);
  static std::array<size_t, 5> ArrayBytes(const lsh::Projection& projection, int64_t rows);
  std::array<std::span<const std::byte>, 5> Arrays() const;
  size_t bytes() const override;
  // What bytes() will be of `rows` rows under that projection.
  static size_t BytesFor(const lsh::Projection& projection, int64_t rows);

  BucketTables tables() const;
  std::span<const float> mean() const { return mean_.As<float>(); }
  std::span<const float> norms() const { return norms_.As<float>(); }

 private:
  LshTablesIndex(const lsh::Projection& projection, int64_t rows, IndexArrays stored);

  const int64_t rows_;
  const int bits_per_table_;
  const int num_tables_;
  memory::AlignedBuffer mean_;
  memory::AlignedBuffer norms_;
  memory::AlignedBuffer starts_;
  memory::AlignedBuffer ids_;
  memory::AlignedBuffer full_bucket_;
};

// Every query finds its own candidates, in all tables.
class LshTablesSampler : public Sampler {
 public:
  LshTablesSampler(lsh::Projection projection, int64_t min_indexed_rows,
                   bool value_roulette = false);

  std::string_view name() const override { return NameOf(SamplerKind::kLshTables); }
  const lsh::Projection* projection() const override { return &projection_; }
  absl::StatusOr<BuiltIndex> BuildIndex(const SegmentRows& rows, Scratch& scratch) const override;
  size_t IndexBytesBound(int64_t rows) const override;
  memory::AlignedBuffer EncodeIndex(const SegmentIndex& index) const override;
  absl::StatusOr<std::unique_ptr<SegmentIndex>> DecodeIndex(
      const SegmentShape& shape, std::span<const std::byte> bytes) const override;

 protected:
  void SelectQueries(const Segment& segment, const SegmentRows* rows, const GroupQuery& query,
                     int first, int count, Scratch& scratch, Selection* selection) const override;
  void AttendParts(const SelectedWork& work, Scratch& scratch, float* outputs, float* lse,
                   ErrorTerms* errors) const override;
  void InclusionProbabilities(const SelectedWork& work, const SelectedPart& part, Scratch& scratch,
                              std::vector<double>* u) const override;

  // The index's norms of work.rows by their place in work.source.
  static const float* NormsOf(const SelectedWork& work, Scratch& scratch);
  // Rows whose bits are set in scratch.seen().
  static int64_t RowsSeen(Scratch& scratch);

 private:
  IndexIdentity IdentityOf(int64_t rows) const;
  // Logits and log u of a part's rows into scratch.
  void Weigh(const SelectedWork& work, const SelectedPart& part, const float* norms,
             Scratch& scratch) const;

  const lsh::Projection projection_;
  const lsh::InclusionTable inclusion_;
  const int64_t min_indexed_rows_;
  const bool value_roulette_;
};

}  // namespace sounder::kv_node

#endif  // SOUNDER_KV_NODE_SAMPLER_LSH_TABLES_SAMPLER_H_
