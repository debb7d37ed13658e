// What decides an answer of a node is the same for a prompt whatever else is in its batch.
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "common/base/virtual_executor.h"
#include "common/wire/codec.h"
#include "gpu_worker/model/rope.h"
#include "tests/cluster/local_cluster.h"
#include "tests/gpu_worker/engine/golden_run.h"

namespace sounder::gpu_worker {
namespace {

// What a node draws from and divides rows by, per layer and step of a sequence.
struct Fields {
  uint64_t sample_key = 0;
  uint64_t step = 0;
  base::PositionRange range;
  base::Position layout_position = 0;
  uint32_t layer = 0;
  wire::AttentionKind attention = wire::AttentionKind::kExact;
  wire::RowFormat row_format = wire::RowFormat::kAsAppended;
  float rows_budget = 0;
  uint64_t rows_cap = 0;
  bool measured = false;
  std::vector<float> lse_hints;
  std::vector<float> mean_sizes;
  std::vector<float> uniform;

  auto Tie() const {
    return std::tie(sample_key, step, range.begin, range.end, layout_position, layer, attention,
                    row_format, rows_budget, rows_cap, measured, lse_hints, mean_sizes, uniform);
  }
  friend bool operator==(const Fields& a, const Fields& b) { return a.Tie() == b.Tie(); }
};
// By the prompt's id, in the order sent.
using Asked = std::map<std::string, std::vector<Fields>>;

class RequestFieldsTest : public testing::Test {
 protected:
  GeneratorOptions Options() const {
    GeneratorOptions options =
        GoldenOptions(*golden_.model, LayerMode::kLsh, base::DType::kF32, 16);
    options.session.lsh.bits_per_table = 4;
    options.session.lsh.num_tables = 20;
    options.session.min_indexed_rows = 16;
    for (size_t layer = 0; layer < options.attention.layers.size(); ++layer) {
      options.session.indexed_layers.push_back(static_cast<uint32_t>(layer));
    }
    options.attention.audit_every = 2;
    return options;
  }
  std::vector<Prompt> Prompts() const {
    std::vector<Prompt> prompts = RaggedPrompts(*golden_.model, 1);
    for (size_t i = 0; i < prompts.size(); ++i) prompts[i].session = {9, i + 1};
    return prompts;
  }
  GeneratorOptions SketchOptions() const {
    GeneratorOptions options = Options();
    for (LayerMode& mode : options.attention.layers) mode = LayerMode::kSketch;
    options.session.lsh = {};
    options.session.sketch = {64, 1};
    options.session.row_format = wire::RowFormat::kInt8;
    options.attention.sketch = {.rows = .75, .uniform_above = .3, .uniform_rows = .875};
    return options;
  }
  Asked Run(const GeneratorOptions& options, const std::vector<Prompt>& prompts) {
    base::VirtualExecutor executor{1};
    tests::LocalClusterOptions cluster_options;
    cluster_options.nodes = 2;
    Asked asked;
    cluster_options.client_tap = [&](const transport::Message& message) {
      const auto envelope = wire::DecodeEnvelope(message);
      if (!envelope.ok() || envelope->kind != wire::MessageKind::kAttend) return true;
      const auto request = wire::DecodeAttend(
          {message.header, memory::AlignedBuffer::CopyOf(message.payload.bytes())});
      if (!request.ok()) {
        ADD_FAILURE() << request.status();
        return true;
      }
      for (const wire::AttendItem& item : request->items) {
        for (const Prompt& prompt : prompts) {
          if (!(prompt.session == item.session.id)) continue;
          asked[prompt.id].push_back({item.sample_key,
                                      item.step,
                                      item.range,
                                      item.layout_position,
                                      item.layer,
                                      item.attention,
                                      item.row_format,
                                      item.rows_budget,
                                      item.rows_cap,
                                      item.want_error_terms,
                                      {item.lse_hints.begin(), item.lse_hints.end()},
                                      {},
                                      {}});
          for (const wire::HeadHint& hint : item.head_hints) {
            asked[prompt.id].back().mean_sizes.push_back(hint.mean_size);
            asked[prompt.id].back().uniform.push_back(hint.uniform_fraction);
          }
        }
      }
      return true;
    };
    tests::LocalCluster cluster(cluster_options, &executor);
    const GoldenRun run = Generate(options, golden_.model.get(), &cluster.client(), prompts);
    for (const auto& [id, status] : run.statuses) EXPECT_TRUE(status.ok()) << id << ": " << status;
    return asked;
  }

