#include "common/config/host_port.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/absl_text.h"

namespace sounder::config {
namespace {

TEST(HostPort, Reads) {
  EXPECT_EQ(*ParseHostPort("127.0.0.1:7400"), (HostPort{"127.0.0.1", 7400}));
  EXPECT_EQ(*ParseHostPort("node-3.example:0"), (HostPort{"node-3.example", 0}));
  EXPECT_EQ(*ParseHostPort("[::1]:65535"), (HostPort{"::1", 65535}));
}

TEST(HostPort, RefusesAndNames) {
  for (const char* bad :
       {"", "host", ":1", "host:", "host:x", "host:-1", "host:65536", "::1:7400", "[::1]", "[]:1",
        "a b:1", "host:1 ", "http://host:1", "host:99999999999", "a\x01:1", "[a]b]:1", "a\x7f:1"}) {
    const auto parsed = ParseHostPort(bad);
    EXPECT_FALSE(parsed.ok()) << bad;
    EXPECT_THAT(base::MessageOf(parsed.status()), ::testing::HasSubstr(std::string("\"") + bad));
  }
}

TEST(HostPort, RefusesANul) { EXPECT_FALSE(ParseHostPort(std::string_view("a\0b:1", 5)).ok()); }

TEST(HostPort, ANodeOnEveryInterfaceIsReachedByTheHostThatWasNamed) {
  EXPECT_EQ(ReachableData("node-3:7400", "0.0.0.0:7401"), "node-3:7401");
  EXPECT_EQ(ReachableData("[::1]:7400", "0.0.0.0:7401"), "[::1]:7401");
  EXPECT_EQ(ReachableData("node-3:7400", "10.0.0.3:7401"), "10.0.0.3:7401");
  EXPECT_EQ(ReachableData("node-3:7400", ""), "");
}

TEST(HostPort, WritesWhatItReads) {
  for (const char* text : {"127.0.0.1:7400", "[fe80::1]:80", "localhost:0"}) {
    EXPECT_EQ(ParseHostPort(text)->ToString(), text);
  }
}

}  // namespace
}  // namespace sounder::config
