// A node in virtual time: what its codecs accept reaches its sessions. The input is a sequence of
// operations with fields that are mostly right for the sessions there are: sessions are opened,
// appended to, attended to, read back, forked, truncated, adopted and closed, by messages of both
// planes, and time passes. Every request is answered once; answers fit their requests; the same
// question twice has the same answer, whatever comes in between; and when all is closed, no memory
// is held.
#include <capnp/message.h>

#include <cmath>
#include <map>
#include <memory>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/config/logging.h"
#include "common/wire/codec_parts.h"
#include "common/wire/control_codec.h"
#include "kv_node/server/node_service.h"
#include "tests/common/wire/wire_values.h"
#include "tests/fuzz/target.h"
#include "tests/fuzz/values.h"
#include "tests/kv_node/server/server_driver.h"

namespace sounder::fuzz {
namespace {

constexpr size_t kMaxOperations = 40;
constexpr size_t kMaxTensorBytes = 64 * 1024;
constexpr float kLargest = 2;  // of the elements of rows

// Whatever there is of the session: defaults where it does not exist.
wire::SessionInfo InfoOf(const kv_node::SessionMap& map, const base::SessionId& id) {
  const auto session = map.Find(id);
  return session.ok() ? (*session)->Info() : wire::SessionInfo();
}

// Elements in [-kLargest, kLargest].
std::vector<std::byte> Elements(base::DType dtype, size_t count, uint32_t seed) {
  std::vector<std::byte> bytes(count * base::SizeOf(dtype));
  for (size_t i = 0; i < count; ++i) {
    const auto step = static_cast<float>((seed + 7 * i + i / 5) % 17);
    base::StoreElement(step / 4 - kLargest, bytes.data() + i * base::SizeOf(dtype), dtype);
  }
  return bytes;
}

class Node {
 public:
  explicit Node(Values& values) : values_(values) {}

  void Operate() {
    switch (values_.Below(11)) {
      case 0:
        return Open();
      case 1:
      case 2:
        return Append();
      case 3:
      case 4:
        return Attend();
      case 5:
        return RunFor(std::chrono::milliseconds(1 + values_.Raw<uint16_t>()));
      case 6:
        return Close();
      case 7:
        return Ask();
      case 8:
        return Branch();
      case 9:
        return Fetch();
      default:
        if (!questions_.empty()) Repeat(questions_[values_.Below(questions_.size())], true);
    }
  }

  // Ends all, and checks what came of it. True if rows were attended to.
  bool Finish() {
    RunFor(std::chrono::minutes(2));  // nobody waits that long
    driver_.map.CloseAll(absl::UnavailableError("over"));
    while (executor_.Step()) {
    }
    std::map<uint64_t, transport::Message> answers;
    for (transport::Message& answer : driver_.transport.Take()) {
      const auto envelope = wire::DecodeEnvelope(answer);
      CHECK(envelope.ok()) << envelope.status().ToString();
      CHECK(answers.emplace(envelope->ticket, std::move(answer)).second) << "answered twice";
    }
    for (const auto& [ticket, attend] : attends_) CheckAttend(attend, answers.extract(ticket));
    for (const auto& [ticket, fetch] : fetches_) CheckFetch(fetch, answers.extract(ticket));
    for (const uint64_t ticket : appends_) {
      const auto answer = answers.extract(ticket);
      CHECK(!answer.empty()) << "not answered";
      CHECK(wire::DecodeAppendReply(wire::CopyOf(answer.mapped())).ok());
    }
    for (const uint64_t ticket : pings_) {
      const auto answer = answers.extract(ticket);
      CHECK(!answer.empty()) << "not answered";
      CHECK(wire::DecodeEnvelope(answer.mapped())->kind == wire::MessageKind::kPong);
    }
    CHECK(answers.empty()) << "answers nobody asked for";
    CHECK(replies_ == calls_) << "control calls " << calls_ << ", answered " << replies_;
    CHECK(driver_.map.budget().used() == 0) << driver_.map.budget().used() << " bytes held";
    return attended_;
  }

 private:
  // A question may be asked more than once. It goes by the ticket of its first asking.
  struct Question {
    uint64_t ticket = 0;
    transport::Message message;
  };
  template <typename Item>
  struct Asked {
    Item item;  // without tensors
    uint64_t question = 0;
    bool later = false;  // other operations may have come before it
  };

