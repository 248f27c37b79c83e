// Hook files: which are read, in which order, and for which containers they are.
#include "daemon/oci/hook_files.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include "daemon/sys/fd.hpp"

namespace userpod::oci {
namespace {

std::string text(const std::string& when, const std::string& more = "") {
  return R"({"version":"1.0.0","hook":{"path":"/bin/true","args":["true"],"env":["A=b"],"timeout":5},"when":)" + when +
         R"(,"stages":["createRuntime","poststop"])" + more + "}";
}

bool isFor(const std::string& when, const HookSubject& subject) {
  auto file = parseHookFile(text(when));
  EXPECT_TRUE(file) << file.error().text();
  return file && matches(*file, subject);
}

TEST(HookFile, Reads) {
  auto file = parseHookFile(text(R"({"always":true})"));
  ASSERT_TRUE(file) << file.error().text();
  EXPECT_EQ(file->hook.path, "/bin/true");
  EXPECT_EQ(file->hook.args, std::vector<std::string>{"true"});
  EXPECT_EQ(file->hook.timeout, 5);
  EXPECT_EQ(file->stages, (std::vector<std::string>{"createRuntime", "poststop"}));
}

TEST(HookFile, IsForWhatItSays) {
  const HookSubject plain{{}, "/bin/sh", false};
  const HookSubject rich{{{"org.example.gpu", "yes, two"}, {"other", "no"}}, "/usr/sbin/init", true};
  EXPECT_TRUE(isFor(R"({"always":true})", plain));
  EXPECT_FALSE(isFor(R"({"always":false,"commands":["."]})", plain));
  EXPECT_FALSE(isFor("{}", rich)) << "no condition";
  EXPECT_TRUE(isFor(R"({"hasBindMounts":true})", rich));
  EXPECT_FALSE(isFor(R"({"hasBindMounts":true})", plain));
  EXPECT_FALSE(isFor(R"({"hasBindMounts":false})", plain));
  EXPECT_TRUE(isFor(R"({"annotations":{"^org\\.example\\.":"two$"}})", rich));
  EXPECT_FALSE(isFor(R"({"annotations":{"^org\\.example\\.":"^two"}})", rich));
  EXPECT_FALSE(isFor(R"({"annotations":{"gpu":".","missing":"."}})", rich)) << "all of them";
  EXPECT_TRUE(isFor(R"({"commands":["systemd$","/init$"]})", rich)) << "one of them";
  EXPECT_FALSE(isFor(R"({"commands":["/init$"]})", plain));
  EXPECT_FALSE(isFor(R"({"always":true,"commands":["/init$"]})", plain)) << "every condition";
  EXPECT_TRUE(isFor(R"({"always":true,"hasBindMounts":true,"annotations":{"gpu":"yes"},"commands":["init"]})", rich));
  // A pattern that makes backtracking matchers hang.
  EXPECT_FALSE(isFor(R"({"commands":["(a*)*b"]})", {{}, std::string(10000, 'a'), false}));
}

TEST(HookFile, ErrorsNameThePlace) {
  auto error = [](const std::string& content) {
    auto file = parseHookFile(content);
    return file ? std::string("read") : file.error().text();
  };
  const std::string long_ = R"({"commands":[")" + std::string(5000, 'a') + R"("]})";
  const std::pair<std::string, const char*> rows[] = {
      {error("{"), "line 1"},
      {error("{}"), "version is missing"},
      {error(R"({"version":"0.1.0"})"), "version is not 1.0.0"},
      {error(R"({"version":"1.0.0","when":{},"stages":["poststop"]})"), "hook is not an object"},
      {error(R"({"version":"1.0.0","hook":{"path":"true"},"when":{},"stages":["poststop"]})"),
       "hook.path is not absolute"},
      {error(R"({"version":"1.0.0","hook":{"path":"/x"},"when":{}})"), "stages is missing"},
      {error(R"({"version":"1.0.0","hook":{"path":"/x"},"when":{},"stages":["precreate"]})"),
       "\"precreate\", which is none of"},
      {error(R"({"version":"1.0.0","hook":{"path":"/x"},"stages":["poststop"]})"), "when is not an object"},
      {error(text(R"({"commands":["("]})")), "when.commands has the pattern \"(\": missing )"},
      {error(text(R"({"annotations":{"[":"."}})")), "when.annotations has the pattern"},
      {error(text(R"({"annotations":{"a":1}})")), "when.annotations has a value"},
      {error(text(R"({"always":1})")), "when.always is neither"},
      {error(text(R"({"command":["a"]})")), "when.command is not known here"},
      {error(text("{}", R"(,"extra":1)")), "extra is not known here"},
      {error(text(long_)), "more than 4096 bytes"},
  };
  for (const auto& [got, words] : rows) EXPECT_NE(got.find(words), std::string::npos) << got << " for " << words;
}

TEST(HookFile, Directories) {
  char pattern[] = "/tmp/hooks-test-XXXXXX";
  std::string top = ::mkdtemp(pattern);
  for (const char* name : {"/first", "/second"}) EXPECT_TRUE(makeDirectories(top + name));
  for (const char* name : {"/first/20-b.json", "/first/10-A.json", "/second/20-b.json", "/second/15.json"})
    EXPECT_TRUE(writeFile(top + name, text("{}")));
  EXPECT_TRUE(writeFile(top + "/first/readme", "no hook"));
  auto files = readHookFiles({top + "/first", top + "/second"});
  ASSERT_TRUE(files) << files.error().text();
  std::vector<std::string> paths;
  for (const auto& file : *files) paths.push_back(file.path.substr(top.size()));
  EXPECT_EQ(paths, (std::vector<std::string>{"/first/10-A.json", "/second/15.json", "/second/20-b.json"}));
  EXPECT_TRUE(writeFile(top + "/second/10-A.json", "{"));
  auto broken = readHookFiles({top + "/first", top + "/second"});
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code(), Code::ConfigInvalid);
  EXPECT_NE(broken.error().text().find("hook file " + top + "/second/10-A.json: "), std::string::npos);
  auto missing = readHookFiles({top + "/third"});
  ASSERT_FALSE(missing);
  EXPECT_NE(missing.error().text().find(top + "/third is not a directory"), std::string::npos);
  EXPECT_TRUE(removeTree(top));
}

}  // namespace
}  // namespace userpod::oci
