// Every error a node can answer with, and what asks it (gpu_worker/kv): reached as a user reaches
// it, and told in docs/errors.md. A new place in the sources that makes one fails here until it is
// among the cases, or listed with the reason why no user meets it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/absl_text.h"
#include "common/config/logging.h"
#include "tests/errors/error_case.h"
#include "tests/errors/error_sites.h"

namespace sounder::tests {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

// What can answer a user, and read options.
const std::vector<std::string>& Folders() {
  static const std::vector<std::string> folders = {
      "common/config",   "common/policy",   "common/wire",    "gpu_worker/kv",   "kv_node",
      "kv_node/sampler", "kv_node/segment", "kv_node/server", "kv_node/session", "kv_node/store",
  };
  return folders;
}

// The messages of all cases, each reached once in a run.
const std::vector<std::string>& Reached() {
  static const std::vector<std::string> messages = [] {
    config::SetLogLevel(config::LogLevel::kError);
    std::vector<std::string> all;
    for (const ErrorGroup& group : AllErrors()) {
      for (const ErrorCase& each : group.cases) {
        for (const Way& way : each.ways) {
          SCOPED_TRACE(way.message);
          const absl::Status status = way.reach();
          const std::string message = base::MessageOf(status);
          EXPECT_EQ(status.code(), each.code) << status;
          EXPECT_TRUE(HasForm(message, way.message)) << message;
          all.push_back(message);
        }
      }
    }
    return all;
  }();
  return messages;
}

// What is wrong with sites, given what was reached and what is listed.
std::string Faults(const std::vector<ErrorSite>& sites, const std::vector<std::string>& reached,
                   const std::vector<Unmet>& unmet) {
  std::vector<std::string> faults;
  std::vector<bool> used(unmet.size());
  for (const ErrorSite& site : sites) {
    const bool met = std::any_of(reached.begin(), reached.end(),
                                 [&](const std::string& message) { return MadeAt(site, message); });
    const auto listed = std::find_if(unmet.begin(), unmet.end(),
                                     [&](const Unmet& each) { return each.site == site.Name(); });
    if (listed != unmet.end()) used[static_cast<size_t>(listed - unmet.begin())] = true;
    if (met && listed != unmet.end()) {
      faults.push_back(absl::StrCat("is reached, and listed as unmet: ", site.Name()));
    } else if (!met && listed == unmet.end()) {
      faults.push_back(
          absl::StrCat("line ", site.line, " is not reached by a case: ", site.Name()));
    }
  }
  for (size_t i = 0; i < unmet.size(); ++i) {
    if (!used[i]) faults.push_back("is listed, but is not there: " + unmet[i].site);
  }
  return absl::StrJoin(faults, "\n");
}

std::vector<std::string> Literals(const std::string& source) {
  std::vector<std::string> names;
  for (const ErrorSite& site : SitesOf("a.cc", source)) names.push_back(site.Name());
  return names;
}

TEST(ErrorsTest, EveryCaseIsReachedAndSaysWhatThePageSays) { EXPECT_GT(Reached().size(), 100u); }

TEST(ErrorsTest, EverySiteIsReachedOrListed) {
  const std::vector<ErrorSite> sites = SitesIn(Folders());
  EXPECT_GT(sites.size(), 140u);
  EXPECT_EQ(Faults(sites, Reached(), UnmetErrors()), "");
}

TEST(ErrorsTest, ThePageIsThatOfTheTable) {
  std::ifstream in("docs/errors.md");
  std::ostringstream text;
  text << in.rdbuf();
  EXPECT_EQ(text.str(), ErrorsPage()) << "scripts/errors_doc.sh writes it anew";
}

TEST(ErrorsTest, ANewSiteIsNoticed) {
  std::vector<ErrorSite> sites = SitesIn(Folders());
  const std::string source = R"(
    return absl::NotFoundError(absl::StrCat("no row ", row, " in the new tier of ", name));)";
  for (const ErrorSite& site : SitesOf("kv_node/session/tier.cc", source)) sites.push_back(site);
  EXPECT_EQ(Faults(sites, Reached(), UnmetErrors()),
            "line 2 is not reached by a case: kv_node/session/tier.cc: no row ... in "
            "the new tier of ");
  // One whose message says next to nothing is not taken for another.
  EXPECT_EQ(Faults(SitesOf("a.cc", R"(absl::NotFoundError(absl::StrCat("node ", n));)"),
                   {"node 1 did not answer"}, {}),
            "line 1 is not reached by a case: a.cc: node ");
}

TEST(ErrorsTest, ListsThatNoLongerHoldAreNoticed) {
  const std::vector<ErrorSite> sites =
      SitesOf("a.cc", R"(absl::NotFoundError("there is no such thing");)");
  EXPECT_EQ(Faults(sites, {"x: there is no such thing"}, {}), "");
  EXPECT_EQ(Faults(sites, {}, {{"a.cc: there is no such thing", "why"}}), "");
  EXPECT_EQ(Faults(sites, {"there is no such thing"}, {{"a.cc: there is no such thing", ""}}),
            "is reached, and listed as unmet: a.cc: there is no such thing");
  EXPECT_EQ(Faults(sites, {"there is no such thing"}, {{"b.cc: gone", "why"}}),
            "is listed, but is not there: b.cc: gone");
}

TEST(ErrorsTest, SitesAreReadFromSources) {
  EXPECT_THAT(
      Literals(R"x(absl::InternalError(absl::StrCat("a ", F("b)", 'c'), " \"d\" " "e"));)x"),
      ElementsAre("a.cc: a ...b)... \"d\" e"));
  EXPECT_THAT(Literals("// absl::InternalError(\"a\")\n/* absl::InternalError(\"b\") */"),
              IsEmpty());
  EXPECT_THAT(Literals(R"(absl::InternalError(x ? "a" : "b", "c", y::Z("d"));)"),
              ElementsAre("a.cc: c...d"));
  EXPECT_THAT(Literals(R"x(absl::InternalError("a" + (b ? "" : "; c " + d + "?") + " e");)x"),
              ElementsAre("a.cc: a... e"));
  EXPECT_THAT(Literals(R"(absl::Status(code, "a"); absl::Status(); std::function<absl::Status(int)>;
                          absl::IsInternal(s); return absl::OkStatus();)"),
              ElementsAre("a.cc: a"));
  EXPECT_THAT(Literals("int n = 1'000; absl::InternalError(\"a\");"), ElementsAre("a.cc: a"));
}

TEST(ErrorsTest, Forms) {
  EXPECT_TRUE(HasForm("node a:1: position 5 is 7", "position <n> is <n>"));
  EXPECT_TRUE(HasForm("position 5", "position 5"));
  EXPECT_FALSE(HasForm("position 5 and more", "position <n> and"));
  EXPECT_FALSE(HasForm("position ", "position <n>"));
  EXPECT_FALSE(HasForm("row 5", "position <n>"));
}

}  // namespace
}  // namespace sounder::tests
