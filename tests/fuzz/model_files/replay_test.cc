// Runs every parser of model files over valid seeds, nasty tokens and random mutations of the
// seeds, without libFuzzer: part of every test run, under every compiler and sanitizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/philox.h"
#include "tests/fuzz/model_files/targets.h"

namespace sounder::fuzz {
namespace {

constexpr uint64_t kSeed = 20;
constexpr int kMutations = 6000;

std::string FileText(const std::string& name) {
  std::ifstream file("tests/golden/llama/" + name, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  EXPECT_FALSE(text.empty()) << name;
  return text;
}

std::string SmallTensorFile() {
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
      R"("c":{"dtype":"I64","shape":[],"data_offsets":[32,40]},)"
      R"("d":{"dtype":"F16","shape":[0,7],"data_offsets":[40,40]}})";
  std::string file(8, '\0');
  file[0] = static_cast<char>(header.size() & 0xff);
  file[1] = static_cast<char>(header.size() >> 8);
  return file + header + std::string(40, '\x3f');
}

std::vector<std::string> Seeds(std::string_view target) {
  if (target == "tensor_file") return {SmallTensorFile()};
  if (target == "model_config") {
    return {FileText("llama3_rope/config.json"), FileText("gqa_tied/config.json")};
  }
  if (target == "weight_index") return {FileText("two_shards/model.safetensors.index.json")};
  return {FileText("gqa_tied/tokenizer.json"),
          R"({"pre_tokenizer":{"type":"Whitespace"},"added_tokens":[{"id":3,"content":"<x>"}],)"
          R"("model":{"type":"WordLevel","vocab":{"u":0,"a":1,"b":2},"unk_token":"u"}})"};
}

constexpr std::string_view kNasty[] = {"0",
                                       "-1",
                                       "9223372036854775807",
                                       "18446744073709551616",
                                       "1e999",
                                       "1.5",
                                       "null",
                                       "true",
                                       "\"\"",
                                       "{}",
                                       "[]",
                                       "[[[[",
                                       "\"../x\"",
                                       "\xff",
                                       "\\u0000",
                                       ","};

// A number, a string or a piece of the text replaced, removed, doubled or flipped.
std::string Mutate(std::string text, base::PhiloxStream& random) {
  const uint32_t edits = 1 + random.NextBelow(4);
  for (uint32_t edit = 0; edit < edits && !text.empty(); ++edit) {
    const size_t at = random.NextBelow(static_cast<uint32_t>(text.size()));
    const size_t length = std::min<size_t>(1 + random.NextBelow(12), text.size() - at);
    const std::string_view nasty = kNasty[random.NextBelow(std::size(kNasty))];
    switch (random.NextBelow(6)) {
      case 0:
        text[at] = static_cast<char>(random.Next32());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ (1 << random.NextBelow(8)));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(at, length));
        break;
      case 4:
        text.resize(at);
        break;
      default: {  // a whole JSON value, if one starts here
        const size_t colon = text.find(':', at);
        if (colon == text.npos) break;
        const size_t end = std::min(text.find_first_of(",}", colon), text.size());
        text.replace(colon + 1, end - colon - 1, nasty);
      }
    }
  }
  return text;
}

bool Feed(const Target& target, const std::string& text) {
  // An exact heap copy, so that ASan sees a read past the end.
  const std::vector<char> copy(text.begin(), text.end());
  return target.run(std::as_bytes(std::span(copy)));
}

TEST(ModelFilesReplayTest, SeedsAreAccepted) {
  for (const Target& target : Targets()) {
    for (const std::string& seed : Seeds(target.name)) {
      EXPECT_TRUE(Feed(target, seed)) << target.name;
    }
  }
}

TEST(ModelFilesReplayTest, NothingCrashesOnTruncationsNastyTokensOrMutations) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  for (const Target& target : Targets()) {
    int accepted = 0, refused = 0;
    const auto count = [&](bool ok) { ++(ok ? accepted : refused); };
    for (const std::string_view nasty : kNasty) count(Feed(target, std::string(nasty)));
    count(Feed(target, ""));
    for (const std::string& seed : Seeds(target.name)) {
      base::PhiloxStream random(kSeed, seed.size());
      const size_t step = std::max<size_t>(1, seed.size() / 500);
      for (size_t size = 0; size < seed.size(); size += step) {
        count(Feed(target, seed.substr(0, size)));
      }
      for (int i = 0; i < kMutations; ++i) count(Feed(target, Mutate(seed, random)));
    }
    std::printf("%.*s: %d accepted, %d refused\n", static_cast<int>(target.name.size()),
                target.name.data(), accepted, refused);
    // The mutations are worth something only if they reach both sides.
    EXPECT_GT(accepted, 10);
    EXPECT_GT(refused, 1000);
  }
}

}  // namespace
}  // namespace sounder::fuzz
