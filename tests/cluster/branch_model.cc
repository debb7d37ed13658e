#include "tests/cluster/branch_model.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::tests {
namespace {

// Runs of one version without an explicit mark inside.
std::vector<base::PositionRange> Runs(const BranchContent& content) {
  std::vector<base::PositionRange> runs;
  for (base::Position at = 0; at < content.end(); ++at) {
    const bool joins =
        at > 0 && !content.marks.contains(at) &&
        content.versions[static_cast<size_t>(at)] == content.versions[static_cast<size_t>(at) - 1];
    if (!joins) runs.push_back({at, at});
    runs.back().end = at + 1;
  }
  return runs;
}

gpu_worker::AppendRows RowsOf(const RowVersions& rows, base::PositionRange range, int version,
                              bool seal, std::vector<int32_t>* tokens) {
  gpu_worker::AppendRows append = rows.Of(version).Range(range, seal);
  for (base::Position at = range.begin; at < range.end; ++at) {
    tokens->push_back(RowVersions::Token(at, version));
  }
  append.tokens = *tokens;
  return append;
}

std::string RowsFault(const RowVersions& rows, const BranchContent& content, uint32_t layer,
                      base::PositionRange range, const gpu_worker::RemoteRows& got) {
  const size_t row_bytes = rows.shape().dim * SizeOf(rows.shape().dtype);
  for (uint32_t head = 0; head < rows.shape().kv_heads; ++head) {
    for (base::Position at = range.begin; at < range.end; ++at) {
      const TestRows& wanted = rows.Of(content.versions[static_cast<size_t>(at)]);
      const size_t offset = (static_cast<size_t>(head) * static_cast<size_t>(range.size()) +
                             static_cast<size_t>(at - range.begin)) *
                            row_bytes;
      if (std::memcmp(got.keys.data() + offset, wanted.Keys(layer, head).Row(at), row_bytes) != 0 ||
          std::memcmp(got.values.data() + offset, wanted.Values(layer, head).Row(at), row_bytes) !=
              0) {
        return absl::StrCat("layer ", layer, " head ", head, ": wrong row at position ", at);
      }
    }
  }
  return "";
}

TestRows Mixed(const RowVersions& rows, const BranchContent& content) {
  const auto at = [&](base::Position position) -> const TestRows& {
    return rows.Of(content.versions[static_cast<size_t>(position)]);
  };
  return TestRows(
      rows.shape(), content.end(),
      [&](uint32_t layer, uint32_t head, base::Position position, int column) {
        return at(position).Keys(layer, head).At(position, column);
      },
      [&](uint32_t layer, uint32_t head, base::Position position, int column) {
        return at(position).Values(layer, head).At(position, column);
      });
}

template <typename T>
bool SameBits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The same question to both.
std::string DifferenceFault(gpu_worker::KvClient& client, uint32_t layer,
                            const gpu_worker::AttendQuery& asked,
                            gpu_worker::RemoteSession* scratch) {
  std::vector<gpu_worker::AttendQuery> queries{asked, asked};
  queries[1].session = scratch;
  client.StartAttend(layer, queries)->Wait();
  for (const gpu_worker::AttendQuery& query : queries) {
    if (!query.status.ok()) return query.status.ToString();
  }
  if (SameBits(queries[0].outputs, queries[1].outputs) &&
      SameBits(queries[0].lse, queries[1].lse) &&
      SameBits(queries[0].head_mass, queries[1].head_mass) &&
      queries[0].rows_read == queries[1].rows_read &&
      queries[0].rows_exact == queries[1].rows_exact) {
    return "";
  }
  return absl::StrCat("attention kind ", static_cast<int>(asked.attention), " to [",
                      asked.range.begin, ", ", asked.range.end, ") laid out at ",
                      asked.layout_position, " differs from a session built from scratch");
}

}  // namespace

std::string ReadBackFault(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                          const RowVersions& rows, const BranchContent& content, uint32_t layer,
                          base::PositionRange range) {
  const auto fetched = client.Fetch(session, layer, range);
  if (!fetched.ok()) return fetched.status().ToString();
  if (std::string fault = RowsFault(rows, content, layer, range, *fetched); !fault.empty()) {
    return fault;
  }
  const auto tokens = client.FetchTokens(session, {0, content.end()});
  if (!tokens.ok()) return tokens.status().ToString();
  for (base::Position at = 0; at < content.end(); ++at) {
    const int32_t wanted = RowVersions::Token(at, content.versions[static_cast<size_t>(at)]);
    if ((*tokens)[static_cast<size_t>(at)] != wanted) {
      return absl::StrCat("token ", (*tokens)[static_cast<size_t>(at)], " at position ", at,
                          ", not ", wanted);
    }
  }
  return "";
}

