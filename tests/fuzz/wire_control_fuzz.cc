// Structs of the control plane: a flat Cap'n Proto message, read as each of them in turn.
#include <capnp/message.h>
#include <capnp/serialize.h>

#include <cstring>
#include <vector>

#include "common/base/limits.h"
#include "common/wire/codec_parts.h"
#include "common/wire/control_codec.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

namespace sounder::fuzz {
namespace {

void CheckValue(const wire::SessionSpec& spec) {
  const wire::ModelIdentity& model = spec.model;
  CHECK(spec.protocol_version == wire::kProtocolVersion && !spec.session.id.empty());
  for (const std::string* name :
       {&model.name, &model.weights_digest, &model.rope_digest, &model.adapter, &model.kv_layout}) {
    CHECK(name->size() <= base::kMaxNameBytes);
  }
  CHECK(model.layers > 0 && model.layers <= base::kMaxLayers);
  CHECK(model.kv_heads > 0 && model.kv_heads <= base::kMaxKvHeads);
  CHECK(model.query_heads > 0 && model.query_heads % model.kv_heads == 0);
  CHECK(model.query_heads / model.kv_heads <= base::kMaxGroup);
  CHECK(model.head_dim > 0 && model.head_dim % 8 == 0 && model.head_dim <= base::kMaxHeadDim);
  CHECK(spec.kv_head_count > 0);
  CHECK(uint64_t{spec.kv_head_begin} + spec.kv_head_count <= model.kv_heads);
  CHECK(spec.dtype <= base::DType::kBF16 && spec.row_format <= wire::RowFormat::kInt8);
  CHECK(spec.durability <= wire::Durability::kDisk && spec.seal_rows <= base::kMaxSegmentRows);
  CHECK(spec.lsh.projection <= wire::Projection::kGaussian);
  CHECK(spec.lsh.num_tables <= base::kMaxTables);
  CHECK(spec.lsh.num_tables == 0 || spec.sketch.bits == 0) << "two kinds of index";
  if (spec.lsh.num_tables > 0) {
    CHECK(spec.lsh.bits_per_table > 0 && spec.lsh.bits_per_table <= base::kMaxBitsPerTable);
    CHECK(spec.lsh.min_collisions > 0 && spec.lsh.min_collisions <= spec.lsh.num_tables);
  }
  CHECK(spec.placement.shard_rows >= 0 && spec.placement.shard_rows <= base::kMaxPositions);
  CHECK(spec.indexed_layers.size() <= base::kMaxLayers);
  for (const uint32_t layer : spec.indexed_layers) CHECK(layer < model.layers);
}
void CheckValue(const wire::SessionInfo& info) {
  CheckValue(info.spec);
  CHECK(info.head_ends.size() <= base::kMaxKvHeads);
}
void CheckValue(const wire::NodeStatus& status) {
  CHECK(status.connections.size() <= base::kMaxConnections);
}

// What was accepted is allowed, and says the same when it is written and read again.
template <typename Root, typename Value>
bool RunValue(const absl::StatusOr<Value>& value) {
  if (!value.ok()) {
    CheckRefusal(value.status(),
                 {absl::StatusCode::kInvalidArgument, absl::StatusCode::kFailedPrecondition});
    return false;
  }
  CheckValue(*value);
  capnp::MallocMessageBuilder second;
  wire::Put(*value, second.initRoot<Root>());
  const absl::StatusOr<Value> again = wire::Get(second.getRoot<Root>().asReader());
  CHECK(again.ok()) << again.status().ToString();
  CHECK(wire::Describe(*value) == wire::Describe(*again))
      << wire::Describe(*value) << "\nand again:\n"
      << wire::Describe(*again);
  return true;
}

// No bytes are refused as a status, so this says nothing about the input.
void RunStatus(const absl::Status& status) {
  CHECK(status.message().size() <= wire::kMaxStatusMessage);
  capnp::MallocMessageBuilder second;
  wire::Put(status, second.initRoot<proto::Status>());
  CHECK(wire::Get(second.getRoot<proto::Status>().asReader()) == status) << status.ToString();
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  std::vector<capnp::word> words(input.size() / sizeof(capnp::word));
  if (words.empty()) return false;
  std::memcpy(static_cast<void*>(words.data()), input.data(), words.size() * sizeof(capnp::word));
  bool accepted = false;
  const auto with_reader = [&](auto read) {
    try {
      capnp::FlatArrayMessageReader reader(kj::arrayPtr(words.data(), words.size()));
      accepted = read(reader) || accepted;
    } catch (const kj::Exception&) {
      // Malformed as a message; the RPC system catches it in the same way.
    }
  };
  with_reader([](capnp::MessageReader& reader) {
    return RunValue<proto::SessionSpec>(wire::Get(reader.getRoot<proto::SessionSpec>()));
  });
  with_reader([](capnp::MessageReader& reader) {
    return RunValue<proto::SessionInfo>(wire::Get(reader.getRoot<proto::SessionInfo>()));
  });
  with_reader([](capnp::MessageReader& reader) {
    return RunValue<proto::NodeStatus>(wire::Get(reader.getRoot<proto::NodeStatus>()));
  });
  with_reader([](capnp::MessageReader& reader) {
    RunStatus(wire::Get(reader.getRoot<proto::Status>()));
    return false;
  });
  return accepted;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateWords(data, size, max_size, seed);
}
