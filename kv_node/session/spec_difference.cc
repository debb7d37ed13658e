#include "kv_node/session/spec_difference.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace sounder::kv_node {
namespace {

class Differences {
 public:
  void Add(const char* field, const std::string& open, const std::string& asked) {
    if (open != asked) Name(field, absl::StrCat("'", open, "'"), absl::StrCat("'", asked, "'"));
  }
  void Add(const char* field, uint64_t open, uint64_t asked) {
    if (open != asked) Name(field, absl::StrCat(open), absl::StrCat(asked));
  }
  std::string Text() const { return absl::StrJoin(texts_, "; "); }

 private:
  void Name(const char* field, const std::string& open, const std::string& asked) {
    texts_.push_back(absl::StrCat(field, " ", open, ", the request ", asked));
  }
  std::vector<std::string> texts_;
};

std::string IndexName(const wire::SessionSpec& spec) {
  switch (spec.index()) {
    case wire::AttentionKind::kSketch:
      return "sketch";
    case wire::AttentionKind::kLshTables:
      return "lsh_tables";
    case wire::AttentionKind::kExact:
      break;
  }
  return "none";
}

std::string ProjectionName(wire::Projection projection) {
  return projection == wire::Projection::kGaussian ? "gaussian" : "hadamard";
}

std::string FormatName(wire::RowFormat format) {
  return format == wire::RowFormat::kInt8 ? "int8" : "as appended";
}

}  // namespace

std::string ModelDifference(const wire::ModelIdentity& open, const wire::ModelIdentity& asked) {
  Differences differences;
  differences.Add("model", open.name, asked.name);
  differences.Add("weights digest", open.weights_digest, asked.weights_digest);
  differences.Add("rope digest", open.rope_digest, asked.rope_digest);
  differences.Add("adapter", open.adapter, asked.adapter);
  differences.Add("kv layout", open.kv_layout, asked.kv_layout);
  differences.Add("layers", open.layers, asked.layers);
  differences.Add("kv heads", open.kv_heads, asked.kv_heads);
  differences.Add("query heads", open.query_heads, asked.query_heads);
  differences.Add("head dim", open.head_dim, asked.head_dim);
  return differences.Text();
}

std::string SpecDifference(const wire::SessionSpec& open, const wire::SessionSpec& asked) {
  Differences differences;
  differences.Add("epoch", open.session.epoch, asked.session.epoch);
  differences.Add("dtype", std::string(NameOf(open.dtype)), std::string(NameOf(asked.dtype)));
  differences.Add("seal rows", open.seal_rows, asked.seal_rows);
  differences.Add("min indexed rows", open.min_indexed_rows, asked.min_indexed_rows);
  differences.Add("index", IndexName(open), IndexName(asked));
  differences.Add("bits per table", open.lsh.bits_per_table, asked.lsh.bits_per_table);
  differences.Add("tables", open.lsh.num_tables, asked.lsh.num_tables);
  differences.Add("min collisions", open.lsh.min_collisions, asked.lsh.min_collisions);
  differences.Add("projection", ProjectionName(open.lsh.projection),
                  ProjectionName(asked.lsh.projection));
  differences.Add("lsh seed", open.lsh.seed, asked.lsh.seed);
  differences.Add("sketch bits", open.sketch.bits, asked.sketch.bits);
  differences.Add("sketch seed", open.sketch.seed, asked.sketch.seed);
  differences.Add("row format", FormatName(open.row_format), FormatName(asked.row_format));
  differences.Add("indexed layers", absl::StrJoin(open.indexed_layers, ","),
                  absl::StrJoin(asked.indexed_layers, ","));
  differences.Add("first kv head", open.kv_head_begin, asked.kv_head_begin);
  differences.Add("kv heads held", open.kv_head_count, asked.kv_head_count);
  const wire::PlacementRecord& placed = open.placement;
  const wire::PlacementRecord& wanted = asked.placement;
  differences.Add("placed by", placed.id.ToString(), wanted.id.ToString());
  differences.Add("shard rows", static_cast<uint64_t>(placed.shard_rows),
                  static_cast<uint64_t>(wanted.shard_rows));
  differences.Add("head shards", placed.head_shards, wanted.head_shards);
  differences.Add("nodes", placed.nodes, wanted.nodes);
  return differences.Text();
}

}  // namespace sounder::kv_node
