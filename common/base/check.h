// CHECK: stops the process when one of our own invariants is broken (a bug of this program).
//
//   CHECK(rows <= capacity) << "rows " << rows;
//
// Always on, in every build type. For faults of the world (input, network, disk) return an
// absl::Status instead. Thread safe.
#ifndef SOUNDER_COMMON_BASE_CHECK_H_
#define SOUNDER_COMMON_BASE_CHECK_H_

#include <sstream>

namespace sounder::base {

// Collects the message and aborts in its destructor.
class CheckFailure {
 public:
  CheckFailure(const char* condition, const char* file, int line);
  CheckFailure(const CheckFailure&) = delete;
  CheckFailure& operator=(const CheckFailure&) = delete;
  [[noreturn]] ~CheckFailure();
  std::ostream& stream() { return stream_; }

 private:
  std::ostringstream stream_;
};

// Gives both branches of the conditional expression in CHECK the type void.
struct CheckVoid {
  void operator&(std::ostream&) const {}
};

}  // namespace sounder::base

#define CHECK(condition)                       \
  (condition) ? (void)0                        \
              : ::sounder::base::CheckVoid() & \
                    ::sounder::base::CheckFailure(#condition, __FILE__, __LINE__).stream()

#endif  // SOUNDER_COMMON_BASE_CHECK_H_
