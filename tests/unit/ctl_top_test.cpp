// What top and check show.
#include <gtest/gtest.h>

#include <clocale>

#include "dbus/userpodctl/check_view.hpp"
#include "dbus/userpodctl/top_view.hpp"

namespace userpod::ctl {
namespace {

class Top : public testing::Test {
 protected:
  void SetUp() override { ASSERT_NE(std::setlocale(LC_CTYPE, "C.UTF-8"), nullptr); }
};

constexpr std::uint64_t kSecond = 1'000'000;

Json podJson(const std::string& id, const std::string& name) {
  return {{"Path", "/pods/" + id}, {"Id", id}, {"Name", name}, {"Namespace", "ns"}, {"State", "ready"}};
}

Json containerJson(const std::string& id, const std::string& pod, const std::string& name) {
  return {{"Path", "/containers/" + id}, {"Id", id}, {"Name", name}, {"Pod", "/pods/" + pod}, {"State", "running"}};
}

// One pod with one container that has used half a core since the moment before.
TopAnswers answersAt(std::uint64_t seconds) {
  TopAnswers answers;
  answers.time = seconds * kSecond;
  answers.manager = {{"Version", "1.2"}, {"State", "running"}, {"ContainerCount", 2U}, {"RunningCount", 1U}};
  answers.pods = Json::array({podJson("p", "web")});
  answers.containers = Json::array({containerJson("c", "p", "main"), containerJson("gone", "other", "stray")});
  Json figures = {{"timestamp", seconds * kSecond},
                  {"cpu-usage-nsec", seconds * 500'000'000},
                  {"memory-working-set", 50'000'000U},
                  {"memory-limit", 100'000'000U},
                  {"tasks", 3U},
                  {"io-pressure-some", 42.0},
                  {"cpu-pressure-some", 1.0}};
  Json pod = figures;
  pod["network-timestamp"] = seconds * kSecond;
  pod["interfaces"] = Json::array({{{"received-bytes", seconds * 1000}, {"sent-bytes", seconds * 3000}},
                                   {{"received-bytes", seconds * 1000}, {"sent-bytes", 0U}}});
  figures["layer-bytes"] = 7'000'000U;
  answers.stats = {{"/pods/p", pod}, {"/containers/c", figures}};
  return answers;
}

TopSample twoLooks() {
  TopHistory history;
  history.add(answersAt(10));
  return history.add(answersAt(12));
}

TEST_F(Top, RatesAreOfTwoLooks) {
  TopHistory history;
  auto first = history.add(answersAt(10));
  EXPECT_FALSE(first.pods.at(0).cpu);
  auto sample = history.add(answersAt(12));
  ASSERT_EQ(sample.pods.size(), 1U);
  const auto& pod = sample.pods[0];
  EXPECT_DOUBLE_EQ(*pod.cpu, 0.5);
  EXPECT_DOUBLE_EQ(*pod.received, 2000);
  EXPECT_DOUBLE_EQ(*pod.sent, 3000);
  EXPECT_EQ(pod.pressureOf, "io");
  ASSERT_EQ(pod.containers.size(), 1U) << "those of pods that are not listed are left out";
  EXPECT_EQ(*pod.containers[0].disk, 7'000'000U);
  EXPECT_EQ(*pod.disk, 7'000'000U) << "of its containers";
  EXPECT_DOUBLE_EQ(*sample.total.cpu, 0.5);
  auto again = answersAt(14);
  again.stats["/pods/p"]["cpu-usage-nsec"] = 1U;
  EXPECT_FALSE(history.add(again).pods[0].cpu) << "a counter that began anew tells nothing";
}

TEST_F(Top, WhatIsMissingIsADashAndTold) {
  auto answers = answersAt(10);
  answers.stats["/containers/c"] = {{"timestamp", 10 * kSecond}};
  answers.manager["Conditions"] =
      Json::array({Json::array({"CgroupDelegation", false, "X", "not delegated: all"}),
                   Json::array({"Uplink", false, "Y", "it ended"}), Json::array({"Store", true, "", ""})});
  TopHistory history;
  auto sample = history.add(answers);
  ASSERT_EQ(sample.notes.size(), 2U);
  EXPECT_NE(sample.notes[0].find("memory, pids; the controller is not delegated"), std::string::npos);
  EXPECT_EQ(sample.notes[1], "Uplink: it ended");
  auto lines = topLines(sample, TopSort::Cpu, {.columns = 100, .rows = 0});
  EXPECT_NE(lines.at(4).find("  main"), std::string::npos);
  EXPECT_NE(lines.at(4).find(" -"), std::string::npos) << lines.at(4);
}

TEST_F(Top, WhateverIsAnsweredMakesASample) {
  TopHistory history;
  TopAnswers odd;
  for (const auto& value : {Json(), Json(17), Json("text"), Json::array({1, "x", Json::array()}), Json::object()}) {
    odd.manager = odd.pods = odd.containers = odd.stats = value;
    auto sample = history.add(odd);
    for (const auto& line : topLines(sample, TopSort::Io, {.columns = 20, .rows = 5}))
      EXPECT_EQ(displayWidth(line), 20U);
  }
  auto broken = answersAt(1);
  broken.stats["/pods/p"] = {{"cpu-usage-nsec", -1}, {"tasks", "many"}, {"interfaces", 3}, {"network-timestamp", 1U}};
  EXPECT_FALSE(history.add(broken).pods.at(0).tasks);
}

TEST_F(Top, ManyFitAnyScreen) {
  auto sample = twoLooks();
  for (int i = 0; i < 500; ++i) {
    auto pod = sample.pods[0];
    pod.name = "ns/\xe6\xbc\xa2\xe5\xad\x97-\033[2J\u202e" + std::to_string(i);
    sample.pods.push_back(pod);
  }
  sample.notes = {"one", std::string(300, 'n')};
  for (std::size_t columns : {1, 5, 12, 20, 39, 40, 80, 81, 200})
    for (std::size_t rows : {1, 2, 3, 4, 5, 24, 100}) {
      auto lines = topLines(sample, TopSort::Cpu, {.columns = columns, .rows = rows});
      EXPECT_LE(lines.size(), rows);
      for (const auto& line : lines) {
        EXPECT_LE(displayWidth(line), columns) << line;
        EXPECT_EQ(line.find('\033'), std::string::npos) << "somebody else's control characters";
        EXPECT_EQ(line.find("\u202e"), std::string::npos);
      }
    }
  auto lines = topLines(sample, TopSort::Cpu, {.columns = 80, .rows = 24});
  EXPECT_EQ(lines.size(), 24U);
  EXPECT_NE(lines[22].find("more lines"), std::string::npos) << lines[22];
}

TEST_F(Top, SortsByWhatIsAsked) {
  std::vector<TopRow> rows(3);
  rows[0].name = "b";
  rows[0].cpu = 0.1;
  rows[1].name = "a";
  rows[1].memory = 5;
  rows[2].name = "c";
  rows[2].cpu = 2;
  auto order = [&](TopSort by) {
    sortRows(rows, by);
    return rows[0].name + rows[1].name + rows[2].name;
  };
  EXPECT_EQ(order(TopSort::Cpu), "cba");
  EXPECT_EQ(order(TopSort::Memory), "abc");
  EXPECT_EQ(order(TopSort::Name), "abc");
  EXPECT_EQ(topSort("net"), TopSort::Net);
  EXPECT_FALSE(topSort("shoe-size"));
}

TEST_F(Top, Widths) {
  EXPECT_EQ(displayWidth("abc"), 3U);
  EXPECT_EQ(displayWidth("\xe6\xbc\xa2"), 2U) << "a wide one";
  EXPECT_EQ(displayWidth("e\xcc\x81"), 1U) << "a combining one";
  EXPECT_EQ(fitted("\xe6\xbc\xa2\xe5\xad\x97", 3), "\xe6\xbc\xa2~");
  EXPECT_EQ(fitted("\xe6\xbc\xa2\xe5\xad\x97", 2), "~ ") << "no half of a character";
  EXPECT_EQ(fitted("ab", 4), "ab  ");
  EXPECT_EQ(fitted("a\x01\x9b\xc2\x9b"
                   "b",
                   9),
            "a???b    ")
      << "C0, a stray byte, C1";
  EXPECT_EQ(fitted("anything", 0), "");
  std::string marks = "e";
  for (int i = 0; i < 1000; ++i) marks += "\xcc\x81";
  EXPECT_LT(fitted(marks, 5).size(), 30U) << "a tower of marks";
}

TEST_F(Top, JsonHasWhatIsKnown) {
  auto json = topJson(twoLooks());
  EXPECT_EQ(json["pods"][0]["cpu"], 0.5);
  EXPECT_FALSE(json["pods"][0].contains("io-rate"));
  EXPECT_EQ(json["pods"][0]["containers"][0]["memory-limit"], 100'000'000U);
}

TEST(CheckView, GroupsAndSums) {
  Json result = {
      {"findings", Json::array({{{"code", "layer-missing"},
                                 {"severity", "error"},
                                 {"kind", "layer"},
                                 {"id", "sha256:1"},
                                 {"text", "gone\033[31m"},
                                 {"mend", "pull"},
                                 {"repairable", true},
                                 {"repaired", false},
                                 {"failure", ""}},
                                {{"code", "mode-wrong"}, {"severity", "warning"}, {"kind", "file"}, {"repaired", true}},
                                {{"code", "container-lost"}, {"severity", "info"}, {"kind", "container"}},
                                {{"code", "of-tomorrow"}, {"severity", "dire"}, {"kind", "moon"}},
                                17})}};
  auto findings = findingsOf(result);
  ASSERT_EQ(findings.size(), 4U);
  EXPECT_EQ(findings[3].severity, Finding::Severity::Error);
  EXPECT_EQ(left(findings), 2U);
  EXPECT_EQ(repairable(findings), 1U);
  auto text = findingsText(findings, false);
  EXPECT_EQ(text.find('\033'), std::string::npos);
  EXPECT_LT(text.find("Images"), text.find("Pods and containers"));
  EXPECT_NE(text.find("2 errors, 1 warning, 1 note; 1 repaired; userpodctl check --repair mends 1"), std::string::npos)
      << text;
  EXPECT_NE(findingsText(findings, true).find("\033[1;31m"), std::string::npos);
  EXPECT_EQ(findingsOf(findingsJson(findings).is_array() ? Json({{"findings", findingsJson(findings)}}) : Json()),
            findings);
}

}  // namespace
}  // namespace userpod::ctl
