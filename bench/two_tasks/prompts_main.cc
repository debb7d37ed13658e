// two_tasks_prompts: evaluation prompts of the two_tasks test model as JSON lines.
//
//   two_tasks_prompts --task recall|words --count N --length 2048 --tail 96 --seed S
//                     --model tests/models/two_tasks > prompts.jsonl
//
// One object a line: {"id":"recall-0","text":"<s> ...","max_tokens":1,"expected":"word"}. The text
// starts with the word `<s>`: the tokenizer adds nothing by itself.

#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "bench/two_tasks/prompts.h"

namespace sounder::bench {
namespace {

struct Options {
  Task task = Task::kRecall;
  PromptLaw law;
  int count = 16;
  uint64_t seed = 1;
  std::string model;
};

constexpr char kUsage[] =
    "usage: two_tasks_prompts --task recall|words --model DIR [--count N] [--length N] [--tail N]\n"
    "                         [--seed N] [--pairs-per-1024 N] [--zipf-alpha X]\n";

template <typename T>
bool ParseNumber(const char* text, T& number) {
  const char* end = text + std::strlen(text);
  const auto result = std::from_chars(text, end, number);
  return result.ec == std::errc() && result.ptr == end;
}

bool ParseTask(const std::string& name, Task& task) {
  for (const Task candidate : {Task::kRecall, Task::kWords}) {
    if (name == TaskName(candidate)) {
      task = candidate;
      return true;
    }
  }
  return false;
}

bool ParseOption(const std::string& name, const char* value, Options& options) {
  if (name == "--task") return ParseTask(value, options.task);
  if (name == "--count") return ParseNumber(value, options.count) && options.count >= 0;
  if (name == "--length") return ParseNumber(value, options.law.length);
  if (name == "--tail") return ParseNumber(value, options.law.tail);
  if (name == "--seed") return ParseNumber(value, options.seed);
  if (name == "--pairs-per-1024") return ParseNumber(value, options.law.pairs_per_1024);
  if (name == "--zipf-alpha") return ParseNumber(value, options.law.zipf_alpha);
  if (name != "--model") return false;
  options.model = value;
  return true;
}

bool ParseOptions(int argc, char** argv, Options& options) {
  bool have_task = false;
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (i + 1 == argc || !ParseOption(name, argv[i + 1], options)) {
      std::cerr << "bad option " << name << "\n";
      return false;
    }
    have_task |= name == "--task";
  }
  return have_task && !options.model.empty();
}

// The words of tokenizer.json by id; empty, with a message, when the file does not serve.
std::map<int32_t, std::string> LoadWords(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!file || !json.is_object()) {
    std::cerr << "cannot read " << path << "\n";
    return {};
  }
  const auto vocab = json.find("model") == json.end() || !json["model"].is_object()
                         ? nlohmann::json()
                         : json["model"].value("vocab", nlohmann::json());
  std::map<int32_t, std::string> words;
  for (const auto& [word, id] : vocab.items()) {
    if (id.is_number_integer()) words[id.get<int32_t>()] = word;
  }
  for (int32_t id = 0; id < kKeyTokens.end; ++id) {
    if (!words.contains(id)) {
      std::cerr << path << " is not the tokenizer of the two_tasks model: no token " << id << "\n";
      return {};
    }
  }
  return words;
}

void PrintPrompt(const Prompt& prompt, const std::map<int32_t, std::string>& words) {
  std::string text;
  for (const int32_t token : prompt.tokens) {
    if (!text.empty()) text += ' ';
    text += words.at(token);
  }
  nlohmann::ordered_json line;
  line["id"] = prompt.id;
  line["text"] = text;
  line["max_tokens"] = 1;
  line["expected"] = words.at(prompt.answer);
  std::cout << line.dump() << "\n";
}

int Main(int argc, char** argv) {
  Options options;
  if (!ParseOptions(argc, argv, options)) {
    std::cerr << kUsage;
    return 2;
  }
  const std::string error = LawError(options.task, options.law);
  if (!error.empty()) {
    std::cerr << "no such prompts: " << error << "\n";
    return 2;
  }
  const std::map<int32_t, std::string> words = LoadWords(options.model + "/tokenizer.json");
  if (words.empty()) return 1;
  for (const Prompt& prompt : MakePrompts(options.task, options.law, options.count, options.seed)) {
    PrintPrompt(prompt, words);
  }
  return std::cout.flush() ? 0 : 1;
}

}  // namespace
}  // namespace sounder::bench

int main(int argc, char** argv) { return sounder::bench::Main(argc, argv); }
