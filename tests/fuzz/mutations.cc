#include "tests/fuzz/mutations.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "common/base/philox.h"

namespace sounder::fuzz {
namespace {

using base::PhiloxStream;

size_t Below(PhiloxStream& random, size_t bound) {
  return random.NextBelow(static_cast<uint32_t>(std::max<size_t>(bound, 1)));
}

// Copies the edited text back, or leaves all as it was where it has grown too long.
size_t Store(const std::string& text, uint8_t* data, size_t size, size_t max_size) {
  if (text.size() > max_size) return size;
  std::copy(text.begin(), text.end(), data);
  return text.size();
}

constexpr uint64_t kTellingWords[] = {
    0,
    1,
    2,
    7,
    8,
    63,
    64,
    65,
    0xff,
    0x100,
    0xffff,
    0x7fffffff,
    0x80000000,
    0xffffffff,
    0xfffffffc,
    0x100000000,
    0x7fffffffffffffff,
    0x8000000000000000,
    0xffffffffffffffff,
    0x7fc00000,  // NaN, infinity and numbers beside 1 and 0, as f32
    0x7f800000,
    0x3f800000,
    0x3f800001,
    0xbf800000,
    0x80000001};

std::string EditWords(std::string text, size_t prefix, PhiloxStream& random) {
  const size_t bytes = random.NextBelow(2) == 0 ? 4 : 8;
  const size_t words = (text.size() - prefix) / bytes;
  if (words == 0) return text;
  const auto at = [&] { return prefix + Below(random, words) * bytes; };
  const size_t place = at();
  switch (random.NextBelow(5)) {
    case 0: {
      const uint64_t telling = kTellingWords[Below(random, std::size(kTellingWords))];
      std::memcpy(text.data() + place, &telling, bytes);
      break;
    }
    case 1: {  // a little more or less
      uint64_t word = 0;
      std::memcpy(&word, text.data() + place, bytes);
      word += random.NextBelow(2) == 0 ? 1 + random.NextBelow(16) : -uint64_t{random.NextBelow(16)};
      std::memcpy(text.data() + place, &word, bytes);
      break;
    }
    case 2:
      text.replace(place, bytes, text.substr(at(), bytes));
      break;
    case 3:
      text.insert(place, text.substr(at(), bytes * (1 + random.NextBelow(8))));
      break;
    default:
      text.erase(place, bytes * (1 + random.NextBelow(8)));
  }
  return text;
}

constexpr std::string_view kTellingValues[] = {"0",
                                               "-0",
                                               "-1",
                                               "1",
                                               "7",
                                               "8",
                                               "65536",
                                               "2147483647",
                                               "2147483648",
                                               "-2147483649",
                                               "9223372036854775807",
                                               "9223372036854775808",
                                               "-9223372036854775808",
                                               "18446744073709551615",
                                               "18446744073709551616",
                                               "1e999",
                                               "-1e999",
                                               "1e-999",
                                               "1.5",
                                               "0.1",
                                               "1e3",
                                               "null",
                                               "true",
                                               "false",
                                               "\"\"",
                                               "{}",
                                               "[]",
                                               "[0]",
                                               "{\"\":0}",
                                               "\"../x\"",
                                               "\"\\u0000\"",
                                               "\"a\\u0000b\"",
                                               "\"\\ud83d\\ude00\"",
                                               "\"\xc3\xa4\"",
                                               "\"\xff\"",
                                               "\"a b\"",
                                               "\"\\n\""};

// Where the value that begins at `begin` ends: before the comma or bracket that is not its own.
size_t EndOfValue(std::string_view text, size_t begin) {
  size_t depth = 0;
  bool quoted = false;
  for (size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\') ++i;
      if (c == '"') quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ',' && depth == 0) return i;
    if (c != ']' && c != '}') continue;
    if (depth == 0) return i;
    --depth;
  }
  return text.size();
}

struct Span {
  size_t begin = 0;
  size_t end = 0;
};

Span SomeValue(std::string_view text, PhiloxStream& random) {
  const size_t mark = text.find_first_of(":[,", Below(random, text.size()));
  const size_t begin = mark == std::string_view::npos ? 0 : mark + 1;
  return {begin, EndOfValue(text, begin)};
}

// From the mark before a value, or before its key, to its end.
Span WithKey(std::string_view text, Span value) {
  const size_t mark = text.substr(0, value.begin).find_last_of("{[,");
  return {mark == std::string_view::npos ? 0 : mark + 1, value.end};
}

std::string EditJson(std::string text, PhiloxStream& random) {
  const Span value = SomeValue(text, random);
  const size_t length = value.end - value.begin;
  switch (random.NextBelow(7)) {
    case 0:
    case 1:
      return text.replace(value.begin, length,
                          kTellingValues[Below(random, std::size(kTellingValues))]);
    case 2: {
      const Span other = SomeValue(text, random);
      return text.replace(value.begin, length, text.substr(other.begin, other.end - other.begin));
    }
    case 3: {
      const Span member = WithKey(text, value);
      return text.insert(value.end, "," + text.substr(member.begin, member.end - member.begin));
    }
    case 4: {
      const Span member = WithKey(text, value);
      const size_t comma = member.end < text.size() && text[member.end] == ',' ? 1 : 0;
      return text.erase(member.begin, member.end - member.begin + comma);
    }
    case 5: {  // rarely to the bottom: such inputs take long
      const uint32_t deep = random.NextBelow(64) == 0 ? 255 : random.NextBelow(2);
      const std::string times = {kFold, '[', static_cast<char>(deep)};
      text.insert(value.end, deep == 0 ? "]" : std::string{kFold, ']', static_cast<char>(deep)});
      return text.insert(value.begin, deep == 0 ? "[" : times);
    }
    default: {  // a digit more, less or other
      const size_t digit = text.find_first_of("0123456789", value.begin);
      if (digit == std::string::npos) return text;
      return text.replace(digit, random.NextBelow(2), 1,
                          static_cast<char>('0' + Below(random, 10)));
    }
  }
}

}  // namespace

size_t MutateWords(uint8_t* data, size_t size, size_t max_size, unsigned seed, size_t prefix) {
  PhiloxStream random(seed, 1);
  if (random.NextBelow(2) == 0 || size <= prefix) return LLVMFuzzerMutate(data, size, max_size);
  std::string text(data, data + size);
  for (uint32_t edits = 1 + random.NextBelow(3); edits > 0 && text.size() > prefix; --edits) {
    text = EditWords(std::move(text), prefix, random);
  }
  return Store(text, data, size, max_size);
}

size_t MutateJson(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  PhiloxStream random(seed, 2);
  if (random.NextBelow(2) == 0 || size == 0) return LLVMFuzzerMutate(data, size, max_size);
  std::string text(data, data + size);
  for (uint32_t edits = 1 + random.NextBelow(3); edits > 0 && !text.empty(); --edits) {
    text = EditJson(std::move(text), random);
  }
  return Store(text, data, size, max_size);
}

std::string Unfold(std::string_view folded) {
  std::string text;
  for (size_t i = 0; i < folded.size(); ++i) {
    if (folded[i] != kFold || i + 2 >= folded.size()) {
      text += folded[i];
      continue;
    }
    const size_t times = static_cast<unsigned char>(folded[i + 2]) * kFoldUnit;
    if (text.size() + times <= kMaxUnfolded) text.append(times, folded[i + 1]);
    i += 2;
  }
  return text;
}

}  // namespace sounder::fuzz
