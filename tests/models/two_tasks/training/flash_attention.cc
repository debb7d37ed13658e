// Causal grouped-query attention for head_dim 32, forward and backward, with RoPE inside.
//
// Training helper of the two_tasks test model; train.py compiles it with -march=native and calls it
// through ctypes. One thread. Nothing of size T x T is stored: scores are rebuilt tile by tile from
// the log-sum-exp of the forward pass (flash attention).
//
// Shapes, row-major f32: q, o, do, dq (batch, len, q_heads, 32); k, v, dk, dv
// (batch, len, kv_heads, 32); lse (batch, q_heads, len), natural log; cosines, sines (len, 16).
// RoPE is half-split: element j pairs with element j + 16.
//
// levels (batch, len) hides keys during training: a token of level 2 (a query) is hidden from every
// other token, a token of level 1 is hidden from the tokens of level 2. The first token of a
// sequence must have level 0.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int kDim = 32;
constexpr int kHalf = kDim / 2;
constexpr int kLanes = 16;
constexpr int kQueryTile = 32;
constexpr int kKeyTile = 64;
constexpr int kKeyVectors = kKeyTile / kLanes;
constexpr float kNegInf = -std::numeric_limits<float>::infinity();

typedef float Vec __attribute__((vector_size(64)));
typedef int32_t IntVec __attribute__((vector_size(64)));

inline Vec Load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

inline void Store(float* p, Vec v) { std::memcpy(p, &v, sizeof(v)); }

inline Vec Splat(float x) { return Vec{} + x; }

inline Vec Max(Vec a, Vec b) { return a > b ? a : b; }

inline float Sum(Vec v) {
  float total = 0.0f;
  for (int i = 0; i < kLanes; ++i) total += v[i];
  return total;
}

inline float MaxLane(Vec v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = std::max(best, v[i]);
  return best;
}

// exp(x) for x <= 0 (relative error about 1e-7); anything below -87 gives about 1e-38.
inline Vec Exp(Vec x) {
  x = Max(x, Splat(-87.0f));
  const Vec magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer.
  const Vec scaled = x * 1.44269504f + magic;
  const Vec whole = scaled - magic;
  const Vec r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vec p = Splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  IntVec bits;
  std::memcpy(&bits, &p, sizeof(bits));
  bits += __builtin_convertvector(whole, IntVec) << 23;
  std::memcpy(&p, &bits, sizeof(p));
  return p;
}

// out[i][0:64] = rows[i][0:32] . transposed[0:32][0:64] for the 32 rows of a query tile.
void Scores(const float* rows, const float* transposed, float* out) {
  for (int i = 0; i < kQueryTile; i += 4) {
    Vec acc[4][kKeyVectors] = {};
    for (int d = 0; d < kDim; ++d) {
      Vec t[kKeyVectors];
      for (int c = 0; c < kKeyVectors; ++c) t[c] = Load(transposed + d * kKeyTile + c * kLanes);
      for (int r = 0; r < 4; ++r) {
        const Vec x = Splat(rows[(i + r) * kDim + d]);
        for (int c = 0; c < kKeyVectors; ++c) acc[r][c] += x * t[c];
      }
    }
    for (int r = 0; r < 4; ++r) {
      for (int c = 0; c < kKeyVectors; ++c) {
        Store(out + (i + r) * kKeyTile + c * kLanes, acc[r][c]);
      }
    }
  }
}

// out[r][0:32] += sum over c of a[r * row_stride + c * column_stride] * b[c][0:32].
template <int kRows, int kColumns, int kRowStride, int kColumnStride>
void Accumulate(const float* a, const float* b, float* out) {
  for (int i = 0; i < kRows; i += 8) {
    Vec acc[8][2];
    for (int r = 0; r < 8; ++r) {
      acc[r][0] = Load(out + (i + r) * kDim);
      acc[r][1] = Load(out + (i + r) * kDim + kLanes);
    }
    for (int c = 0; c < kColumns; ++c) {
      const Vec b0 = Load(b + c * kDim);
      const Vec b1 = Load(b + c * kDim + kLanes);
      for (int r = 0; r < 8; ++r) {
        const Vec x = Splat(a[(i + r) * kRowStride + c * kColumnStride]);
        acc[r][0] += x * b0;
        acc[r][1] += x * b1;
      }
    }
    for (int r = 0; r < 8; ++r) {
      Store(out + (i + r) * kDim, acc[r][0]);
      Store(out + (i + r) * kDim + kLanes, acc[r][1]);
    }
  }
}