  GoldenModel golden_{"gqa_untied"};
};

TEST_F(RequestFieldsTest, DoNotDependOnTheBatch) {
  GeneratorOptions options = Options();
  const Asked together = Run(options, Prompts());  // three at a time
  ASSERT_EQ(together.size(), 6u);
  options.batch = 1;
  EXPECT_EQ(Run(options, Prompts()), together);
  std::vector<Prompt> backwards = Prompts();
  std::reverse(backwards.begin(), backwards.end());
  for (Prompt& prompt : backwards) prompt.session.low += 100;  // sessions are chosen at random
  options.batch = 4;
  EXPECT_EQ(Run(options, backwards), together);
}

// Nor do the hints, which are of the sequence's own earlier steps.
TEST_F(RequestFieldsTest, HintsDoNotDependOnTheBatch) {
  GeneratorOptions options = SketchOptions();
  std::vector<Prompt> prompts = Prompts();
  for (Prompt& prompt : prompts) {  // of one token over and over: steps that resemble each other
    std::fill(prompt.forced->begin(), prompt.forced->end(), 3);
  }
  const Asked together = Run(options, prompts);
  options.batch = 1;
  EXPECT_EQ(Run(options, prompts), together);
  int sampled = 0, hinted = 0, sized = 0, uniform = 0;
  for (const auto& [id, fields] : together) {
    for (const Fields& field : fields) {
      if (field.attention == wire::AttentionKind::kExact) continue;  // an audit
      EXPECT_EQ(field.attention, wire::AttentionKind::kSketch);
      EXPECT_EQ(field.row_format, wire::RowFormat::kInt8);
      EXPECT_EQ(field.rows_budget, 0.75f);
      EXPECT_EQ(field.rows_cap, static_cast<uint64_t>((3 * field.range.size() + 1) / 2));
      EXPECT_EQ(field.measured, field.step % 16 == 0) << field.step;
      hinted += !field.lse_hints.empty();
      for (const float size : field.mean_sizes) {
        sized += size > 0;
        EXPECT_FALSE(size > 0 && field.step < 3) << "of an answer to a request with lse hints";
      }
      for (const float share : field.uniform) {
        uniform += share > 0;
        EXPECT_TRUE(share == 0 || (share == 0.875f && !field.measured));
      }
      EXPECT_FALSE(field.step < 2 && !field.lse_hints.empty()) << id;
      sampled += field.step > 0;
    }
  }
  EXPECT_GT(hinted, sampled / 4) << "but where all rows were attended exactly, or the lse moves";
  EXPECT_GT(sized, 0);
  EXPECT_GT(uniform, 0) << "attention of random weights is diffuse";
}

TEST_F(RequestFieldsTest, TellPromptsAndSeedsApart) {
  std::vector<Prompt> prompts = Prompts();
  prompts[1].tokens = prompts[0].tokens;  // twice in the file: two samples
  const Asked asked = Run(Options(), prompts);
  std::set<uint64_t> keys;
  for (const auto& [id, fields] : asked) {
    for (const Fields& field : fields) EXPECT_EQ(field.sample_key, fields[0].sample_key) << id;
    keys.insert(fields[0].sample_key);
  }
  EXPECT_EQ(keys.size(), 6u);
  EXPECT_FALSE(keys.contains(0));

  GeneratorOptions other = Options();
  other.seed = 2;
  for (const auto& [id, fields] : Run(other, prompts)) {
    EXPECT_FALSE(keys.contains(fields[0].sample_key)) << id;
  }
}

TEST_F(RequestFieldsTest, StepsAreTheSequencesOwn) {
  std::vector<Prompt> prompts = Prompts();
  for (const auto& [id, fields] : Run(Options(), prompts)) {
    std::set<uint64_t> steps;
    for (const Fields& field : fields) {
      steps.insert(field.step);
      // All of the prompt but its last token is prefilled, so step 0 is at the last one's.
      const auto& tokens = prompts[static_cast<size_t>(id[1] - '1')].tokens;
      EXPECT_EQ(field.layout_position, static_cast<base::Position>(tokens.size() - 1 + field.step))
          << id;
      if (field.attention == wire::AttentionKind::kExact) {
        EXPECT_EQ(field.step % 2, 0u) << "an audit of " << id;
      }
    }
    EXPECT_GT(steps.size(), 5u) << id;
  }
}

TEST_F(RequestFieldsTest, IdentityNamesTheRotation) {
  EXPECT_EQ(IdentityOf(*golden_.model, "x").rope_digest, RopeDigest(golden_.model->config()));
  EXPECT_EQ(RopeDigest(golden_.model->config()).size(), 32u);
}

}  // namespace
}  // namespace sounder::gpu_worker