  base::SessionId TakeId() { return {1, 1 + values_.Below(4)}; }
  // Mostly as the session's writer has it.
  wire::SessionRef TakeSession() {
    const base::SessionId id = TakeId();
    if (values_.Below(8) == 7) return {id, values_.Below(4)};
    const auto session = driver_.map.Find(id);
    return {id, session.ok() ? (*session)->epoch() : 0};
  }
  uint32_t TakeTenant() { return values_.Below(64) / 63; }
  auto Answered() {
    ++calls_;
    return [this](const auto&) { ++replies_; };
  }
  void RunFor(base::Duration duration) { executor_.RunFor(duration); }

  void Open() {
    wire::SessionSpec spec = kv_node::SessionDriver::Spec(1);
    spec.session = TakeSession();
    spec.dtype = static_cast<base::DType>(values_.Below(3));
    spec.model.layers = 1 + values_.Below(2);
    spec.model.head_dim = 8 * (1 + values_.Below(3));
    spec.model.query_heads = 2 * (1 + values_.Below(3));
    spec.seal_rows = values_.Number32(16, 40);
    spec.min_indexed_rows = values_.Number32(8, 20);
    spec.indexed_layers.resize(values_.Below(3));
    for (uint32_t& layer : spec.indexed_layers) layer = values_.Number32(0, 2);
    spec.kv_head_begin = values_.Below(2);
    spec.kv_head_count = values_.Number32(1, 2);
    spec.ttl_seconds = values_.Below(20);
    const uint32_t index = values_.Below(4);
    if (index % 3 != 0) spec.lsh = {};
    if (index == 3) spec.lsh.num_tables = 0;
    if (index == 1) spec.sketch = {values_.Number32(64, 1), 1};
    spec.row_format = static_cast<wire::RowFormat>(values_.Below(2));
    capnp::MallocMessageBuilder message;
    wire::Put(spec, message.initRoot<proto::SessionSpec>());
    const auto taken = wire::Get(message.getRoot<proto::SessionSpec>().asReader());
    if (!taken.ok()) return;
    if (!driver_.map.Find(spec.session.id).ok()) ++made_[spec.session.id];
    service_.Open(*taken, Answered());
  }

  void Append() {
    wire::AppendItem item;
    item.session = TakeSession();
    const wire::SessionInfo info = InfoOf(driver_.map, item.session.id);
    item.sequence = info.applied_sequence + values_.Number(1, 2);
    item.layer = values_.Number32(0, 2);
    item.kv_head_begin = info.spec.kv_head_begin + values_.Below(40) / 39;
    item.kv_head_count = values_.Below(8) > 0 ? info.spec.kv_head_count : values_.Number32(0, 3);
    item.head_dim = info.spec.model.head_dim;
    item.dtype = info.spec.dtype;
    item.first_position = values_.Bool() ? static_cast<int64_t>(values_.Number(0, 100))
                                         : std::max<int64_t>(info.end_position, 0);
    item.row_count = values_.Number32(1, 60);
    item.seal_after = values_.Bool();
    const unsigned __int128 elements =
        static_cast<unsigned __int128>(item.kv_head_count) * item.row_count * item.head_dim;
    if (elements > kMaxTensorBytes / 4 || item.row_count > kMaxTensorBytes / 4) return;
    const std::vector<std::byte> rows =
        Elements(item.dtype, static_cast<size_t>(elements), values_.Raw<uint8_t>());
    item.keys = item.values = rows;
    std::vector<int32_t> tokens(values_.Bool() ? item.row_count : 0);
    item.tokens = tokens;
    wire::AppendRequest request;
    request.envelope = TakeEnvelope(wire::MessageKind::kAppend);
    request.items = {item};
    appends_.push_back(request.envelope.ticket);
    driver_.server.OnMessage(1, wire::Encode(request));
  }

