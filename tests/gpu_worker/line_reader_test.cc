// Lines however they come.
#include "gpu_worker/line_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <thread>

#include "common/base/check.h"

namespace sounder::gpu_worker {
namespace {

using Outcome = LineReader::Outcome;

class Pipe {
 public:
  Pipe() { CHECK(::pipe2(ends_, O_CLOEXEC) == 0); }
  ~Pipe() {
    ::close(ends_[0]);
    End();
  }
  int reading() const { return ends_[0]; }
  void Write(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t size = ::write(ends_[1], text.data() + sent, text.size() - sent);
      CHECK(size > 0);
      sent += static_cast<size_t>(size);
    }
  }
  void End() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }

 private:
  int ends_[2] = {-1, -1};
};

class LineReaderTest : public testing::Test {
 protected:
  std::string Line() {
    std::string line;
    EXPECT_EQ(reader_.Next(&line), Outcome::kLine);
    return line;
  }
  Outcome Next() {
    std::string line;
    return reader_.Next(&line);
  }

  Pipe input_;
  Pipe wake_;
  LineReader reader_{input_.reading(), wake_.reading()};
};

TEST_F(LineReaderTest, LinesAndTheRest) {
  input_.Write("one\ntwo\r\n\n\xff three");
  EXPECT_EQ(Line(), "one");
  EXPECT_EQ(Line(), "two");
  EXPECT_EQ(Line(), "");
  input_.Write(" and more\nlast");
  EXPECT_EQ(Line(), "\xff three and more");
  input_.End();
  EXPECT_EQ(Line(), "last");
  EXPECT_EQ(Next(), Outcome::kEnd);
  EXPECT_EQ(Next(), Outcome::kEnd);
}

TEST_F(LineReaderTest, WokenBeforeAndBetweenLines) {
  wake_.Write("!");
  EXPECT_EQ(Next(), Outcome::kWoken);
  EXPECT_EQ(Next(), Outcome::kWoken) << "until the byte is taken";
  input_.Write("first\nsecond\n");
  char byte = 0;
  ASSERT_EQ(::read(wake_.reading(), &byte, 1), 1);
  EXPECT_EQ(Line(), "first");
  wake_.Write("!");
  EXPECT_EQ(Line(), "second") << "what was read before comes first";
  EXPECT_EQ(Next(), Outcome::kWoken);
}

TEST_F(LineReaderTest, LinesThatAreTooLongAreSkipped) {
  const std::string long_line(LineReader::kMaxLineBytes + 100'000, 'a');
  std::thread writer([&] {
    input_.Write(long_line + "\nshort\n" + long_line);
    input_.End();
  });
  EXPECT_EQ(Next(), Outcome::kTooLong);
  EXPECT_EQ(Line(), "short");
  EXPECT_EQ(Next(), Outcome::kTooLong);
  EXPECT_EQ(Next(), Outcome::kEnd);
  writer.join();
}

}  // namespace
}  // namespace sounder::gpu_worker
