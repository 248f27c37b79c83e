// Every way in which userpod.toml can be wrong: each is named by file, line and key, with what is wrong and the mend.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>

#include "daemon/sys/fd.hpp"
#include "policy/configuration.hpp"
#include "policy/subnets.hpp"

namespace userpod {
namespace {

class ConfigurationFiles : public testing::Test {
 protected:
  ConfigurationFiles() {
    EXPECT_NE(::mkdtemp(top_.data()), nullptr);
    std::filesystem::create_directories(top_ + "/etc/userpod.toml.d");
    std::filesystem::create_directories(top_ + "/home/userpod.toml.d");
  }
  ~ConfigurationFiles() override { std::filesystem::remove_all(top_); }

  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(top_ + "/" + name) << text;
    return top_ + "/" + name;
  }
  Configuration read() const { return readConfiguration(top_ + "/home", top_ + "/etc"); }
  // The only problem of a file that says this.
  Problem problemOf(const std::string& text) {
    file_ = write("home/userpod.toml", text);
    auto configuration = read();
    EXPECT_EQ(configuration.problems.size(), 1U) << text;
    return configuration.problems.empty() ? Problem{} : configuration.problems.front();
  }

  std::string top_ = "/var/tmp/userpod-configuration-XXXXXX";
  std::string file_;
};

struct Wrong {
  const char* text;
  unsigned line;
  const char* key;
  const char* what;
  const char* mend;
};

const std::vector<Wrong> kWrong = {
    // Keys.
    {"log-levle = \"info\"", 1, "log-levle", "is not a known key", "did you mean log-level?"},
    {"\n\nlog_level = \"info\"", 3, "log_level", "is not a known key", "did you mean log-level?"},
    {"logLevel = \"info\"", 1, "logLevel", "is not a known key", "did you mean log-level?"},
    {"subnet-6 = \"fd75::/64\"", 1, "subnet-6", "is not a known key", "did you mean subnet6?"},
    {"hooks-dirs = []", 1, "hooks-dirs", "is not a known key", "did you mean hooks-dir?"},
    {"something-else = 1", 1, "something-else", "is not a known key", "userpodd --print-config"},
    {"[crio.runtime]\nlog = 1", 1, "crio", "is not a known key", "userpod.toml(5)"},
    {"insecure-registries = []", 1, "insecure-registries", "is said in registries.conf", "see REGISTRIES"},
    {"registry-mirrors = {}", 1, "registry-mirrors", "is said in registries.conf", "see REGISTRIES"},
    {"pids-limit = 1\npids-limit = 2", 2, "pids-limit", "is there twice", "keep one of them"},
    {"[runtimes.a]\n[runtimes.a]", 2, "runtimes.a", "is there twice", "keep one of them"},
    // TOML.
    {"log-level = info", 1, "", "Error while parsing", "strings in double quotes"},
    {"log-level \"info\"", 1, "", "Error while parsing", "write KEY = VALUE"},
    {"subnet = \"10.88.0.0/16", 1, "", "Error while parsing", "write KEY = VALUE"},
    {"pids-limit = 1\nhooks-dir = [\"/a\"", 2, "", "Error while parsing", "write KEY = VALUE"},
    {"pids-limit = 99999999999999999999", 1, "", "Error while parsing", "write KEY = VALUE"},
    {"pids-limit = 1 conmon = \"\"", 1, "", "Error while parsing", "write KEY = VALUE"},
    {"# fine\nconmon = \"/\xff\"", 2, "", "is not UTF-8", "save it as UTF-8"},
    // Types.
    {"log-level = 6", 1, "log-level", "is a number, not a string", "write one of \"error\""},
    {"host-loopback = \"yes\"", 1, "host-loopback", "is a string, not true or false", "without quotes"},
    {"ignore-chown-errors = 1", 1, "ignore-chown-errors", "is a number, not true or false", "write true or false"},
    {"pids-limit = \"100\"", 1, "pids-limit", "is a string, not a whole number", "without quotes"},
    {"pids-limit = 1.5", 1, "pids-limit", "is a number with a fraction", "write a number of processes"},
    {"pids-limit = true", 1, "pids-limit", "is true or false, not a whole number", "write a number"},
    {"pull-stall-timeout = 2026-11-29", 1, "pull-stall-timeout", "is a date or time", "write a number of seconds"},
    {"hooks-dir = \"/a\"", 1, "hooks-dir", "is a string, not an array of strings", "write [\"/absolute/path\"]"},
    {"hooks-dir = [\n \"/a\",\n 7]", 3, "hooks-dir", "is a number, not a string", "write \"/absolute/path\""},
    {"pinned-images = {}", 1, "pinned-images", "is a table, not an array of strings", "write ["},
    {"conmon = [\"/usr/bin/conmon\"]", 1, "conmon", "is an array, not a string", "write an absolute path"},
    {"subnet = 10", 1, "subnet", "is a number, not a string", "10.88.0.0/16"},
    {"nofile = 1024", 1, "nofile", "is a number, not a string", "SOFT:HARD"},
    {"runtimes = \"crun\"", 1, "runtimes", "is a string, not a table", "write [runtimes.NAME]"},
    {"[runtimes]\nrunc = \"/usr/bin/runc\"", 2, "runtimes.runc", "is a string, not a table", "write [runtimes.runc]"},
    {"[runtimes.runc]\npath = 1", 2, "runtimes.runc.path", "is a number, not a string", "write"},
    {"[runtimes.runc]\npaht = \"/x\"", 2, "runtimes.runc.paht", "is not a known key", "one key, path"},
    // Values.
    {"log-level = \"warn\"", 1, "log-level", "\"warn\" is not one of \"error\"", "write one of them"},
    {"log-level = \"warnign\"", 1, "log-level", "\"warnign\" is not one of", "did you mean \"warning\"?"},
    {"storage-driver = \"overlay2\"", 1, "storage-driver", "is not one of", "did you mean \"overlay\"?"},
    {"network = \"host\"", 1, "network", "\"host\" is not one of \"bridge\", \"cni\"", "write one of them"},
    {"uplink = \"slirp\"", 1, "uplink", "is not one of", "write one of them"},
    {"pids-limit = -1", 1, "pids-limit", "-1 is out of range", "from 0 to 4194304"},
    {"pids-limit = 4194305", 1, "pids-limit", "4194305 is out of range", "from 0 to 4194304"},
    {"cni-timeout = 0", 1, "cni-timeout", "0 is out of range", "from 1 to 3600"},
    {"address-reuse-delay = 86401", 1, "address-reuse-delay", "is out of range", "from 0 to 86400"},
    {"privileged-port-offset = 65000", 1, "privileged-port-offset", "is out of range", "from 0 to 64512"},
    {"image-size-limit = 1000", 1, "image-size-limit", "1000 is out of range", "0 or from 1048576"},
    {"image-entries-limit = -5", 1, "image-entries-limit", "-5 is out of range", "0 or from 1"},
    {"image-ratio-limit = 1", 1, "image-ratio-limit", "1 is out of range", "0 or from 2"},
    {"pull-stall-timeout = 100000", 1, "pull-stall-timeout", "is out of range", "0 or from 1 to 86400"},
    {"nofile = \"2:1\"", 1, "nofile", "\"2:1\" is no limit of open files", "the second is not the smaller"},
    {"nofile = \"1024\"", 1, "nofile", "is no limit of open files", "SOFT:HARD"},
    {"conmon = \"bin/conmon\"", 1, "conmon", "\"bin/conmon\" is not an absolute path", "begin it with /"},
    {"conmon = \"~/bin/conmon\"", 1, "conmon", "~ and $VARIABLES are not resolved", "begin it with /"},
    {"pasta = \"/usr/../bin/pasta\"", 1, "pasta", "has .. in it", "write the path that is meant"},
    {"slirp4netns = \"/bin/a\\tb\"", 1, "slirp4netns", "has a control character in it", "take it out"},
    {"hooks-dir = [\"hooks\"]", 1, "hooks-dir", "\"hooks\" is not an absolute path", "begin it with /"},
    {"cdi-spec-dirs = [\"$HOME/cdi\"]", 1, "cdi-spec-dirs", "$VARIABLES are not resolved", "begin it with /"},
    {"cni-plugin-dirs = []", 1, "cni-plugin-dirs", "names no directory", "take the key out for the default"},
    {"cni-network = \"a/b\"", 1, "cni-network", "\"a/b\" is no name", "letters, digits"},
    {"pinned-images = [\"a*b\"]", 1, "pinned-images", "\"a*b\" names no image", "NAME*"},
    {"pinned-images = [\"*\"]", 1, "pinned-images", "\"*\" names no image", "NAME*"},
    {"pinned-images = [\"\"]", 1, "pinned-images", "\"\" names no image", "write a name"},
    {"[runtimes.userpod-pause]", 1, "runtimes.userpod-pause", "is no name of a runtime handler", "not userpod's own"},
    {"[runtimes.\"a/b\"]", 1, "runtimes.a/b", "is no name of a runtime handler", "letters, digits"},
    {"[runtimes.runc]\npath = \"runc\"", 2, "runtimes.runc.path", "is not an absolute path", "begin it with /"},
    // Subnets.
    {"subnet = \"10.88.0.0\"", 1, "subnet", "it is not well-formed", "10.88.0.0/16"},
    {"subnet = \"10.88.0.0/31\"", 1, "subnet", "its prefix length is not 8 to 30", "10.88.0.0/16"},
    {"subnet = \"10.88.3.7/16\"", 1, "subnet", "bits beyond the prefix are set", "write 10.88.0.0/16"},
    {"subnet = \"127.0.0.0/16\"", 1, "subnet", "pods cannot have such addresses", "a private range"},
    {"subnet = \"10.0.0.0/8\"", 1, "subnet", "overlaps the uplink's own network 10.0.2.0/24", "use another"},
    {"subnet = \"fd75::/64\"", 1, "subnet", "it is not well-formed", "an IPv4 subnet"},
    {"subnet6 = \"fd75::1/64\"", 1, "subnet6", "bits beyond the prefix are set", "write fd75::/64"},
    {"subnet6 = \"fe80::/64\"", 1, "subnet6", "pods cannot have such addresses", "unique local range"},
    {"subnet6 = \"fd00::/64\"", 1, "subnet6", "overlaps the uplink's own network fd00::/64", "use another"},
    {"subnet6 = \"10.88.0.0/16\"", 1, "subnet6", "it is not well-formed", "an IPv6 subnet"},
    // Keys together.
    {"subnet6 = \"fd75::/113\"", 1, "subnet6", "no room for as many pods as 10.88.0.0/16 has", "at most 112"},
    {"default-runtime = \"runc\"", 1, "default-runtime", "has no table in [runtimes]", "[runtimes.runc]"},
    {"default-runtime = \"krun\"", 1, "default-runtime", "has no table in [runtimes]", "did you mean \"crun\"?"},
    {"default-runtime = \"\"", 1, "default-runtime", "\"\" is no name", "letters, digits"},
};

TEST_F(ConfigurationFiles, EveryMistakeIsNamedWithItsMend) {
  EXPECT_GE(kWrong.size(), 40U);
  for (const auto& wrong : kWrong) {
    SCOPED_TRACE(wrong.text);
    auto problem = problemOf(wrong.text);
    EXPECT_EQ(problem.weight, Problem::Weight::Error);
    EXPECT_EQ(problem.file, file_);
    EXPECT_EQ(problem.line, wrong.line);
    EXPECT_EQ(problem.key, wrong.key);
    EXPECT_NE(problem.what.find(wrong.what), std::string::npos) << problem.what;
    EXPECT_NE(problem.mend.find(wrong.mend), std::string::npos) << problem.mend;
    EXPECT_TRUE(problem.text().starts_with(file_ + ":" + std::to_string(wrong.line) + ":")) << problem.text();
    EXPECT_FALSE(read().valid());
  }
}

TEST_F(ConfigurationFiles, AWrongValueLeavesWhatWasSaidBefore) {
  write("etc/userpod.toml", "pids-limit = 7\nhooks-dir = [\"/a\"]");
  problemOf("pids-limit = \"x\"\nhooks-dir = [\"/b\"]");
  auto configuration = read();
  EXPECT_EQ(configuration.settings.pidsLimit, 7);
  EXPECT_EQ(configuration.settings.hooksDirs, std::vector<std::string>{"/b"});
}

TEST_F(ConfigurationFiles, SyntaxHasItsColumn) {
  auto problem = problemOf("log-level = info");
  EXPECT_GT(problem.column, 1U);
  EXPECT_TRUE(problem.text().starts_with(fmt::format("{}:1:{}: ", file_, problem.column))) << problem.text();
}

TEST_F(ConfigurationFiles, AllProblemsOfAllFilesAreTold) {
  write("etc/userpod.toml", "log-level = \"loud\"\nsubnet = \"x\"");
  write("home/userpod.toml", "pids-limit = -1\nunknown = 1\nhost-loopback = 1");
  write("home/userpod.toml.d/10-a.toml", "x = [");
  auto configuration = read();
  EXPECT_EQ(configuration.problems.size(), 6U);
  EXPECT_NE(configuration.status().error().text().find("and 5 more"), std::string::npos);
  EXPECT_EQ(configuration.status().error().code(), Code::ConfigInvalid);
  std::vector<unsigned> lines;
  for (const auto& problem : configuration.problems) lines.push_back(problem.line);
  EXPECT_EQ(lines, (std::vector<unsigned>{1, 2, 1, 2, 3, 1}));
}

TEST_F(ConfigurationFiles, LaterFilesReplaceEarlierOnes) {
  write("etc/userpod.toml", "pids-limit = 1");
  EXPECT_EQ(read().settings.pidsLimit, 1);
  write("etc/userpod.toml.d/20-a.toml", "pids-limit = 2");
  write("etc/userpod.toml.d/10-a.toml", "pids-limit = 9");
  EXPECT_EQ(read().settings.pidsLimit, 2);
  write("home/userpod.toml", "pids-limit = 3");
  EXPECT_EQ(read().settings.pidsLimit, 3);
  auto last = write("home/userpod.toml.d/10-a.toml", "\npids-limit = 4");
  auto configuration = read();
  EXPECT_EQ(configuration.settings.pidsLimit, 4);
  EXPECT_EQ(configuration.origins.find("pids-limit")->second.file, last);
  EXPECT_EQ(configuration.origins.find("pids-limit")->second.line, 2U);
  EXPECT_EQ(configuration.files.size(), 5U);
}

TEST_F(ConfigurationFiles, NoFilesAreTheDefaults) {
  std::filesystem::remove_all(top_ + "/home");
  std::filesystem::remove_all(top_ + "/etc");
  auto configuration = read();
  EXPECT_TRUE(configuration.problems.empty());
  EXPECT_TRUE(changesBetween(configuration.settings, defaultSettings(top_ + "/home")).empty());
}

TEST_F(ConfigurationFiles, WhatIsNoFileIsNotWaitedFor) {
  std::string file = top_ + "/home/userpod.toml";
  ASSERT_EQ(::mkfifo(file.c_str(), 0600), 0);
  EXPECT_EQ(read().problems.at(0).what, "is not a file");
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  EXPECT_EQ(read().problems.at(0).what, "is not a file");
  std::filesystem::remove(file);
  std::filesystem::create_symlink("/nowhere", file);
  EXPECT_EQ(read().problems.at(0).what, "is a link to a file that does not exist");
  std::filesystem::remove(file);
  write("home/userpod.toml", "#" + std::string(1 << 20, 'x'));
  EXPECT_NE(read().problems.at(0).what.find("is larger than 1048576 bytes"), std::string::npos);
  EXPECT_EQ(read().problems.size(), 1U);
}

TEST_F(ConfigurationFiles, WhatCannotBeReadIsNamed) {
  if (::geteuid() == 0) GTEST_SKIP() << "root reads everything";
  auto file = write("home/userpod.toml", "");
  ASSERT_EQ(::chmod(file.c_str(), 0), 0);
  ASSERT_EQ(::chmod((top_ + "/etc/userpod.toml.d").c_str(), 0), 0);
  auto problems = read().problems;
  ASSERT_EQ(::chmod((top_ + "/etc/userpod.toml.d").c_str(), 0700), 0);
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_EQ(problems[0].file, top_ + "/etc/userpod.toml.d");
  EXPECT_NE(problems[0].what.find("Permission denied"), std::string::npos);
  EXPECT_EQ(problems[1].file, file);
  EXPECT_NE(problems[1].what.find("cannot be read"), std::string::npos);
  EXPECT_NE(problems[1].mend.find("make it readable"), std::string::npos);
}

TEST_F(ConfigurationFiles, ADropInOfAnotherNameIsAHint) {
  auto file = write("home/userpod.toml.d/10-a.conf", "nonsense");
  write("home/userpod.toml.d/.10-a.toml.swp", "nonsense");
  write("home/userpod.toml.d/10-a.toml~", "nonsense");
  auto configuration = read();
  ASSERT_EQ(configuration.problems.size(), 1U);
  EXPECT_TRUE(configuration.valid());
  EXPECT_EQ(configuration.problems[0].text(),
            file + ": warning: is not read: its name does not end in .toml; rename it, or move it away");
}

TEST_F(ConfigurationFiles, ADirectoryOfDropInsIsOne) {
  std::filesystem::remove(top_ + "/home/userpod.toml.d");
  auto file = write("home/userpod.toml.d", "");
  auto problems = read().problems;
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_NE(problems[0].what.find("is no directory to be read"), std::string::npos);
}

TEST_F(ConfigurationFiles, AnItemThatIsThereTwiceIsAHint) {
  auto problem = problemOf("hooks-dir = [\"/a\", \"/a\"]");
  EXPECT_EQ(problem.weight, Problem::Weight::Warning);
  EXPECT_TRUE(read().valid());
}

TEST_F(ConfigurationFiles, TheHostMustFit) {
  write("home/userpod.toml",
        "conmon = \"/nowhere/conmon\"\nhooks-dir = [\"/nowhere\"]\nuplink = \"pasta\"\npasta = \"/etc/passwd\"\n"
        "slirp4netns = \"/nowhere/slirp\"\ncni-network = \"pods\"\n[runtimes.crun]\npath = \"/nowhere/crun\"\n"
        "[runtimes.other]\npath = \"/nowhere/other\"");
  auto configuration = read();
  EXPECT_TRUE(configuration.problems.empty());
  checkHost(configuration);
  std::map<std::string, std::string> told;
  for (const auto& problem : configuration.problems) told[problem.key + problem.what] = problem.text();
  auto expect = [&](const std::string& key, const std::string& text) {
    bool found = std::any_of(configuration.problems.begin(), configuration.problems.end(), [&](const Problem& problem) {
      return problem.key == key && problem.text().find(text) != std::string::npos;
    });
    EXPECT_TRUE(found) << key << ": " << text;
  };
  expect("conmon", "userpod.toml:1: conmon: /nowhere/conmon does not exist; install it, or correct the path");
  expect("hooks-dir", ":2: warning: hooks-dir: /nowhere is not a directory");
  expect("pasta", ":4: pasta: /etc/passwd is no program that can be run");
  expect("slirp4netns", ":5: warning: slirp4netns: /nowhere/slirp does not exist");
  expect("cni-network", ":6: warning: cni-network: is not used with network = \"bridge\"");
  expect("runtimes", ": runtimes: /nowhere/crun does not exist");
  expect("runtimes", ": warning: runtimes: /nowhere/other does not exist");
  EXPECT_EQ(configuration.problems.size(), 7U);
}

// What says another value for every key than its default.
constexpr const char* kAll = R"(
log-level = "debug"
uplink = "none"
pasta = "/opt/pasta"
slirp4netns = "/opt/slirp\"4\\netns"
host-loopback = true
network = "cni"
subnet = "192.168.0.0/24"
subnet6 = "fd76::/64"
address-reuse-delay = 1
privileged-port-offset = 8000
cni-config-dirs = ["/a", "/b c"]
cni-plugin-dirs = ["/d"]
cni-network = "pods"
cni-timeout = 5
image-size-limit = 0
image-entries-limit = 0
image-ratio-limit = 0
pinned-images = ["registry.k8s.io/pause:*", "*/müsli*"]
ignore-chown-errors = true
pull-stall-timeout = 0
storage-driver = "copy"
conmon = "/opt/conmon"
nofile = "1024:2048"
pids-limit = 100
allow-runtime-directory-mounts = true
cdi-spec-dirs = []
hooks-dir = ["/hooks"]
default-runtime = "my.runc"
[runtimes."my.runc"]
path = "/opt/runc"
)";

