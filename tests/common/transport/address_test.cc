#include "common/transport/address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>

#include "absl/strings/str_cat.h"

namespace sounder::transport {
namespace {

TEST(AddressTest, ParsesNamesAndNumbers) {
  const struct {
    const char* text;
    const char* host;
    int port;
  } cases[] = {{"10.0.0.5:7401", "10.0.0.5", 7401},
               {"node-3.kv.svc:0", "node-3.kv.svc", 0},
               {"[::1]:65535", "::1", 65535},
               {"0.0.0.0:1", "0.0.0.0", 1}};
  for (const auto& each : cases) {
    const auto parsed = ParseHostPort(each.text);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->host, each.host);
    EXPECT_EQ(parsed->port, each.port);
    EXPECT_EQ(FormatHostPort(*parsed), each.text);
  }
}

TEST(AddressTest, RefusesEverythingElseAndNamesIt) {
  for (const char* text :
       {"", ":", "host", "host:", ":80", "host:http", "host:65536", "host:-1", "host:+1", "host: 1",
        "host:1 ", "h ost:1", "::1:80", "[::1]80", "[]:80", "[::1:80", "a/b:80", "[a]b]:80"}) {
    const auto parsed = ParseHostPort(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_NE(std::string(parsed.status().message()).find(absl::StrCat("\"", text, "\"")),
              std::string::npos)
        << parsed.status();
  }
}

// The resolver would read it as "a".
TEST(AddressTest, RefusesANul) { EXPECT_FALSE(ParseHostPort(std::string_view("a\0b:1", 5)).ok()); }

TEST(AddressTest, ResolvesNumbers) {
  const auto number = Resolve({"127.0.0.1", 7401});
  ASSERT_TRUE(number.ok()) << number.status();
  EXPECT_EQ(FormatSocketAddress(number->storage), "127.0.0.1:7401");
  const auto six = Resolve({"::1", 7401});
  ASSERT_TRUE(six.ok()) << six.status();
  EXPECT_EQ(FormatSocketAddress(six->storage), "[::1]:7401");
  EXPECT_EQ(Resolve({"no-such-host.invalid", 80}).status().code(), absl::StatusCode::kUnavailable);
}

TEST(AddressTest, PrefersIpv4) {
  const auto name = Resolve({"localhost", 80});
  if (!name.ok()) GTEST_SKIP() << "this machine does not know the name localhost";
  EXPECT_EQ(name->storage.ss_family, AF_INET);
}

}  // namespace
}  // namespace sounder::transport
