// Random q, k, v tensors for the tests of sounderctl, in memory and as files.
#ifndef SOUNDER_TESTS_CLI_QKV_FILE_H_
#define SOUNDER_TESTS_CLI_QKV_FILE_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/dtype.h"
#include "common/base/philox.h"
#include "common/tensor_file/tensor_writer.h"

namespace sounder::cli {

struct Qkv {
  int64_t steps = 3;
  int64_t n = 100;
  int64_t query_heads = 4;
  int64_t kv_heads = 2;
  int64_t dim = 16;
  base::DType dtype = base::DType::kF32;
  std::vector<float> q = {};  // k and v are already rounded to dtype
  std::vector<float> k = {};
  std::vector<float> v = {};

  // Keys with a common mean; queries long enough that attention is not flat.
  void Fill(uint64_t seed) {
    base::PhiloxStream random(seed, 0);
    const auto fill = [&](std::vector<float>& out, int64_t count, double mean, double scale) {
      out.resize(count);
      for (float& x : out) x = static_cast<float>(mean + scale * random.NextGaussian());
    };
    fill(q, steps * query_heads * dim, 0, 1.5);
    fill(k, n * kv_heads * dim, 0.7, 1);
    fill(v, n * kv_heads * dim, 0.3, 1);
    for (float& x : k) x = base::RoundTo(dtype, x);
    for (float& x : v) x = base::RoundTo(dtype, x);
  }

  void Write(const std::string& path) const {
    const auto q_bytes = tensor_file::EncodeAs(base::DType::kF32, q);
    const auto k_bytes = tensor_file::EncodeAs(dtype, k);
    const auto v_bytes = tensor_file::EncodeAs(dtype, v);
    const std::vector<tensor_file::NamedTensor> tensors = {
        {"q", base::DType::kF32, {steps, query_heads, dim}, q_bytes},
        {"k", dtype, {n, kv_heads, dim}, k_bytes},
        {"v", dtype, {n, kv_heads, dim}, v_bytes}};
    const absl::Status status = tensor_file::WriteTensorFile(path, tensors);
    ASSERT_TRUE(status.ok()) << status;
  }
};

// A path of this test process alone.
inline std::string TempPath(const std::string& name) {
  return testing::TempDir() + "sounder_cli_" + std::to_string(getpid()) + "_" + name;
}

}  // namespace sounder::cli

#endif  // SOUNDER_TESTS_CLI_QKV_FILE_H_