TEST_F(ConfigurationFiles, WhatIsPrintedSaysTheSame) {
  write("home/userpod.toml", kAll);
  auto configuration = read();
  ASSERT_TRUE(configuration.problems.empty()) << configuration.problems[0].text();
  auto keys = settingKeys(top_ + "/home");
  EXPECT_EQ(changesBetween(defaultSettings(top_ + "/home"), configuration.settings).size(), keys.size());
  std::string printed = printConfiguration(configuration, top_ + "/home");
  EXPECT_NE(printed.find("# Set by " + top_ + "/home/userpod.toml:2\nlog-level = \"debug\"\n"), std::string::npos);
  EXPECT_NE(printed.find("# Default: \"info\"\n"), std::string::npos);
  for (const auto& key : keys) EXPECT_FALSE(key.documentation.empty() || key.type.empty()) << key.name;
  write("home/userpod.toml", printed);
  auto again = read();
  EXPECT_TRUE(again.problems.empty()) << again.problems[0].text();
  for (const auto& change : changesBetween(configuration.settings, again.settings))
    ADD_FAILURE() << change.key << ": " << change.before << " became " << change.now;
  EXPECT_TRUE(again.settings.nofileSet);
  // The defaults alone too, all of them said.
  std::filesystem::remove(top_ + "/home/userpod.toml");
  write("home/userpod.toml", printConfiguration(read(), top_ + "/home"));
  again = read();
  EXPECT_TRUE(again.problems.empty());
  EXPECT_EQ(again.origins.size(), keys.size());
  EXPECT_TRUE(changesBetween(defaultSettings(top_ + "/home"), again.settings).empty());
  EXPECT_FALSE(again.settings.nofileSet);
}

