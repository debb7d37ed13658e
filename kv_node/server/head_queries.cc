#include "kv_node/server/head_queries.h"

#include <algorithm>

namespace sounder::kv_node {

HeadQueries PackHead(const wire::AttendItem& item, uint32_t head) {
  const size_t dim = item.head_dim;
  const size_t element = SizeOf(item.query_dtype);
  const size_t words = item.signature_words;
  const size_t queries = size_t{item.query_count} * item.group;
  HeadQueries packed;
  packed.queries.resize(queries * dim);
  packed.signatures.resize(queries * words);
  if (!item.lse_hints.empty()) packed.lse_hints.resize(queries);
  float* out = packed.queries.data();
  for (size_t t = 0; t < item.query_count; ++t) {
    const size_t from = t * item.query_heads() + size_t{head} * item.group;
    const size_t to = t * item.group;
    const std::byte* in = item.queries.data() + from * dim * element;
    for (size_t i = 0; i < item.group * dim; ++i, in += element) {
      *out++ = base::LoadElement(in, item.query_dtype);
    }
    if (words > 0) {
      std::copy_n(item.signatures.data() + from * words, item.group * words,
                  packed.signatures.data() + to * words);
    }
    if (!item.lse_hints.empty()) {
      std::copy_n(item.lse_hints.data() + from, item.group, packed.lse_hints.data() + to);
    }
  }
  return packed;
}

GroupQuery GroupQueryOf(const wire::AttendItem& item, uint32_t head, const HeadQueries& packed,
                        const Piece& piece) {
  GroupQuery query;
  query.queries = packed.queries.data();
  query.group = static_cast<int>(item.query_count * item.group);
  query.signatures = packed.signatures.data();
  query.row_begin = piece.row_begin;
  query.row_end = piece.row_end;
  query.scale = item.scale;
  query.sample_key = item.sample_key;
  query.step = item.step;
  query.layer = static_cast<int>(item.layer);
  query.kv_head = static_cast<int>(item.kv_head_begin + head);
  query.row_fraction = item.rows_budget;
  query.row_cap = static_cast<int64_t>(item.rows_cap);
  query.lse_hints = packed.lse_hints;
  if (!item.head_hints.empty()) {
    query.mean_size_hint = item.head_hints[head].mean_size;
    query.uniform_fraction = double{item.head_hints[head].uniform_fraction};
  }
  return query;
}

}  // namespace sounder::kv_node