  void Attend() {
    wire::AttendItem item;
    item.session = TakeSession();
    const wire::SessionInfo info = InfoOf(driver_.map, item.session.id);
    const wire::SessionSpec& spec = info.spec;
    item.sequence = values_.Bool() ? values_.Number(0, 4) : info.applied_sequence;
    item.layer = values_.Number32(0, 2);
    item.kv_head_begin = spec.kv_head_begin;
    item.kv_head_count = values_.Below(8) > 0 ? spec.kv_head_count : values_.Number32(0, 3);
    const uint32_t group = spec.model.query_heads / std::max(spec.model.kv_heads, 1u);
    item.group = values_.Below(8) > 0 ? group : values_.Number32(1, 3);
    item.query_count = values_.Number32(1, 4);
    item.head_dim = spec.model.head_dim;
    item.query_dtype = static_cast<base::DType>(values_.Below(3));
    item.range.begin = std::max<int64_t>(info.first_position, 0) + values_.Below(20);
    item.range.end = values_.Bool() ? static_cast<int64_t>(values_.Number(0, 120))
                                    : std::max(info.end_position, item.range.begin);
    item.layout_position =
        values_.Bool() ? static_cast<int64_t>(values_.Number(0, 120)) : info.end_position;
    item.causal_from = static_cast<int64_t>(values_.Number(0, 120) - 1);
    item.scale = values_.Below(4) > 0 ? 0.25f : values_.Raw<float>();
    item.attention =
        values_.Bool() ? spec.index() : static_cast<wire::AttentionKind>(values_.Below(3));
    item.sample_key = values_.Raw<uint64_t>();
    item.rows_budget = static_cast<float>(values_.Below(5)) / 4;
    item.rows_cap = values_.Number(0, 30);
    item.want_error_terms = values_.Bool();
    item.row_format = item.attention == wire::AttentionKind::kExact ? wire::RowFormat::kAsAppended
                                                                    : spec.row_format;
    const bool tables = item.attention == wire::AttentionKind::kLshTables;
    item.signature_words = tables ? (spec.lsh.bits_per_table * spec.lsh.num_tables + 63) / 64 : 0;
    if (values_.Below(16) == 15) item.signature_words = values_.Number32(0, 3);
    Ask(item);
  }

  // Asks, and asks the same again.
  void Ask(wire::AttendItem item) {
    const unsigned __int128 rows =
        static_cast<unsigned __int128>(item.query_count) * item.query_heads();
    const uint64_t per_row =
        1 + std::max<uint64_t>(item.head_dim, uint64_t{2} * item.signature_words);
    if (rows * per_row > kMaxTensorBytes / 4 || item.kv_head_count > kMaxTensorBytes / 4) return;
    const auto count = static_cast<size_t>(rows);
    const std::vector<std::byte> queries =
        Elements(item.query_dtype, count * item.head_dim, values_.Raw<uint8_t>());
    const std::vector<uint64_t> signatures(count * item.signature_words, values_.Raw<uint64_t>());
    const std::vector<float> lse_hints(values_.Bool() ? count : 0, 1.0f);
    const bool hinted = values_.Bool();
    const wire::HeadHint hint{static_cast<float>(values_.Below(9)) / 8,
                              static_cast<float>(values_.Below(9)) / 8};
    const std::vector<wire::HeadHint> head_hints(hinted ? item.kv_head_count : 0, hint);
    const wire::AttendItem plain = item;
    item.queries = queries;
    item.signatures = signatures;
    item.lse_hints = lse_hints;
    item.head_hints = head_hints;
    wire::AttendRequest request;
    request.envelope = TakeEnvelope(wire::MessageKind::kAttend);
    request.items = {item};
    attends_[request.envelope.ticket] = {plain, request.envelope.ticket};
    AskTwice({request.envelope.ticket, wire::Encode(request)});
  }

  void AskTwice(Question question) {
    driver_.server.OnMessage(1, wire::CopyOf(question.message));
    Repeat(question, false);
    questions_.push_back(std::move(question));
  }

  void Repeat(const Question& question, bool later) {
    transport::Message message = wire::CopyOf(question.message);
    wire::PayloadShape shape;
    wire::Envelope envelope = wire::DecodeHeader(message.header, &shape).value();
    envelope.ticket = ++ticket_;
    message.header = wire::EncodeHeader(envelope, shape);
    if (const auto attend = attends_.find(question.ticket); attend != attends_.end()) {
      attends_[ticket_] = {attend->second.item, question.ticket, later};
    } else {
      fetches_[ticket_] = {fetches_.at(question.ticket).item, question.ticket, later};
    }
    driver_.server.OnMessage(1, std::move(message));
  }

