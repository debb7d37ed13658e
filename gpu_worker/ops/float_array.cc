#include "gpu_worker/ops/float_array.h"

#include <memory>
#include <utility>

#include "common/memory/aligned_buffer.h"

namespace sounder::gpu_worker {

FloatArray::FloatArray(float* data, size_t size, std::function<void(float*)> release)
    : data_(data), size_(size), release_(std::move(release)) {}

FloatArray::FloatArray(FloatArray&& other) noexcept { *this = std::move(other); }

FloatArray& FloatArray::operator=(FloatArray&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(release_, other.release_);
  return *this;
}

FloatArray::~FloatArray() {
  if (release_) release_(data_);
}

FloatArray FloatArray::OnHost(size_t size) {
  // std::function wants a copyable target; the buffer itself has one owner, the array.
  auto buffer =
      std::make_shared<memory::AlignedBuffer>(memory::AlignedBuffer::Zeroed(size * sizeof(float)));
  float* data = reinterpret_cast<float*>(buffer->data());
  return FloatArray(data, size, [buffer](float*) mutable { buffer.reset(); });
}

}  // namespace sounder::gpu_worker