// Copies one head out of (len, heads, 32), padding with zeros to `padded` rows.
void Gather(const float* from, int len, int padded, int heads, int head, float factor, float* to) {
  for (int t = 0; t < len; ++t) {
    const float* row = from + (static_cast<int64_t>(t) * heads + head) * kDim;
    for (int d = 0; d < kDim; ++d) to[t * kDim + d] = row[d] * factor;
  }
  std::fill(to + static_cast<int64_t>(len) * kDim, to + static_cast<int64_t>(padded) * kDim, 0.0f);
}

// Rotates rows in place by their position; direction -1 is the inverse (and the transpose).
void Rotate(float* rows, int len, const float* cosines, const float* sines, float direction) {
  for (int t = 0; t < len; ++t) {
    float* x = rows + static_cast<int64_t>(t) * kDim;
    const Vec c = Load(cosines + t * kHalf);
    const Vec s = Load(sines + t * kHalf) * direction;
    const Vec lo = Load(x);
    const Vec hi = Load(x + kHalf);
    Store(x, lo * c - hi * s);
    Store(x + kHalf, hi * c + lo * s);
  }
}

// (padded, 32) -> tiles of (32, 64).
void TransposeTiles(const float* rows, int padded, float* tiles) {
  for (int base = 0; base < padded; base += kKeyTile) {
    float* tile = tiles + static_cast<int64_t>(base) * kDim;
    const float* from = rows + static_cast<int64_t>(base) * kDim;
    for (int d = 0; d < kDim; ++d) {
      for (int j = 0; j < kKeyTile; ++j) tile[d * kKeyTile + j] = from[j * kDim + d];
    }
  }
}

// Masks the keys of a tile that come after their query.
void MaskFuture(float* scores, int query_base, int key_base) {
  if (key_base + kKeyTile - 1 <= query_base) return;
  for (int i = 0; i < kQueryTile; ++i) {
    for (int j = std::max(0, query_base + i + 1 - key_base); j < kKeyTile; ++j) {
      scores[i * kKeyTile + j] = kNegInf;
    }
  }
}

// Masks the keys of a tile that `levels` hides; a token never hides from itself.
void MaskLevels(const int8_t* levels, float* scores, int query_base, int key_base) {
  const auto hide = [&](int i, int j) {
    if (query_base + i != key_base + j) scores[i * kKeyTile + j] = kNegInf;
  };
  if (std::memchr(levels + key_base, 2, kKeyTile) != nullptr) {
    for (int j = 0; j < kKeyTile; ++j) {
      if (levels[key_base + j] < 2) continue;
      for (int i = 0; i < kQueryTile; ++i) hide(i, j);
    }
  }
  if (std::memchr(levels + query_base, 2, kQueryTile) == nullptr) return;
  for (int i = 0; i < kQueryTile; ++i) {
    if (levels[query_base + i] < 2) continue;
    for (int j = 0; j < kKeyTile; ++j) {
      if (levels[key_base + j] == 1) hide(i, j);
    }
  }
}

struct Problem {
  int batch, len, q_heads, kv_heads;
  const float* cosines;
  const float* sines;
  const int8_t* levels;  // (batch, len)
  int padded() const { return (len + kKeyTile - 1) / kKeyTile * kKeyTile; }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(kDim)); }
};

// Keys and values of one kv head, rotated, with transposed tiles.
struct HeadKv {
  explicit HeadKv(int padded)
      : k(padded * kDim), v(padded * kDim), kt(padded * kDim), vt(padded * kDim) {}
  void Fill(const Problem& p, const float* keys, const float* values, int head) {
    Gather(keys, p.len, p.padded(), p.kv_heads, head, 1.0f, k.data());
    Rotate(k.data(), p.len, p.cosines, p.sines, 1.0f);
    Gather(values, p.len, p.padded(), p.kv_heads, head, 1.0f, v.data());
    TransposeTiles(k.data(), p.padded(), kt.data());
    TransposeTiles(v.data(), p.padded(), vt.data());
  }
  std::vector<float> k, v, kt, vt;
};

