#include "common/tensor_file/tensor_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/absl_text.h"
#include "common/base/status_macros.h"
#include "common/tensor_file/tensor_header.h"
#include "nlohmann/json.hpp"

namespace sounder::tensor_file {
namespace {

using nlohmann::json;

absl::Status Check(std::span<const NamedTensor> tensors) {
  std::set<std::string> names;
  for (const NamedTensor& tensor : tensors) {
    const std::string who = absl::StrCat("tensor '", tensor.name, "': ");
    if (tensor.name.empty() || tensor.name == "__metadata__") {
      return absl::InvalidArgumentError(who + "a tensor cannot have this name");
    }
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(who + "given twice");
    }
    const auto elements = CountElements(tensor.shape);
    if (!elements ||
        static_cast<uint64_t>(*elements) > tensor.data.size() / base::SizeOf(tensor.dtype) ||
        static_cast<size_t>(*elements) * base::SizeOf(tensor.dtype) != tensor.data.size()) {
      return absl::InvalidArgumentError(absl::StrCat(who, "shape ", ShapeText(tensor.shape),
                                                     " does not match its ", tensor.data.size(),
                                                     " bytes"));
    }
  }
  return absl::OkStatus();
}

// f32 tensors first, so that every tensor is aligned to its element size.
std::vector<const NamedTensor*> FileOrder(std::span<const NamedTensor> tensors) {
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& tensor : tensors) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return base::SizeOf(a->dtype) > base::SizeOf(b->dtype);
  });
  return order;
}

absl::StatusOr<std::string> HeaderBytes(const std::vector<const NamedTensor*>& order,
                                        const std::map<std::string, std::string>& metadata) {
  json header = json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  for (const NamedTensor* tensor : order) {
    header[tensor->name] = {
        {"dtype", absl::AsciiStrToUpper(base::ToAbsl(base::NameOf(tensor->dtype)))},
        {"shape", tensor->shape},
        {"data_offsets", {offset, offset + tensor->data.size()}}};
    offset += tensor->data.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception&) {
    return absl::InvalidArgumentError("tensor names and metadata must be UTF-8");
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeaderJsonBytes) {
    return absl::InvalidArgumentError("the header would exceed 100 MiB");
  }
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return bytes + text;
}

absl::Status WriteAll(const std::string& path, const std::string& header,
                      const std::vector<const NamedTensor*>& order) {
  FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::ErrnoToStatus(errno, path + ": cannot create");
  bool good = std::fwrite(header.data(), 1, header.size(), file) == header.size();
  for (const NamedTensor* tensor : order) {
    if (tensor->data.empty()) continue;
    good = good &&
           std::fwrite(tensor->data.data(), 1, tensor->data.size(), file) == tensor->data.size();
  }
  good = std::fclose(file) == 0 && good;
  return good ? absl::OkStatus() : absl::ErrnoToStatus(errno, path + ": cannot write");
}

}  // namespace

std::vector<std::byte> EncodeAs(base::DType dtype, std::span<const float> values) {
  const size_t size = base::SizeOf(dtype);
  std::vector<std::byte> bytes(values.size() * size);
  for (size_t i = 0; i < values.size(); ++i) {
    base::StoreElement(values[i], bytes.data() + i * size, dtype);
  }
  return bytes;
}

absl::Status WriteTensorFile(const std::string& path, std::span<const NamedTensor> tensors,
                             const std::map<std::string, std::string>& metadata) {
  if (absl::Status status = Check(tensors); !status.ok()) return base::Annotate(status, path);
  const std::vector<const NamedTensor*> order = FileOrder(tensors);
  auto header = HeaderBytes(order, metadata);
  if (!header.ok()) return base::Annotate(header.status(), path);
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".tmp");
  absl::Status status = WriteAll(temporary, *header, order);
  if (status.ok() && std::rename(temporary.c_str(), path.c_str()) != 0) {
    status = absl::ErrnoToStatus(errno, path + ": cannot rename " + temporary);
  }
  if (!status.ok()) std::remove(temporary.c_str());
  return status;
}

}  // namespace sounder::tensor_file
