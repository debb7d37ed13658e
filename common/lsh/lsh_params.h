// What a session's hash tables look like. A value; part of the session's identity: worker and nodes
// must hold the same parameters or their signatures do not match.
#ifndef SOUNDER_COMMON_LSH_LSH_PARAMS_H_
#define SOUNDER_COMMON_LSH_LSH_PARAMS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"

namespace sounder::lsh {

// How the random directions are drawn.
enum class ProjectionKind : uint8_t {
  kGaussian = 0,  // dense N(0, 1) directions, as published; 10-20 times the work of the other
  kHadamard = 1,  // structured: sign flips and Walsh-Hadamard transforms
};

std::string_view NameOf(ProjectionKind kind);                              // "gaussian", "hadamard"
std::optional<ProjectionKind> ParseProjectionKind(std::string_view name);  // exactly those

// In formulas: bits_per_table is K, num_tables is L.
struct LshParams {
  int bits_per_table = 10;  // 1..16. More bits: fewer rows collide in each table
  int num_tables = 150;     // 1..1024. More tables: more rows read, 2 bytes per row and table
  int min_collisions = 2;   // 1..num_tables, <= 255. A row colliding in so many is a candidate
  // 0 or 1. Buckets whose code differs from the query's in at most so many bits are looked into (Lv
  // et al., "Multi-probe LSH", VLDB 2007): more ids walked, fewer tables kept. Signatures do not
  // depend on it.
  int probe_distance = 0;
  ProjectionKind projection = ProjectionKind::kHadamard;
  uint64_t seed = 1;  // of the random directions

  int bits() const { return bits_per_table * num_tables; }
  // 64-bit words of one signature.
  int words() const { return (bits() + 63) / 64; }

  // InvalidArgument, naming the field, what it is and what it may be. dim: of keys and queries.
  absl::Status Validate(int dim) const;

  friend bool operator==(const LshParams&, const LshParams&) = default;
};

}  // namespace sounder::lsh

#endif  // SOUNDER_COMMON_LSH_LSH_PARAMS_H_