// One online-softmax step: turns scores into probabilities relative to the running maximum.
void SoftmaxStep(float* scores, float* peak, float* sum, float* out) {
  for (int i = 0; i < kQueryTile; ++i) {
    float* s = scores + i * kKeyTile;
    Vec best = Load(s);
    for (int c = 1; c < kKeyVectors; ++c) best = Max(best, Load(s + c * kLanes));
    const float new_peak = std::max(peak[i], MaxLane(best));
    if (new_peak > peak[i]) {
      const float shrink = std::exp(peak[i] - new_peak);
      sum[i] *= shrink;
      Store(out + i * kDim, Load(out + i * kDim) * shrink);
      Store(out + i * kDim + kLanes, Load(out + i * kDim + kLanes) * shrink);
      peak[i] = new_peak;
    }
    Vec total = {};
    for (int c = 0; c < kKeyVectors; ++c) {
      const Vec e = Exp(Load(s + c * kLanes) - new_peak);
      total += e;
      Store(s + c * kLanes, e);
    }
    sum[i] += Sum(total);
  }
}

void ForwardHead(const Problem& p, const int8_t* levels, const float* q, const HeadKv& kv, float* o,
                 float* lse) {
  alignas(64) float scores[kQueryTile * kKeyTile];
  for (int base = 0; base < p.len; base += kQueryTile) {
    float* out = o + static_cast<int64_t>(base) * kDim;
    std::fill(out, out + kQueryTile * kDim, 0.0f);
    float peak[kQueryTile], sum[kQueryTile];
    std::fill(peak, peak + kQueryTile, kNegInf);
    std::fill(sum, sum + kQueryTile, 0.0f);
    for (int key = 0; key < base + kQueryTile; key += kKeyTile) {
      Scores(q + static_cast<int64_t>(base) * kDim, &kv.kt[static_cast<int64_t>(key) * kDim],
             scores);
      MaskFuture(scores, base, key);
      MaskLevels(levels, scores, base, key);
      SoftmaxStep(scores, peak, sum, out);
      Accumulate<kQueryTile, kKeyTile, kKeyTile, 1>(scores, &kv.v[static_cast<int64_t>(key) * kDim],
                                                    out);
    }
    for (int i = 0; i < kQueryTile && base + i < p.len; ++i) {
      for (int d = 0; d < kDim; ++d) out[i * kDim + d] /= sum[i];
      lse[base + i] = peak[i] + std::log(sum[i]);
    }
  }
}

// Gradients of one query head; dk and dv are added to.
void BackwardHead(const Problem& p, const int8_t* levels, const float* q, const HeadKv& kv,
                  const float* dout, const float* lse, const float* delta, float* dq, float* dk,
                  float* dv) {
  alignas(64) float probs[kQueryTile * kKeyTile];
  alignas(64) float grads[kQueryTile * kKeyTile];
  for (int base = 0; base < p.len; base += kQueryTile) {
    const int64_t row = static_cast<int64_t>(base) * kDim;
    for (int key = 0; key < base + kQueryTile; key += kKeyTile) {
      const int64_t key_row = static_cast<int64_t>(key) * kDim;
      Scores(q + row, &kv.kt[key_row], probs);
      MaskFuture(probs, base, key);
      MaskLevels(levels, probs, base, key);
      Scores(dout + row, &kv.vt[key_row], grads);
      for (int i = 0; i < kQueryTile; ++i) {
        for (int c = 0; c < kKeyTile; c += kLanes) {
          float* s = probs + i * kKeyTile + c;
          float* g = grads + i * kKeyTile + c;
          const Vec w = Exp(Load(s) - lse[base + i]);
          Store(s, w);
          Store(g, w * (Load(g) - delta[base + i]));
        }
      }
      Accumulate<kKeyTile, kQueryTile, 1, kKeyTile>(probs, dout + row, dv + key_row);
      Accumulate<kKeyTile, kQueryTile, 1, kKeyTile>(grads, q + row, dk + key_row);
      Accumulate<kQueryTile, kKeyTile, kKeyTile, 1>(grads, &kv.k[key_row], dq + row);
    }
  }
}

// The levels of one sequence, padded with zeros.
std::vector<int8_t> PaddedLevels(const Problem& p, int sequence) {
  std::vector<int8_t> levels(p.padded(), 0);
  std::copy_n(p.levels + static_cast<int64_t>(sequence) * p.len, p.len, levels.begin());
  return levels;
}

void Scatter(const float* from, int len, int heads, int head, float factor, float* to) {
  for (int t = 0; t < len; ++t) {
    float* row = to + (static_cast<int64_t>(t) * heads + head) * kDim;
    for (int d = 0; d < kDim; ++d) row[d] = from[t * kDim + d] * factor;
  }
}

}  // namespace

