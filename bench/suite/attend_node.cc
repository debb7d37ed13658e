#include "bench/suite/attend_node.h"

#include <linux/perf_event.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <barrier>
#include <cmath>
#include <ctime>
#include <future>
#include <mutex>
#include <utility>

#include "bench/generator/synthetic.h"
#include "bench/suite/timing.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/kernels/signature.h"
#include "kv_node/server/attend_job.h"

namespace sounder::suite {
namespace {

constexpr int kSteps = 16;
constexpr wire::LshOptions kLsh = {10, 150, 2, wire::Projection::kHadamard, 1};

wire::SessionSpec SessionOf(const AttendNodeSpec& spec) {
  wire::SessionSpec session;
  session.session.id = {1, 1};
  session.model = {"synthetic", "", 1, spec.kv_heads, spec.kv_heads * spec.group, spec.dim, "", ""};
  session.seal_rows = spec.seal_rows;
  session.kv_head_count = spec.kv_heads;
  if (spec.attention == wire::AttentionKind::kLshTables) {
    session.lsh = kLsh;
    session.indexed_layers = {0};
  }
  return session;
}

std::vector<uint64_t> Sign(const AttendNodeSpec& spec, const std::vector<float>& queries) {
  lsh::LshParams params;
  params.bits_per_table = static_cast<int>(kLsh.bits_per_table);
  params.num_tables = static_cast<int>(kLsh.num_tables);
  params.seed = kLsh.seed;
  const auto sampler = kv_node::MakeSampler(
      {.kind = kv_node::SamplerKind::kLshTables, .lsh = params, .dim = static_cast<int>(spec.dim)});
  CHECK(sampler.ok()) << base::MessageOf(sampler.status());
  const size_t count = size_t{spec.kv_heads} * spec.group;
  std::vector<uint64_t> signatures(count * params.words());
  kernels::SignVectors(*(*sampler)->projection(), queries.data(), spec.dim, static_cast<int>(count),
                       signatures.data());
  return signatures;
}

}  // namespace

ThreadWork::ThreadWork() {
  perf_event_attr attributes = {};
  attributes.type = PERF_TYPE_HARDWARE;
  attributes.size = sizeof attributes;
  attributes.config = PERF_COUNT_HW_INSTRUCTIONS;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  counter_ = static_cast<int>(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
  CHECK(pthread_getcpuclockid(pthread_self(), &cpu_clock_) == 0);
}

ThreadWork::~ThreadWork() {
  if (counter_ >= 0) close(counter_);
}

uint64_t ThreadWork::Now() const {
  if (counter_ >= 0) {
    uint64_t instructions = 0;
    CHECK(read(counter_, &instructions, sizeof instructions) == sizeof instructions);
    return instructions;
  }
  timespec now;
  CHECK(clock_gettime(cpu_clock_, &now) == 0);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

AttendNode::AttendNode(const AttendNodeSpec& spec, std::span<const int> cpus)
    : spec_(spec),
      executor_(static_cast<int>(cpus.size()), "bench"),
      map_({.memory_bytes = uint64_t{16} << 30}, &executor_),
      probe_(registry_, map_),
      queue_(&executor_, {.threads = static_cast<int>(cpus.size())}, &probe_) {
  // Each thread waits for the others, so each makes one.
  struct Meeting {
    explicit Meeting(ptrdiff_t count) : all(count) {}
    std::mutex mutex;
    std::barrier<> all;
  };
  const auto meeting = std::make_shared<Meeting>(static_cast<ptrdiff_t>(cpus.size()) + 1);
  for (const int cpu : cpus) {
    executor_.Run([this, meeting, cpu] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(cpu, &set);
      CHECK(sched_setaffinity(0, sizeof set, &set) == 0);
      auto work = std::make_unique<ThreadWork>();
      {
        std::lock_guard lock(meeting->mutex);
        work_.push_back(std::move(work));
      }
      meeting->all.arrive_and_wait();
    });
  }
  meeting->all.arrive_and_wait();
  Fill();
}

void AttendNode::Fill() {
  const wire::SessionSpec spec = SessionOf(spec_);
  session_ = spec.session;
  CHECK(map_.Open(spec).ok());
  generator::Cache cache(
      {.dim = static_cast<int>(spec_.dim), .group = static_cast<int>(spec_.group), .n = spec_.n});
  // Every kv head holds the first's rows, in memory of its own: making them takes longer than all
  // that is measured.
  const generator::Head head = cache.MakeHead(0, 0);
  const int64_t row_bytes = int64_t{spec_.dim} * 2;
  const int64_t block = 4096;
  auto session = map_.Find(session_.id);
  CHECK(session.ok());
  uint64_t sequence = 0;
  for (int64_t begin = 0; begin < spec_.n; begin += block) {
    const int64_t rows = std::min(block, spec_.n - begin);
    memory::AlignedBuffer keys(rows * row_bytes * spec_.kv_heads);
    memory::AlignedBuffer values(rows * row_bytes * spec_.kv_heads);
    head.RowsAs(base::DType::kBF16, begin, begin + rows, keys.data(), values.data(), row_bytes);
    for (uint32_t copy = 1; copy < spec_.kv_heads; ++copy) {
      std::copy_n(keys.data(), rows * row_bytes, keys.data() + copy * rows * row_bytes);
      std::copy_n(values.data(), rows * row_bytes, values.data() + copy * rows * row_bytes);
    }
    wire::AppendItem item;
    item.session = session_;
    item.sequence = ++sequence;
    item.kv_head_count = spec_.kv_heads;
    item.first_position = begin;
    item.row_count = static_cast<uint32_t>(rows);
    item.head_dim = spec_.dim;
    item.dtype = base::DType::kBF16;
    item.keys = keys.bytes();
    item.values = values.bytes();
    (*session)->Append(item, base::kNever, [](const kv_node::AppendResult& result) {
      CHECK(result.status.ok()) << base::MessageOf(result.status);
    });
  }
  for (int step = 0; step < kSteps; ++step) {
    std::vector<float>& queries = queries_.emplace_back();
    const std::vector<float> of_head = head.Queries(step);
    for (uint32_t i = 0; i < spec_.kv_heads; ++i) {
      queries.insert(queries.end(), of_head.begin(), of_head.end());
    }
    signatures_.emplace_back();
    if (spec_.attention == wire::AttentionKind::kLshTables)
      signatures_.back() = Sign(spec_, queries);
  }
}

wire::AttendRequest AttendNode::NextRequest() {
  const size_t at = step_++ % kSteps;
  wire::AttendRequest request;
  request.envelope.kind = wire::MessageKind::kAttend;
  wire::AttendItem& item = request.items.emplace_back();
  item.session = session_;
  item.step = step_;
  item.kv_head_count = spec_.kv_heads;
  item.group = spec_.group;
  item.query_count = 1;
  item.head_dim = spec_.dim;
  item.range = {0, spec_.n};
  item.layout_position = spec_.n;
  item.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(spec_.dim)));
  item.attention = spec_.attention;
  item.signatures = signatures_[at];
  item.signature_words = static_cast<uint32_t>(signatures_[at].size() / item.query_heads());
  item.queries = std::as_bytes(std::span(queries_[at]));
  return request;
}

void AttendNode::Attend() {
  std::promise<float> answered;
  wire::AttendRequest request = NextRequest();
  const base::Time now = executor_.clock().Now();
  kv_node::AttendQueue::Refused refused;
  const uint64_t number = queue_.Offer(1, request, now, base::kNever, &refused);
  CHECK(number != 0) << base::MessageOf(refused.status);
  const auto job = std::make_shared<kv_node::AttendJob>(
      std::move(request), now, number, &map_, nullptr, &executor_, &queue_, &scratches_,
      [&answered](const wire::AttendReply& reply) {
        CHECK(reply.items[0].status.ok()) << base::MessageOf(reply.items[0].status);
        answered.set_value(reply.items[0].outputs[0]);
      });
  executor_.Run([job] { job->Start(); });
  Use(answered.get_future().get());
}

std::vector<uint64_t> AttendNode::Work() const {
  std::vector<uint64_t> work;
  for (const auto& thread : work_) work.push_back(thread->Now());
  return work;
}

}  // namespace sounder::suite
