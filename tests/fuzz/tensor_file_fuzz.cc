// Safetensors files.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "common/tensor_file/tensor_file.h"
#include "common/tensor_file/tensor_writer.h"
#include "tests/fuzz/tensor_file_input.h"

namespace sounder::fuzz {
namespace {

using tensor_file::TensorFile;
using tensor_file::TensorView;

// The tensors lie behind the header, without overlap or hole, to the file's end.
void CheckCoverage(const TensorFile& file, std::span<const std::byte> bytes) {
  uint64_t next = 0;
  std::memcpy(&next, bytes.data(), sizeof next);
  next += sizeof next;
  std::vector<std::pair<size_t, size_t>> places;
  for (const auto& [name, info] : file.tensors()) places.emplace_back(info.begin, info.bytes);
  std::sort(places.begin(), places.end());
  for (const auto& [begin, size] : places) {
    CHECK(begin == next) << begin << " " << next;
    next += size;
  }
  CHECK(next == bytes.size()) << next << " " << bytes.size();
}

void CheckView(const TensorView& view) {
  CHECK(tensor_file::CountElements(view.shape) == view.elements());
  CHECK(view.data.size() == static_cast<size_t>(view.elements()) * base::SizeOf(view.dtype));
  std::vector<float> values(static_cast<size_t>(view.elements()));
  tensor_file::CopyToF32(view, values);  // reads every byte
  const auto nan = [](float value) { return std::isnan(value); };
  if (std::any_of(values.begin(), values.end(), nan)) return;  // may lose their payload
  const std::vector<std::byte> again = tensor_file::EncodeAs(view.dtype, values);
  CHECK(std::equal(again.begin(), again.end(), view.data.begin(), view.data.end()));
}

}  // namespace

bool RunTarget(std::span<const std::byte> input) {
  const std::vector<std::byte> bytes = TensorFileOf(input);
  const auto file = TensorFile::FromBytes("fuzz", bytes);
  if (!file.ok()) {
    CheckRefusal(file.status());
    return false;
  }
  CheckCoverage(**file, bytes);
  const std::vector<std::string> names = (*file)->names();
  CHECK(names.size() == (*file)->tensors().size() && std::is_sorted(names.begin(), names.end()));
  for (const auto& [name, info] : (*file)->tensors()) {
    CHECK(info.shape.size() <= tensor_file::kMaxTensorRank);
    const auto view = (*file)->Find(name);
    CHECK(view.ok() == info.dtype.has_value()) << name;
    if (!view.ok()) {
      CheckRefusal(view.status(), {absl::StatusCode::kUnimplemented});
      continue;
    }
    CheckView(*view);
    std::vector<int64_t> shape = view->shape;
    CHECK((*file)->Find(name, shape).ok());
    shape.push_back(1);
    CheckRefusal((*file)->Find(name, shape).status());
  }
  if ((*file)->tensors().find("") == (*file)->tensors().end()) {
    CheckRefusal((*file)->Find("").status(), {absl::StatusCode::kNotFound});
  }
  return true;
}

}  // namespace sounder::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  return sounder::fuzz::MutateJson(data, size, max_size, seed);
}
