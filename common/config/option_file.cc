#include "common/config/option_file.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/config/option_text.h"

namespace sounder::config {
namespace {

absl::Status Bad(const std::string& source, const std::string& what) {
  return absl::InvalidArgumentError(source + ": " + what);
}

absl::StatusOr<std::string> TextOf(const YAML::Node& node, const std::string& key,
                                   const std::string& source) {
  if (node.IsScalar()) return node.Scalar();
  if (!node.IsSequence()) {
    return Bad(source, key + (node.IsNull() ? " has no value" : " is a map; options are flat"));
  }
  std::vector<std::string> items;
  for (const YAML::Node& item : node) {
    if (!item.IsScalar() || item.Scalar().find(',') != std::string::npos) {
      return Bad(source, key + ": items of a list are plain texts without commas");
    }
    items.push_back(item.Scalar());
  }
  return FormatList(items);
}

absl::StatusOr<OptionFile> ReadMap(const YAML::Node& root, const std::string& name,
                                   const std::vector<std::string>& known_keys) {
  OptionFile file;
  if (root.IsNull()) return file;
  if (!root.IsMap()) return Bad(name, "expected a map of option names to values");
  for (const auto& entry : root) {
    const std::string source = name + ":" + std::to_string(entry.first.Mark().line + 1);
    if (!entry.first.IsScalar()) return Bad(source, "a key is not a plain text");
    const std::string key = entry.first.Scalar();
    if (std::find(known_keys.begin(), known_keys.end(), key) == known_keys.end()) {
      const std::string nearest = NearestWord(key, known_keys);
      return Bad(source, "unknown option \"" + key + "\"" +
                             (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
    }
    ASSIGN_OR_RETURN(std::string text, TextOf(entry.second, key, source));
    if (!file.emplace(key, FileValue{text, source}).second) {
      return Bad(source, key + " is given twice");
    }
  }
  return file;
}

// Where the documents of a text begin.
class DocumentStarts final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { marks_.push_back(mark); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}

  const std::vector<YAML::Mark>& marks() const { return marks_; }

 private:
  std::vector<YAML::Mark> marks_;
};

// At most one document. Not by YAML::LoadAll: where a document begins with what no value begins
// with, such as a comma, yaml-cpp 0.7 reads an empty document and stays where it is, for ever.
absl::Status CheckDocuments(const std::string& text, const std::string& name) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.marks().size() < 2 && parser.HandleNextDocument(starts)) {
  }
  if (starts.marks().size() < 2) return absl::OkStatus();
  const YAML::Mark& second = starts.marks()[1];
  if (second.pos != starts.marks()[0].pos) return Bad(name, "holds more than one YAML document");
  return Bad(name + ":" + std::to_string(second.line + 1), "not YAML: no value begins like this");
}

}  // namespace

absl::StatusOr<OptionFile> ParseOptionFile(const std::string& text, const std::string& name,
                                           const std::vector<std::string>& known_keys) {
  try {
    RETURN_IF_ERROR(CheckDocuments(text, name));
    return ReadMap(YAML::Load(text), name, known_keys);
  } catch (const YAML::Exception& error) {
    return Bad(name + ":" + std::to_string(error.mark.line + 1), "not YAML: " + error.msg);
  }
}

absl::StatusOr<OptionFile> ReadOptionFile(const std::string& path,
                                          const std::vector<std::string>& known_keys) {
  std::ifstream stream(path, std::ios::binary);
  std::string text(kMaxOptionFileBytes + 1, '\0');
  if (stream) stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (stream.bad() || (!stream && !stream.eof())) {
    return absl::NotFoundError("cannot read " + path + ": " + std::strerror(errno));
  }
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMaxOptionFileBytes) return Bad(path, "larger than 1 MiB");
  return ParseOptionFile(text, path, known_keys);
}

}  // namespace sounder::config