TEST_F(ConfigurationFiles, ProgramsReadItToo) {
  write("home/userpod.toml", "pids-limit = 5\nlog-level = 1");
  auto configuration = read();
  auto printed = nlohmann::json::parse(printConfigurationJson(configuration, top_ + "/home"));
  EXPECT_EQ(printed.size(), settingKeys(top_ + "/home").size());
  EXPECT_EQ(printed["pids-limit"]["value"], 5);
  EXPECT_EQ(printed["pids-limit"]["default"], 0);
  EXPECT_EQ(printed["pids-limit"]["line"], 1);
  EXPECT_EQ(printed["pids-limit"]["applies"], "reload");
  EXPECT_FALSE(printed["subnet"].contains("file"));
  auto problems = nlohmann::json::parse(printProblemsJson(configuration.problems));
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0]["key"], "log-level");
  EXPECT_EQ(problems[0]["line"], 2);
  EXPECT_EQ(problems[0]["weight"], "error");
}

TEST_F(ConfigurationFiles, AReloadTakesOverWhatCanCount) {
  write("home/userpod.toml", kAll);
  Settings before = defaultSettings(top_ + "/home");
  Settings wanted = read().settings;
  Settings merged = takeOver(before, wanted);
  for (const auto& change : changesBetween(before, merged)) EXPECT_EQ(change.applies, Applies::Reload) << change.key;
  for (const auto& change : changesBetween(merged, wanted)) EXPECT_NE(change.applies, Applies::Reload) << change.key;
  EXPECT_EQ(merged.pidsLimit, 100);
  EXPECT_EQ(merged.nofile.soft, 1024U);
  EXPECT_EQ(merged.subnet, before.subnet);
  EXPECT_EQ(merged.defaultRuntime, "crun");
  EXPECT_EQ(changesBetween(before, merged).size() + changesBetween(merged, wanted).size(),
            changesBetween(before, wanted).size());
}

