// Lines from a terminal, a pipe or a file, until something else is to be done.
#ifndef SOUNDER_GPU_WORKER_LINE_READER_H_
#define SOUNDER_GPU_WORKER_LINE_READER_H_

#include <cstddef>
#include <string>

namespace sounder::gpu_worker {

// Not thread safe. Borrows both descriptors.
class LineReader {
 public:
  static constexpr size_t kMaxLineBytes = size_t{16} << 20;

  // `wake` becomes readable when a wait is to end.
  LineReader(int input, int wake) : input_(input), wake_(wake) {}

  enum class Outcome { kLine, kEnd, kWoken, kTooLong };
  // Waits for the next line and gives it without its end ("\n" or "\r\n"); what is left at the end
  // of the input is a line too. kEnd also where the input cannot be read; kTooLong for a line of
  // more than kMaxLineBytes, which is skipped.
  Outcome Next(std::string* line);

 private:
  bool TakeLine(std::string* line);

  const int input_;
  const int wake_;
  std::string buffer_;
  bool skipping_ = false;  // the rest of a line that was too long
  bool ended_ = false;
};

}  // namespace sounder::gpu_worker

#endif  // SOUNDER_GPU_WORKER_LINE_READER_H_