absl::StatusOr<double> ExactDistance(gpu_worker::KvClient& client,
                                     gpu_worker::RemoteSession* session, const RowVersions& rows,
                                     const BranchContent& content, uint32_t layer,
                                     base::PositionRange range, std::span<const float> queries) {
  std::vector<gpu_worker::AttendQuery> asked{ExactQuery(session, queries, range)};
  client.StartAttend(layer, asked)->Wait();
  RETURN_IF_ERROR(asked[0].status);
  return Distance(asked[0],
                  ReferenceOf(Mixed(rows, content), layer, queries, range, asked[0].scale));
}

RowVersions::RowVersions(const Shape& shape, int64_t positions, int versions, uint64_t seed)
    : shape_(shape) {
  for (int version = 0; version < versions; ++version) {
    rows_.push_back(
        TestRows::Gaussian(shape, positions, seed * 100 + static_cast<uint64_t>(version)));
  }
}

void BranchContent::Append(int64_t rows, int version, bool seal) {
  versions.insert(versions.end(), static_cast<size_t>(rows), version);
  if (seal && rows > 0) marks.insert(end());
}

void BranchContent::Truncate(base::Position position) {
  versions.resize(static_cast<size_t>(position));
  marks.erase(marks.upper_bound(position), marks.end());
}

absl::Status AppendVersion(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                           const RowVersions& rows, int version, int64_t count, bool seal,
                           BranchContent* content) {
  std::vector<int32_t> tokens;
  const base::PositionRange range{content->end(), content->end() + count};
  content->Append(count, version, seal);
  return client.Append(session, RowsOf(rows, range, version, seal, &tokens));
}

absl::Status AppendContent(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                           const RowVersions& rows, const BranchContent& content,
                           base::Position begin) {
  for (base::PositionRange run : Runs(content)) {
    run.begin = std::max(run.begin, begin);
    if (run.begin >= run.end) continue;
    std::vector<int32_t> tokens;
    const int version = content.versions[static_cast<size_t>(run.begin)];
    RETURN_IF_ERROR(client.Append(
        session, RowsOf(rows, run, version, content.marks.contains(run.end), &tokens)));
  }
  return absl::OkStatus();
}

std::shared_ptr<gpu_worker::RemoteSession> BuildFromScratch(
    gpu_worker::KvClient& client, const gpu_worker::RemoteSessionOptions& options,
    const RowVersions& rows, const BranchContent& content) {
  auto session = client.Open(options);
  CHECK(session.ok()) << session.status().ToString();
  const absl::Status appended = AppendContent(client, session->get(), rows, content, 0);
  CHECK(appended.ok()) << appended.ToString();
  return *std::move(session);
}

std::string BranchFault(gpu_worker::KvClient& client, gpu_worker::RemoteSession* session,
                        const RowVersions& rows, const BranchContent& content,
                        gpu_worker::RemoteSession* scratch, base::PhiloxStream& random) {
  const Shape& shape = rows.shape();
  const uint32_t layer = random.NextBelow(shape.layers);
  const auto limit = static_cast<uint32_t>(content.end()) + 1;
  const base::Position a = random.NextBelow(limit);
  const base::Position b = random.NextBelow(limit);
  const base::PositionRange part{std::min(a, b), std::max(a, b)};
  if (std::string fault = ReadBackFault(client, session, rows, content, layer, part);
      !fault.empty()) {
    return fault;
  }
  const std::vector<float> queries = GaussianQueries(shape, 1, random.Next64());
  for (const base::PositionRange range : {base::PositionRange{0, content.end()}, part}) {
    const absl::StatusOr<double> distance =
        ExactDistance(client, session, rows, content, layer, range, queries);
    if (!distance.ok()) return distance.status().ToString();
    if (!(*distance < 2e-5)) return absl::StrCat("exact attention is wrong by ", *distance);
    if (scratch == nullptr) continue;
    gpu_worker::AttendQuery query = ExactQuery(session, queries, range);
    query.layout_position = random.NextBelow(limit + 20);
    if (std::string fault = DifferenceFault(client, layer, query, scratch); !fault.empty()) {
      return fault;
    }
    std::vector<uint64_t> signatures;
    if (!SampleByIndex(&query, &signatures)) continue;
    query.sample_key = random.Next64();
    query.rows_budget = 0.3f;
    query.layout_position = range.end;
    if (std::string fault = DifferenceFault(client, layer, query, scratch); !fault.empty()) {
      return fault;
    }
  }
  return "";
}

}  // namespace sounder::tests
