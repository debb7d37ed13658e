#include "common/tensor_file/tensor_file.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/check.h"
#include "common/base/status_macros.h"

namespace sounder::tensor_file {

void CopyToF32(const TensorView& view, std::span<float> out) {
  CHECK(static_cast<int64_t>(out.size()) == view.elements()) << out.size();
  if (out.empty()) return;
  const std::byte* from = view.data.data();
  switch (view.dtype) {
    case base::DType::kF32:
      std::memcpy(out.data(), from, out.size_bytes());
      return;
    case base::DType::kBF16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = base::LoadElement(from + 2 * i, base::DType::kBF16);
      }
      return;
    case base::DType::kF16:
      for (size_t i = 0; i < out.size(); ++i) {
        out[i] = base::LoadElement(from + 2 * i, base::DType::kF16);
      }
      return;
  }
}

absl::StatusOr<std::unique_ptr<TensorFile>> TensorFile::Open(const std::string& path) {
  ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
  ASSIGN_OR_RETURN(auto opened, FromBytes(path, file.bytes()));
  opened->file_ = std::move(file);  // the mapping does not move
  return opened;
}

absl::StatusOr<std::unique_ptr<TensorFile>> TensorFile::FromBytes(
    const std::string& name, std::span<const std::byte> bytes) {
  auto header = ParseTensorHeader(bytes);
  if (!header.ok()) return base::Annotate(header.status(), name);
  std::unique_ptr<TensorFile> file(new TensorFile());
  file->path_ = name;
  file->bytes_ = bytes;
  file->header_ = *std::move(header);
  return file;
}

absl::StatusOr<TensorView> TensorFile::Find(std::string_view name) const {
  const std::string key(name);
  const auto found = header_.tensors.find(key);
  if (found == header_.tensors.end()) {
    return absl::NotFoundError(absl::StrCat(path_, ": there is no tensor '", key, "'"));
  }
  const TensorInfo& info = found->second;
  if (!info.dtype) {
    return absl::UnimplementedError(absl::StrCat(path_, ": tensor '", key, "' has dtype ",
                                                 info.dtype_name,
                                                 ", only F32, F16 and BF16 are read"));
  }
  return TensorView{*info.dtype, info.shape, bytes_.subspan(info.begin, info.bytes)};
}

absl::StatusOr<TensorView> TensorFile::Find(std::string_view name,
                                            const std::vector<int64_t>& shape) const {
  ASSIGN_OR_RETURN(TensorView view, Find(name));
  if (view.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(path_, ": tensor '", std::string(name),
                                                   "' has shape ", ShapeText(view.shape),
                                                   ", expected ", ShapeText(shape)));
  }
  return view;
}

std::vector<std::string> TensorFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, info] : header_.tensors) names.push_back(name);
  return names;
}

}  // namespace sounder::tensor_file
