#include "common/transport/ucx_describe.h"

#include <gtest/gtest.h>

namespace sounder::transport {
namespace {

// As printed by UCX 1.13.1.
constexpr char kSharedMemory[] = R"(#
# UCP endpoint
#
#               peer: <no debug data>
#                 lane[0]: cm rdmacm
#                 lane[1]:  2:posix/memory.0 md[1]  -> md[1]/posix/sysdev[255] am am_bw#0
#                 lane[2]:  0:tcp/lo.0 md[0]                -> md[0]/tcp/sysdev[255] rma_bw#0 wireup
#
#                 am_send: 0..<egr/short>..93..<egr/bcopy>..8256..<rndv>..(inf)
)";
constexpr char kRdma[] =
    R"(#                 lane[0]:  4:rc_mlx5/mlx5_0:1.0 md[3]      -> md[3]/ib/sysdev[0] am am_bw#0
#                 lane[1]:  4:rc_mlx5/mlx5_0:1.1 md[3]      -> md[3]/ib/sysdev[0] rma_bw#1
)";

TEST(UcxDescribeTest, FindsTheTransports) {
  EXPECT_EQ(ParseTransports(kSharedMemory), "posix/memory,tcp/lo");
  EXPECT_EQ(ParseTransports(kRdma), "rc_mlx5/mlx5_0:1");
  EXPECT_EQ(ParseTransports(""), "");
  EXPECT_EQ(ParseTransports("lane["), "");
  EXPECT_EQ(ParseTransports("lane[0]: 3:"), "");
  EXPECT_EQ(ParseTransports("nothing of the kind"), "");
}

TEST(UcxDescribeTest, KnowsRdma) {
  EXPECT_TRUE(IsRdma("rc_mlx5/mlx5_0:1"));
  EXPECT_TRUE(IsRdma("posix/memory,ud_verbs/mlx5_0:1"));
  EXPECT_FALSE(IsRdma("tcp/lo"));
  EXPECT_FALSE(IsRdma("tcp/rc_0"));
  EXPECT_FALSE(IsRdma(""));
}

}  // namespace
}  // namespace sounder::transport