extern "C" void AttentionForward(int batch, int len, int q_heads, int kv_heads,
                                 const float* cosines, const float* sines, const int8_t* levels,
                                 const float* q, const float* k, const float* v, float* o,
                                 float* lse) {
  const Problem p{batch, len, q_heads, kv_heads, cosines, sines, levels};
  const int group = q_heads / kv_heads;
  HeadKv kv(p.padded());
  std::vector<float> query(p.padded() * kDim), out(p.padded() * kDim);
  for (int b = 0; b < batch; ++b) {
    const int64_t rows = static_cast<int64_t>(b) * len;
    const std::vector<int8_t> padded_levels = PaddedLevels(p, b);
    for (int h = 0; h < q_heads; ++h) {
      if (h % group == 0) {
        kv.Fill(p, k + rows * kv_heads * kDim, v + rows * kv_heads * kDim, h / group);
      }
      Gather(q + rows * q_heads * kDim, len, p.padded(), q_heads, h, p.scale(), query.data());
      Rotate(query.data(), len, cosines, sines, 1.0f);
      ForwardHead(p, padded_levels.data(), query.data(), kv, out.data(),
                  lse + (static_cast<int64_t>(b) * q_heads + h) * len);
      Scatter(out.data(), len, q_heads, h, 1.0f, o + rows * q_heads * kDim);
    }
  }
}

extern "C" void AttentionBackward(int batch, int len, int q_heads, int kv_heads,
                                  const float* cosines, const float* sines, const int8_t* levels,
                                  const float* q, const float* k, const float* v, const float* o,
                                  const float* lse, const float* dout, float* dq, float* dk,
                                  float* dv) {
  const Problem p{batch, len, q_heads, kv_heads, cosines, sines, levels};
  const int group = q_heads / kv_heads;
  const int64_t size = static_cast<int64_t>(p.padded()) * kDim;
  HeadKv kv(p.padded());
  std::vector<float> query(size), grad_out(size), out(size), grad_q(size), grad_k(size),
      grad_v(size), delta(p.padded()), head_lse(p.padded());
  for (int b = 0; b < batch; ++b) {
    const std::vector<int8_t> padded_levels = PaddedLevels(p, b);
    const int64_t q_offset = static_cast<int64_t>(b) * len * q_heads * kDim;
    const int64_t kv_offset = static_cast<int64_t>(b) * len * kv_heads * kDim;
    for (int h = 0; h < q_heads; ++h) {
      if (h % group == 0) {
        kv.Fill(p, k + kv_offset, v + kv_offset, h / group);
        std::fill(grad_k.begin(), grad_k.end(), 0.0f);
        std::fill(grad_v.begin(), grad_v.end(), 0.0f);
      }
      Gather(q + q_offset, len, p.padded(), q_heads, h, p.scale(), query.data());
      Rotate(query.data(), len, cosines, sines, 1.0f);
      Gather(dout + q_offset, len, p.padded(), q_heads, h, 1.0f, grad_out.data());
      Gather(o + q_offset, len, p.padded(), q_heads, h, 1.0f, out.data());
      std::fill(head_lse.begin(), head_lse.end(), 1e30f);  // Padding rows get weight 0.
      std::copy_n(lse + (static_cast<int64_t>(b) * q_heads + h) * len, len, head_lse.begin());
      for (int t = 0; t < p.padded(); ++t) {
        const float* g = &grad_out[static_cast<int64_t>(t) * kDim];
        const float* y = &out[static_cast<int64_t>(t) * kDim];
        delta[t] = Sum(Load(g) * Load(y) + Load(g + kLanes) * Load(y + kLanes));
      }
      std::fill(grad_q.begin(), grad_q.end(), 0.0f);
      BackwardHead(p, padded_levels.data(), query.data(), kv, grad_out.data(), head_lse.data(),
                   delta.data(), grad_q.data(), grad_k.data(), grad_v.data());
      Rotate(grad_q.data(), len, cosines, sines, -1.0f);
      Scatter(grad_q.data(), len, q_heads, h, p.scale(), dq + q_offset);
      if (h % group == group - 1) {
        Rotate(grad_k.data(), len, cosines, sines, -1.0f);
        Scatter(grad_k.data(), len, kv_heads, h / group, 1.0f, dk + kv_offset);
        Scatter(grad_v.data(), len, kv_heads, h / group, 1.0f, dv + kv_offset);
      }
    }
  }
}
