// What the data plane's codec costs: an Attend of 32 query heads x 128 with signatures of 150
// tables of 10 bits, and its reply, for 1 and 8 items (sessions of a batch). Before the clock
// starts, what was encoded is decoded and compared.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstring>
#include <vector>

#include "common/base/check.h"
#include "common/base/philox.h"
#include "common/wire/codec.h"

namespace sounder::wire {
namespace {

constexpr uint32_t kKvHeads = 8;
constexpr uint32_t kGroup = 4;
constexpr uint32_t kQueryHeads = kKvHeads * kGroup;
constexpr uint32_t kDim = 128;
constexpr uint32_t kSignatureWords = (150 * 10 + 63) / 64;

// Random bytes that the spans point to.
struct Memory {
  memory::AlignedBuffer queries{kQueryHeads * kDim * sizeof(float)};
  memory::AlignedBuffer signatures{kQueryHeads * kSignatureWords * sizeof(uint64_t)};
  memory::AlignedBuffer floats{kQueryHeads * (kDim + 1) * sizeof(float)};
  memory::AlignedBuffer errors = memory::AlignedBuffer::Zeroed(kQueryHeads * sizeof(ErrorTerms));

  Memory() {
    base::PhiloxStream random(1, 0);
    for (std::byte& byte : queries.bytes()) byte = static_cast<std::byte>(random.Next32());
    for (std::byte& byte : signatures.bytes()) byte = static_cast<std::byte>(random.Next32());
    for (float& value : floats.As<float>()) value = static_cast<float>(random.NextUniform());
  }
};

AttendRequest RequestOf(const Memory& memory, base::DType dtype, int64_t items) {
  AttendRequest request;
  request.envelope.kind = MessageKind::kAttend;
  AttendItem item;
  item.session.id = {1, 2};
  item.kv_head_count = kKvHeads;
  item.group = kGroup;
  item.query_count = 1;
  item.head_dim = kDim;
  item.query_dtype = dtype;
  item.range = {0, 100000};
  item.scale = 0.088f;
  item.attention = AttentionKind::kLshTables;
  item.signature_words = kSignatureWords;
  item.queries = memory.queries.bytes().first(kQueryHeads * kDim * base::SizeOf(dtype));
  item.signatures = memory.signatures.As<uint64_t>();
  request.items.assign(static_cast<size_t>(items), item);
  return request;
}

AttendReply ReplyOf(const Memory& memory, int64_t items) {
  AttendReply reply;
  reply.envelope.kind = MessageKind::kAttendReply;
  AttendReplyItem item;
  item.query_count = 1;
  item.query_heads = kQueryHeads;
  item.head_dim = kDim;
  item.covered = {0, 100000};
  const std::span<const float> floats = memory.floats.As<float>();
  item.outputs = floats.first(kQueryHeads * kDim);
  item.lse = floats.subspan(kQueryHeads * kDim, kQueryHeads);
  item.error_terms = memory.errors.As<ErrorTerms>();
  reply.items.assign(static_cast<size_t>(items), item);
  return reply;
}

transport::Message CopyOf(const transport::Message& message) {
  return {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())};
}

void Report(benchmark::State& state, const transport::Message& message) {
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(WireBytes(message)));
  state.counters["wire_bytes"] = static_cast<double>(WireBytes(message));
}

template <typename Value>
void TimeEncode(benchmark::State& state, const Value& value) {
  for (auto _ : state) benchmark::DoNotOptimize(Encode(value));
  Report(state, Encode(value));
}

// The copy that a decoder consumes is made outside of the clock.
template <typename Value>
void TimeDecode(benchmark::State& state, const Value& value,
                absl::StatusOr<Value> (*decode)(transport::Message)) {
  const transport::Message message = Encode(value);
  {
    const absl::StatusOr<Value> decoded = decode(CopyOf(message));
    CHECK(decoded.ok() && decoded->items.size() == value.items.size());
    const transport::Message again = Encode(*decoded);
    CHECK(again.header == message.header && again.payload.size() == message.payload.size());
  }
  for (auto _ : state) {
    transport::Message copy = CopyOf(message);
    const auto start = std::chrono::steady_clock::now();
    absl::StatusOr<Value> decoded = decode(std::move(copy));
    const auto end = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(decoded);
    state.SetIterationTime(std::chrono::duration<double>(end - start).count());
  }
  Report(state, message);
}

void EncodeAttend(benchmark::State& state, base::DType dtype) {
  const Memory memory;
  TimeEncode(state, RequestOf(memory, dtype, state.range(0)));
}
void DecodeAttendOf(benchmark::State& state, base::DType dtype) {
  const Memory memory;
  TimeDecode(state, RequestOf(memory, dtype, state.range(0)), DecodeAttend);
}
void EncodeReply(benchmark::State& state) {
  const Memory memory;
  TimeEncode(state, ReplyOf(memory, state.range(0)));
}
void DecodeReplyOf(benchmark::State& state) {
  const Memory memory;
  TimeDecode(state, ReplyOf(memory, state.range(0)), DecodeAttendReply);
}

BENCHMARK_CAPTURE(EncodeAttend, f32, base::DType::kF32)->Arg(1)->Arg(8);
BENCHMARK_CAPTURE(DecodeAttendOf, f32, base::DType::kF32)->Arg(1)->Arg(8)->UseManualTime();
BENCHMARK_CAPTURE(EncodeAttend, bf16, base::DType::kBF16)->Arg(1)->Arg(8);
BENCHMARK_CAPTURE(DecodeAttendOf, bf16, base::DType::kBF16)->Arg(1)->Arg(8)->UseManualTime();
BENCHMARK(EncodeReply)->Arg(1)->Arg(8);
BENCHMARK(DecodeReplyOf)->Arg(1)->Arg(8)->UseManualTime();

}  // namespace
}  // namespace sounder::wire
