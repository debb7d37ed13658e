// One fuzz target without libFuzzer, part of every test run, under every compiler and sanitizer:
// its committed corpus, the beginnings of those files, and random mutations of them, made by the
// target's own mutator where it has one. Files of the corpus are named accepted_* or refused_*,
// and are.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "common/base/philox.h"
#include "tests/fuzz/mutations.h"
#include "tests/fuzz/target.h"

extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size,
                                                                size_t max_size, unsigned seed);

namespace sounder::fuzz {
namespace {

constexpr uint64_t kSeed = 20;
constexpr size_t kBeginnings = 300;  // of a file at most
constexpr size_t kMutations = 4000;  // of all files together

// By name.
std::map<std::string, std::string> Corpus() {
  std::map<std::string, std::string> corpus;
  for (const auto& entry :
       std::filesystem::directory_iterator("tests/fuzz/corpus/" SOUNDER_FUZZ_TARGET)) {
    std::ifstream file(entry.path(), std::ios::binary);
    corpus[entry.path().filename()] = {std::istreambuf_iterator<char>(file), {}};
  }
  EXPECT_FALSE(corpus.empty());
  return corpus;
}

bool Feed(const std::string& text) {
  // An exact copy on the heap, so that a sanitizer sees a read past the end.
  const std::vector<char> copy(text.begin(), text.end());
  return RunTarget(std::as_bytes(std::span(copy)));
}

TEST(ReplayTest, TheCorpusIsAcceptedAndRefusedAsNamed) {
  for (const auto& [name, text] : Corpus()) {
    const bool accepted = name.starts_with("accepted_");
    ASSERT_TRUE(accepted || name.starts_with("refused_")) << name;
    EXPECT_EQ(Feed(text), accepted) << name;
  }
  Feed("");
}

TEST(ReplayTest, BeginningsAreSafe) {
  for (const auto& [name, text] : Corpus()) {
    const size_t step = std::max<size_t>(1, text.size() / kBeginnings);
    for (size_t size = 0; size < text.size(); size += step) Feed(text.substr(0, size));
  }
}

std::string Mutate(const std::string& text, base::PhiloxStream& random) {
  std::vector<uint8_t> bytes(text.begin(), text.end());
  size_t size = bytes.size();
  bytes.resize(2 * size + 64);
  const auto mutate = [&](unsigned seed) {
    if (LLVMFuzzerCustomMutator == nullptr) {
      return LLVMFuzzerMutate(bytes.data(), size, bytes.size());
    }
    return LLVMFuzzerCustomMutator(bytes.data(), size, bytes.size(), seed);
  };
  for (uint32_t times = 1 + random.NextBelow(3); times > 0; --times) size = mutate(random.Next32());
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)};
}

TEST(ReplayTest, MutationsKeepThePromises) {
  std::printf("seed %lu\n", static_cast<unsigned long>(kSeed));
  base::PhiloxStream random(kSeed, 0);
  const std::map<std::string, std::string> corpus = Corpus();
  size_t accepted = 0, refused = 0;
  for (size_t i = 0; i < kMutations; ++i) {
    const auto seed = std::next(corpus.begin(), static_cast<std::ptrdiff_t>(i % corpus.size()));
    ++(Feed(Mutate(seed->second, random)) ? accepted : refused);
  }
  std::printf("%zu accepted, %zu refused\n", accepted, refused);
  // They are worth something only if they reach both sides.
  EXPECT_GT(accepted, kMutations / 100);
  EXPECT_GT(refused, kMutations / 100);
}

}  // namespace
}  // namespace sounder::fuzz

// As libFuzzer's, but simpler: some bytes become others, go or come twice.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  static sounder::base::PhiloxStream random(sounder::fuzz::kSeed, 1);
  std::string text(data, data + size);
  const size_t at = random.NextBelow(static_cast<uint32_t>(size + 1));
  const size_t length = std::min<size_t>(1 + random.NextBelow(16), size - at);
  switch (random.NextBelow(6)) {
    case 0:
      if (length > 0) text[at] = static_cast<char>(random.Next32());
      break;
    case 1:
      if (length > 0) text[at] = static_cast<char>(text[at] ^ (1 << random.NextBelow(8)));
      break;
    case 2:
      text.erase(at, length);
      break;
    case 3:
      text.insert(at, text.substr(random.NextBelow(static_cast<uint32_t>(size + 1)), length));
      break;
    case 4:
      text.insert(at, 1, static_cast<char>(random.Next32()));
      break;
    default:
      if (random.NextBelow(4) == 0) text.resize(at);
  }
  if (text.size() > max_size) return size;
  std::copy(text.begin(), text.end(), data);
  return text.size();
}
