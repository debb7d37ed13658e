// f32 values in the memory of the backend that made them.
#ifndef SOUNDER_GPU_WORKER_OPS_FLOAT_ARRAY_H_
#define SOUNDER_GPU_WORKER_OPS_FLOAT_ARRAY_H_

#include <cstddef>
#include <functional>

namespace sounder::gpu_worker {

// Move-only owner. data() is host memory for the ref and cpu backends; on a device it is a device
// pointer, to be handed to that backend's operations only. Must not outlive its backend.
class FloatArray {
 public:
  FloatArray() = default;
  FloatArray(float* data, size_t size, std::function<void(float*)> release);
  FloatArray(FloatArray&& other) noexcept;
  FloatArray& operator=(FloatArray&& other) noexcept;
  ~FloatArray();

  // 64-byte aligned host memory, zeroed.
  static FloatArray OnHost(size_t size);

  float* data() { return data_; }
  const float* data() const { return data_; }
  size_t size() const { return size_; }  // in floats

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
  std::function<void(float*)> release_;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_OPS_FLOAT_ARRAY_H_