TEST(LiveSettings, CopiesAreTheSameAndWhatWasTakenStays) {
  LiveSettings live;
  LiveSettings copy = live;
  auto taken = copy.current();
  Settings next;
  next.pidsLimit = 9;
  live.replace(next);
  EXPECT_EQ(copy.current()->pidsLimit, 9);
  EXPECT_EQ(taken->pidsLimit, 0);
}

// The text of a man page, without its macros: words by single spaces.
std::string plainText(const std::string& roff) {
  std::string text;
  std::istringstream lines(roff);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(".It Li ")) line = "\n" + line.substr(7);
    text += std::regex_replace(std::regex_replace(line, std::regex(R"(\\\(dq)"), "\""), std::regex("\\\\&"), "") + " ";
  }
  return text;
}

TEST(ManPage, DocumentsEveryKeyWithItsDefault) {
  auto page = readFile(USERPOD_MAN "/userpod.toml.5");
  ASSERT_TRUE(page) << page.error().text();
  std::string text = plainText(*page);
  for (const auto& key : settingKeys("~/.config/userpod")) {
    if (key.name == "runtimes") {
      EXPECT_NE(text.find("\n[runtimes. "), std::string::npos);
      continue;
    }
    std::string value = key.standard;
    if (value.starts_with('"')) value = "Qq " + value.substr(1, value.size() - 2);
    auto shown = text.find(key.name + " No = " + value.substr(0, value.find_last_not_of(' ') + 1));
    EXPECT_NE(shown, std::string::npos) << key.name << " = " << key.standard << " is not in userpod.toml(5)";
  }
}

}  // namespace
}  // namespace userpod
