#include "tests/cluster/test_session.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "common/attention/attention_ref.h"
#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/kernels/signature.h"

namespace sounder::tests {

wire::ModelIdentity IdentityOf(const Shape& shape) {
  wire::ModelIdentity model;
  model.name = "made up";
  model.weights_digest = "0123456789abcdef";
  model.layers = shape.layers;
  model.kv_heads = shape.kv_heads;
  model.query_heads = shape.query_heads();
  model.head_dim = shape.dim;
  return model;
}

gpu_worker::RemoteSessionOptions SessionOptions(const Shape& shape, uint64_t number,
                                                uint32_t seal_rows) {
  gpu_worker::RemoteSessionOptions options;
  options.id = {0x5e55, number};
  options.model = IdentityOf(shape);
  options.dtype = shape.dtype;
  options.seal_rows = seal_rows;
  options.min_indexed_rows = 1;
  return options;
}

TestRows::TestRows(const Shape& shape, int64_t positions, const Element& key, const Element& value)
    : shape_(shape), positions_(positions) {
  const size_t element = SizeOf(shape.dtype);
  const auto fill = [&](uint32_t layer, uint32_t head, const Element& what) {
    memory::AlignedBuffer rows(static_cast<size_t>(positions) * shape.dim * element);
    std::byte* out = rows.data();
    for (base::Position position = 0; position < positions; ++position) {
      for (uint32_t column = 0; column < shape.dim; ++column, out += element) {
        base::StoreElement(what(layer, head, position, static_cast<int>(column)), out, shape.dtype);
      }
    }
    return rows;
  };
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (uint32_t head = 0; head < shape.kv_heads; ++head) {
      keys_.push_back(fill(layer, head, key));
      values_.push_back(fill(layer, head, value));
    }
  }
}

TestRows TestRows::Gaussian(const Shape& shape, int64_t positions, uint64_t seed) {
  base::PhiloxStream random(seed, 1);
  const Element draw = [&](uint32_t, uint32_t, base::Position, int) {
    return static_cast<float>(random.NextGaussian());
  };
  return TestRows(shape, positions, draw, draw);
}

TestRows TestRows::Indicators(const Shape& shape, int64_t positions) {
  CHECK(shape.dim >= positions) << shape.dim << " columns for " << positions << " positions";
  return TestRows(
      shape, positions, [](uint32_t, uint32_t, base::Position, int) { return 0.0f; },
      [](uint32_t, uint32_t, base::Position position, int column) {
        return position == column ? 1.0f : 0.0f;
      });
}

memory::RowsView TestRows::View(const std::vector<memory::AlignedBuffer>& rows, uint32_t layer,
                                uint32_t head) const {
  return {rows[layer * shape_.kv_heads + head].data(), positions_,
          static_cast<int64_t>(shape_.dim * SizeOf(shape_.dtype)), static_cast<int>(shape_.dim),
          shape_.dtype};
}

gpu_worker::AppendRows TestRows::Range(base::PositionRange range, bool seal_after) const {
  CHECK(range.end <= positions_);
  gpu_worker::AppendRows rows;
  rows.first_position = range.begin;
  rows.row_count = range.size();
  rows.seal_after = seal_after;
  rows.rows = [this, range](uint32_t layer, uint32_t head) {
    const size_t row_bytes = shape_.dim * SizeOf(shape_.dtype);
    const size_t offset = static_cast<size_t>(range.begin) * row_bytes;
    const size_t bytes = static_cast<size_t>(range.size()) * row_bytes;
    const size_t at = layer * shape_.kv_heads + head;
    return gpu_worker::AppendRows::Head{keys_[at].bytes().subspan(offset, bytes),
                                        values_[at].bytes().subspan(offset, bytes)};
  };
  return rows;
}

std::vector<float> GaussianQueries(const Shape& shape, uint32_t count, uint64_t seed) {
  base::PhiloxStream random(seed, 2);
  std::vector<float> queries(size_t{count} * shape.query_heads() * shape.dim);
  for (float& element : queries) {
    element = base::RoundTo(shape.dtype, static_cast<float>(random.NextGaussian()));
  }
  return queries;
}

std::vector<uint64_t> Sign(const gpu_worker::RemoteSession& session,
                           std::span<const float> queries) {
  const lsh::Projection& projection = *session.projection();
  const int64_t count = static_cast<int64_t>(queries.size()) / projection.dim();
  std::vector<uint64_t> signatures(static_cast<size_t>(count * projection.params().words()));
  kernels::SignVectors(projection, queries.data(), projection.dim(), count, signatures.data());
  return signatures;
}

