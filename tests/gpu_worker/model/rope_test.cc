#include "gpu_worker/model/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>
#include <set>
#include <string>

namespace sounder::gpu_worker {
namespace {

ModelConfig Config() {
  ModelConfig config;
  config.head_dim = 64;
  config.rope_theta = 10000;
  return config;
}

TEST(RopeTest, PlainFrequenciesAreAGeometricSeries) {
  const std::vector<double> plain = InverseFrequencies(Config());
  ASSERT_EQ(plain.size(), 32u);
  EXPECT_EQ(plain[0], 1);
  EXPECT_NEAR(plain[16], 0.01, 1e-15);
  for (size_t i = 1; i < plain.size(); ++i) {
    EXPECT_NEAR(plain[i] / plain[i - 1], std::pow(10000, -1.0 / 32), 1e-12);
  }
}

TEST(RopeTest, Llama3ScalingHasThreeRangesThatMeet) {
  ModelConfig config = Config();
  const std::vector<double> plain = InverseFrequencies(config);
  config.rope_scaling = Llama3RopeScaling{8, 1, 4, 256};
  const std::vector<double> scaled = InverseFrequencies(config);
  int kept = 0, mixed = 0, divided = 0;
  for (size_t i = 0; i < plain.size(); ++i) {
    const double wavelength = 2 * std::numbers::pi / plain[i];
    if (wavelength < 256.0 / 4) {
      EXPECT_EQ(scaled[i], plain[i]);
      ++kept;
    } else if (wavelength > 256.0 / 1) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
      ++divided;
    } else {
      const double share = (256 / wavelength - 1) / (4 - 1);
      EXPECT_NEAR(scaled[i], (1 - share) * plain[i] / 8 + share * plain[i], 1e-15);
      EXPECT_LT(scaled[i], plain[i]);
      EXPECT_GT(scaled[i], plain[i] / 8);
      ++mixed;
    }
    if (i > 0) {
      EXPECT_LT(scaled[i], scaled[i - 1]);
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_GT(mixed, 0);
  EXPECT_GT(divided, 0);
}

TEST(RopeTest, DigestTellsRulesApart) {
  const ModelConfig base = Config();
  ModelConfig same = base;
  same.vocab_size = 99;
  EXPECT_EQ(RopeDigest(same), RopeDigest(base));
  std::set<std::string> digests = {RopeDigest(base)};
  const auto add = [&](const auto& change) {
    ModelConfig config = base;
    change(config);
    EXPECT_TRUE(digests.insert(RopeDigest(config)).second);
  };
  add([](ModelConfig& config) { config.rope_theta = 10000.000001; });
  add([](ModelConfig& config) { config.head_dim = 32; });
  add([](ModelConfig& config) { config.rope_scaling = Llama3RopeScaling{8, 1, 4, 256}; });
  add([](ModelConfig& config) { config.rope_scaling = Llama3RopeScaling{8, 1, 4, 512}; });
}

}  // namespace
}  // namespace sounder::gpu_worker
