// The tables of a segment: built from its keys, or read back from where they were stored.
#include <bitset>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/limits.h"
#include "common/base/status_macros.h"
#include "common/kernels/row_statistics.h"
#include "common/kernels/signature.h"
#include "kv_node/sampler/lsh_tables_sampler.h"

namespace sounder::kv_node {
namespace {

// Tables are written at this distance, in codes, so that the same row of different tables does not
// fall on the same cache set.
int64_t CodeStride(int64_t rows) { return (rows + 31) / 32 * 32 + 32; }

// DATA_LOSS unless every row lies in exactly one bucket of the one table, as BuildBucketTables
// leaves it: then no bucket reaches beyond the ids, and no id beyond the rows.
absl::Status CheckTable(const BucketTables& table) {
  const auto damaged = [&](const char* what, int64_t at) {
    return absl::DataLossError(
        absl::StrCat("table ", table.first_table, " of an index: ", what, " at ", at));
  };
  const int64_t buckets = table.starts_per_table() - 1;
  int64_t sum = 0;
  for (int64_t code = 0; code < buckets; ++code) {
    if (table.starts[code] != static_cast<uint16_t>(sum)) return damaged("a wrong start", code);
    const bool full = table.full_bucket[0] == code;
    sum += full ? table.rows : static_cast<uint16_t>(table.starts[code + 1] - table.starts[code]);
    if (sum > table.rows) return damaged("too large a bucket", code);
  }
  if (sum != table.rows || table.starts[buckets] != static_cast<uint16_t>(sum)) {
    return damaged("a wrong end", buckets);
  }
  if (table.full_bucket[0] < -1 || table.full_bucket[0] >= buckets) {
    return damaged("no such full bucket", table.full_bucket[0]);
  }
  std::bitset<base::kMaxSegmentRows> seen;
  for (int64_t i = 0; i < table.rows; ++i) {
    const uint16_t row = table.ids[i];
    if (row >= table.rows || seen[row]) return damaged("a row twice or beyond the last", i);
    seen[row] = true;
  }
  return absl::OkStatus();
}

}  // namespace

LshTablesIndex::LshTablesIndex(const lsh::Projection& projection, const memory::RowsView& keys,
                               Scratch& scratch)
    : rows_(keys.rows),
      bits_per_table_(projection.params().bits_per_table),
      num_tables_(projection.params().num_tables),
      mean_(keys.dim * sizeof(float)),
      norms_(keys.rows * sizeof(float)),
      starts_(num_tables_ * ((size_t{1} << bits_per_table_) + 1) * sizeof(uint16_t)),
      ids_(num_tables_ * keys.rows * sizeof(uint16_t)),
      full_bucket_(num_tables_ * sizeof(int32_t)) {
  float* mean = mean_.As<float>().data();
  kernels::MeanOfRows(keys, mean);
  kernels::CentredNorms(keys, mean, norms_.As<float>().data());
  const int64_t stride = CodeStride(rows_);
  uint16_t* codes = scratch.codes(num_tables_ * stride);
  kernels::SignRows(projection, keys, mean, codes, stride);
  BuildBucketTables(codes, stride, rows_, bits_per_table_, num_tables_,
                    starts_.As<uint16_t>().data(), ids_.As<uint16_t>().data(),
                    full_bucket_.As<int32_t>().data());
}

size_t LshTablesIndex::bytes() const {
  return sizeof(LshTablesIndex) + mean_.allocated() + norms_.allocated() + starts_.allocated() +
         ids_.allocated() + full_bucket_.allocated();
}

size_t LshTablesIndex::BytesFor(const lsh::Projection& projection, int64_t rows) {
  size_t bytes = sizeof(LshTablesIndex);
  for (const size_t array : ArrayBytes(projection, rows)) {
    bytes += memory::AlignedBuffer::Allocated(array);
  }
  return bytes;
}

std::array<size_t, 5> LshTablesIndex::ArrayBytes(const lsh::Projection& projection, int64_t rows) {
  const size_t count = static_cast<size_t>(rows);
  const size_t tables = static_cast<size_t>(projection.params().num_tables);
  const size_t buckets = size_t{1} << projection.params().bits_per_table;
  return {projection.dim() * sizeof(float), count * sizeof(float),
          tables * (buckets + 1) * sizeof(uint16_t), tables * count * sizeof(uint16_t),
          tables * sizeof(int32_t)};
}

std::array<std::span<const std::byte>, 5> LshTablesIndex::Arrays() const {
  return {mean_.bytes(), norms_.bytes(), starts_.bytes(), ids_.bytes(), full_bucket_.bytes()};
}

LshTablesIndex::LshTablesIndex(const lsh::Projection& projection, int64_t rows, IndexArrays stored)
    : rows_(rows),
      bits_per_table_(projection.params().bits_per_table),
      num_tables_(projection.params().num_tables),
      mean_(std::move(stored.arrays.at(0))),
      norms_(std::move(stored.arrays.at(1))),
      starts_(std::move(stored.arrays.at(2))),
      ids_(std::move(stored.arrays.at(3))),
      full_bucket_(std::move(stored.arrays.at(4))) {}

absl::StatusOr<std::unique_ptr<LshTablesIndex>> LshTablesIndex::Restore(
    const lsh::Projection& projection, int64_t rows, IndexArrays stored) {
  std::unique_ptr<LshTablesIndex> index(new LshTablesIndex(projection, rows, std::move(stored)));
  for (int table = 0; table < index->num_tables_; ++table) {
    RETURN_IF_ERROR(CheckTable(index->tables().Slice(table, 1)));
  }
  return index;
}

BucketTables LshTablesIndex::tables() const {
  return {.rows = rows_,
          .bits_per_table = bits_per_table_,
          .num_tables = num_tables_,
          .starts = starts_.As<uint16_t>().data(),
          .ids = ids_.As<uint16_t>().data(),
          .full_bucket = full_bucket_.As<int32_t>().data()};
}

}  // namespace sounder::kv_node