  void Close() {
    const wire::SessionRef session = TakeSession();
    const uint64_t applied = InfoOf(driver_.map, session.id).applied_sequence;
    const uint64_t sequence = values_.Bool() ? applied : values_.Number(0, 6);
    service_.Close({session, sequence, TakeTenant()}, Answered());
  }

  // What another session, an earlier end and another writer begin with.
  void Branch() {
    const wire::SessionRef session = TakeSession();
    const wire::SessionInfo info = InfoOf(driver_.map, session.id);
    const uint32_t tenant = TakeTenant();
    const auto end = static_cast<uint64_t>(std::max<int64_t>(info.end_position, 0));
    const auto position = static_cast<int64_t>(values_.Number(0, end + 2));
    switch (values_.Below(3)) {
      case 0: {
        const uint64_t sequence = values_.Bool() ? values_.Number(0, 4) : info.applied_sequence;
        const base::SessionId child = TakeId();
        ++made_[child];
        return service_.Fork(
            {{session, sequence, tenant}, position, {child, values_.Below(2)}, values_.Below(20)},
            Answered());
      }
      case 1:
        return service_.Truncate({session, info.applied_sequence + values_.Number(1, 2), tenant},
                                 position, Answered());
      default:
        return service_.Adopt(
            {{session.id, session.epoch + values_.Number(1, 2)}, tenant, 1 + values_.Below(2)},
            Answered());
    }
  }

  // Asks, and asks the same again.
  void Fetch() {
    wire::FetchItem item;
    item.session = TakeSession();
    const wire::SessionInfo info = InfoOf(driver_.map, item.session.id);
    const wire::SessionSpec& spec = info.spec;
    item.sequence = values_.Bool() ? values_.Number(0, 4) : info.applied_sequence;
    item.layer = values_.Number32(0, 2);
    item.kv_head_begin = spec.kv_head_begin;
    item.kv_head_count = values_.Below(8) > 0 ? spec.kv_head_count : values_.Number32(0, 3);
    item.range.begin = std::max<int64_t>(info.first_position, 0) + values_.Below(20);
    item.range.end = values_.Bool() ? static_cast<int64_t>(values_.Number(0, 120))
                                    : std::max(info.end_position, item.range.begin);
    item.head_dim = values_.Below(32) < 31 ? spec.model.head_dim : 8;
    item.dtype = values_.Below(32) < 31 ? spec.dtype : base::DType::kF32;
    item.want_tokens = values_.Bool();
    wire::FetchRequest request;
    request.envelope = TakeEnvelope(wire::MessageKind::kFetch);
    request.items = {item};
    fetches_[request.envelope.ticket] = {item, request.envelope.ticket};
    AskTwice({request.envelope.ticket, wire::Encode(request)});
  }

  // Calls that change no rows.
  void Ask() {
    const wire::SessionRef session = TakeSession();
    switch (values_.Below(6)) {
      case 0:
        return service_.Describe({session, TakeTenant(), values_.Bool()}, Answered());
      case 1:
        return service_.List(Answered());
      case 2:
        return service_.Status(Answered());
      case 3:
        return service_.Drain(values_.Bool(), Answered());
      case 4:
        return Ping();
      default:
        driver_.map.CloseExpired();
    }
  }

  void Ping() {
    const wire::Envelope envelope = TakeEnvelope(wire::MessageKind::kPing);
    pings_.push_back(envelope.ticket);
    driver_.server.OnMessage(1, wire::EncodeBare(envelope));
  }

  wire::Envelope TakeEnvelope(wire::MessageKind kind) {
    wire::Envelope envelope;
    envelope.kind = kind;
    envelope.ticket = ++ticket_;
    envelope.deadline_us = values_.Below(3) * 1000;
    envelope.tenant = TakeTenant();
    return envelope;
  }

  // Whether the one item that was asked for was given, and not refused.
  template <typename Reply>
  static bool Given(const absl::StatusOr<Reply>& reply) {
    CHECK(reply.ok()) << reply.status().ToString();
    if (!reply->envelope.status.ok()) return false;
    CHECK(reply->items.size() == 1);
    return reply->items.front().status.ok();
  }

