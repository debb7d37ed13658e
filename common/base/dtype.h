// Element types of stored rows and the conversions between them and f32. Scalar and pure; the
// vector forms live in common/kernels.
#ifndef SOUNDER_COMMON_BASE_DTYPE_H_
#define SOUNDER_COMMON_BASE_DTYPE_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace sounder::base {

enum class DType : uint8_t { kF32 = 0, kF16 = 1, kBF16 = 2 };

constexpr size_t SizeOf(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }

constexpr std::string_view NameOf(DType dtype) {
  return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
}

// "f32", "f16", "bf16" (lower or upper case as in safetensors: "F32"); nothing else.
std::optional<DType> ParseDType(std::string_view name);

// bfloat16: the upper half of an f32. Rounds to nearest even; NaN stays NaN.
constexpr float FromBF16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
constexpr uint16_t ToBF16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

// IEEE half precision. Rounds to nearest even; overflow becomes infinity; subnormals are kept.
float FromF16(uint16_t bits);
uint16_t ToF16(float value);

// One element at `data` (unaligned) as f32.
inline float LoadElement(const void* data, DType dtype) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, data, sizeof value);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return dtype == DType::kBF16 ? FromBF16(bits) : FromF16(bits);
}

inline void StoreElement(float value, void* data, DType dtype) {
  if (dtype == DType::kF32) {
    std::memcpy(data, &value, sizeof value);
    return;
  }
  const uint16_t bits = dtype == DType::kBF16 ? ToBF16(value) : ToF16(value);
  std::memcpy(data, &bits, sizeof bits);
}

// `value` as it reads back after being stored in `dtype`.
inline float RoundTo(DType dtype, float value) {
  if (dtype == DType::kF32) return value;
  return dtype == DType::kBF16 ? FromBF16(ToBF16(value)) : FromF16(ToF16(value));
}

}  // namespace sounder::base

#endif  // SOUNDER_COMMON_BASE_DTYPE_H_