gpu_worker::AttendQuery ExactQuery(gpu_worker::RemoteSession* session,
                                   std::span<const float> queries, base::PositionRange range) {
  const wire::ModelIdentity& model = session->options().model;
  gpu_worker::AttendQuery query;
  query.session = session;
  query.queries = queries.data();
  query.query_count =
      static_cast<uint32_t>(queries.size() / (size_t{model.query_heads} * model.head_dim));
  query.range = range;
  query.layout_position = range.end;
  query.scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim));
  return query;
}

bool SampleByIndex(gpu_worker::AttendQuery* query, std::vector<uint64_t>* signatures) {
  const gpu_worker::RemoteSessionOptions& options = query->session->options();
  if (options.sketch.bits > 0) {
    query->attention = wire::AttentionKind::kSketch;
    return true;
  }
  if (options.lsh.num_tables == 0) return false;
  const size_t width = size_t{options.model.query_heads} * options.model.head_dim;
  *signatures = Sign(*query->session, {query->queries, query->query_count * width});
  query->attention = wire::AttentionKind::kLshTables;
  query->signatures = signatures->data();
  return true;
}

Reference ReferenceOf(const TestRows& rows, uint32_t layer, std::span<const float> queries,
                      base::PositionRange range, float scale, base::Position causal_from) {
  const Shape& shape = rows.shape();
  const size_t heads = shape.query_heads();
  const size_t count = queries.size() / (heads * shape.dim);
  Reference reference;
  reference.outputs.resize(queries.size());
  reference.lse.resize(count * heads);
  for (size_t query = 0; query < count; ++query) {
    base::Position end = range.end;
    if (causal_from >= 0) {
      end = std::clamp<base::Position>(causal_from + static_cast<int64_t>(query) + 1, range.begin,
                                       range.end);
    }
    for (size_t head = 0; head < heads; ++head) {
      const size_t at = query * heads + head;
      const auto kv_head = static_cast<uint32_t>(head / shape.group);
      attention::AttentionRefArgs args;
      args.queries = queries.data() + at * shape.dim;
      args.query_stride = shape.dim;
      args.num_queries = 1;
      args.keys = rows.Keys(layer, kv_head).Slice(range.begin, end);
      args.values = rows.Values(layer, kv_head).Slice(range.begin, end);
      args.scale = scale;
      attention::AttentionRef(args, reference.outputs.data() + at * shape.dim, &reference.lse[at]);
    }
  }
  return reference;
}

double Distance(const gpu_worker::AttendQuery& query, const Reference& reference) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (query.outputs.size() != reference.outputs.size() ||
      query.lse.size() != reference.lse.size()) {
    return kInfinity;
  }
  double most = 0;
  const auto compare = [&](double got, double wanted) {
    if (got == wanted) return;
    const double difference = std::abs(got - wanted);
    if (!(difference <= most)) most = std::isnan(difference) ? kInfinity : difference;
  };
  for (size_t i = 0; i < query.lse.size(); ++i) compare(query.lse[i], reference.lse[i]);
  for (size_t i = 0; i < query.outputs.size(); ++i) {
    compare(query.outputs[i], reference.outputs[i]);
  }
  return most;
}

std::optional<std::string> CoverageFault(std::span<const float> output, float lse,
                                         base::PositionRange range) {
  // Every weight is 1 / e^lse, so a position that was counted c times shows as c / e^lse.
  const double total = std::exp(double{lse});
  if (!(std::abs(total - static_cast<double>(range.size())) < 1e-3 * (1 + range.size()))) {
    return absl::StrCat("e^lse is ", total, " for ", range.size(), " positions");
  }
  for (size_t position = 0; position < output.size(); ++position) {
    const double counted = output[position] * total;
    const bool wanted =
        static_cast<int64_t>(position) >= range.begin && static_cast<int64_t>(position) < range.end;
    if (std::abs(counted - (wanted ? 1 : 0)) < 1e-2) continue;
    return absl::StrCat("position ", position, " was counted ", counted, " times");
  }
  return std::nullopt;
}

std::optional<std::string> CoverageFault(const gpu_worker::AttendQuery& query) {
  const size_t dim = query.session->options().model.head_dim;
  for (size_t head = 0; head < query.lse.size(); ++head) {
    std::optional<std::string> fault = CoverageFault(
        std::span(query.outputs).subspan(head * dim, dim), query.lse[head], query.range);
    if (fault.has_value()) return absl::StrCat("query head ", head, ": ", *fault);
  }
  return std::nullopt;
}

}  // namespace sounder::tests