  void CheckAttend(const Asked<wire::AttendItem>& attend,
                   std::map<uint64_t, transport::Message>::node_type answer) {
    CHECK(!answer.empty()) << "not answered";
    auto reply = wire::DecodeAttendReply(std::move(answer.mapped()));
    if (!Given(reply)) return;
    const wire::AttendReplyItem& item = reply->items.front();
    CHECK(item.query_count == attend.item.query_count);
    CHECK(item.query_heads == attend.item.query_heads() && item.head_dim == attend.item.head_dim);
    CHECK(item.covered == attend.item.range);
    CHECK(item.rows_exact <= item.rows_read && item.rows_read <= item.rows_visible);
    // Answers are averages of values, whatever the weights.
    for (const float value : item.outputs) CHECK(std::abs(value) <= 1.05f * kLargest) << value;
    for (const float lse : item.lse) CHECK(!std::isnan(lse) && lse < INFINITY) << lse;
    attended_ = attended_ || item.rows_visible > 0;
    reply->envelope = {};
    CheckSame(attend, wire::Describe(*reply));
  }

  void CheckFetch(const Asked<wire::FetchItem>& fetch,
                  std::map<uint64_t, transport::Message>::node_type answer) {
    CHECK(!answer.empty()) << "not answered";
    auto reply = wire::DecodeFetchReply(std::move(answer.mapped()));
    if (!Given(reply)) return;
    const wire::FetchReplyItem& item = reply->items.front();
    CHECK(item.kv_head_count == fetch.item.kv_head_count);
    CHECK(int64_t{item.row_count} == fetch.item.range.size());
    CHECK(item.tokens.size() == (fetch.item.want_tokens ? item.row_count : 0));
    // As Append sends them.
    CHECK(std::equal(item.keys.begin(), item.keys.end(), item.values.begin(), item.values.end()));
    const size_t element = base::SizeOf(item.dtype);
    for (size_t at = 0; at < item.keys.size(); at += element) {
      const float value = base::LoadElement(item.keys.data() + at, item.dtype);
      CHECK(std::abs(value) <= kLargest) << value;
    }
    if (item.kv_head_count > 0 && item.row_count > 0) {
      CHECK(item.head_dim == fetch.item.head_dim && item.dtype == fetch.item.dtype);
    }
    reply->envelope = {};
    CheckSame(fetch, wire::Describe(*reply));
  }

  // All answers to a question are one, if they come from one session.
  template <typename Item>
  void CheckSame(const Asked<Item>& asked, const std::string& text) {
    if (asked.later && made_[asked.item.session.id] > 1) return;
    const auto [before, first] = answered_.emplace(asked.question, text);
    CHECK(first || before->second == text) << text << "\nbefore:\n" << before->second;
  }

  Values& values_;
  base::VirtualExecutor executor_{1};
  kv_node::ServerDriver driver_{
      &executor_,
      {.memory_bytes = uint64_t{8} << 20, .max_sessions = 3},
      {.intake = {.message_bytes = uint64_t{1} << 20, .bare_answers = 64}, .max_attends = 8}};
  kv_node::NodeService service_{&driver_.map, &executor_, std::chrono::seconds(1),
                                [] { return wire::NodeStatus(); }};
  uint64_t ticket_ = 0;
  std::map<uint64_t, Asked<wire::AttendItem>> attends_;  // by ticket
  std::map<uint64_t, Asked<wire::FetchItem>> fetches_;
  std::vector<uint64_t> appends_;  // tickets
  std::vector<uint64_t> pings_;
  std::vector<Question> questions_;
  std::map<base::SessionId, int> made_;  // how often a session of that id may have begun
  size_t calls_ = 0;                     // of the control plane
  size_t replies_ = 0;
  bool attended_ = false;
  std::map<uint64_t, std::string> answered_;  // first answers, by question
};

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  config::SetLogLevel(config::LogLevel::kOff);
  Values values(input);
  Node node(values);
  for (size_t i = 0; i < kMaxOperations && !values.empty(); ++i) node.Operate();
  return node.Finish();
}

}  // namespace sounder::fuzz
