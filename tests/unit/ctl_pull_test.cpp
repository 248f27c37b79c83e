// How userpodctl pull looks, from the properties of the job.
#include <gtest/gtest.h>

#include "dbus/userpodctl/output.hpp"
#include "dbus/userpodctl/pull_view.hpp"

namespace userpod::ctl {
namespace {

using std::chrono::milliseconds;

const PullState::Clock::time_point kStart{};

std::string digest(int number) {
  return "sha256:" + std::string(60, 'a') + std::to_string(1000 + number);
}

// "sha256:aaaa…" would look alike in twelve digits.
std::string digest(char first) {
  return "sha256:" + std::string(64, first);
}

Json item(const std::string& name, const char* state, std::uint64_t done, std::uint64_t total) {
  return Json::array({name, state, done, total});
}

PullState downloading() {
  PullState pull;
  pull.change({{"Stage", "resolving"}, {"Items", Json::array()}, {"Done", 0}, {"Total", 0}}, kStart);
  for (int i = 0; i <= 2; ++i)
    pull.change({{"Stage", "downloading"},
                 {"Done", 1'000'000 * i + 2'000'000},
                 {"Total", 10'000'000},
                 {"Rate", 1'000'000},
                 {"Items", Json::array({item(digest('b'), "unpacked", 2'000'000, 2'000'000),
                                        item(digest('c'), "downloading", 1'000'000U * i, 6'000'000),
                                        item(digest('d'), "waiting", 0, 2'000'000)})}},
                kStart + milliseconds(1000 * i));
  return pull;
}

TEST(PullBars, OneForEachLayerAndTheSum) {
  auto lines = bars("localhost/x:1", downloading(), {.columns = 80, .rows = 24, .color = false});
  ASSERT_EQ(lines.size(), 5U);
  EXPECT_EQ(lines[0], "downloading localhost/x:1");
  EXPECT_EQ(lines[1], "bbbbbbbbbbbb [================================]  2.0 MB");
  EXPECT_EQ(lines[2], "cccccccccccc [==========>                     ]  2.0 MB of 6.0 MB  1.0 MB/s");
  EXPECT_EQ(lines[3], "dddddddddddd [                                ]  waiting");
  EXPECT_EQ(lines[4], "total        [============>                   ]  4.0 MB of 10.0 MB  1.0 MB/s");
}

TEST(PullBars, FitAnyScreen) {
  auto pull = downloading();
  for (std::size_t columns : {8, 20, 40, 52, 53, 79, 80, 81, 200, 1000})
    for (std::size_t rows : {0, 1, 6, 7, 8, 50}) {
      auto lines = bars(std::string(100, 'n'), pull, {.columns = columns, .rows = rows, .color = false});
      EXPECT_LT(lines.size(), std::max<std::size_t>(rows, 5));
      for (const auto& line : lines) {
        EXPECT_LT(line.size(), columns) << line;
        EXPECT_EQ(line.find('\033'), std::string::npos) << "colour that nobody wants";
      }
    }
}

TEST(PullBars, ColourOnlyWhenWanted) {
  auto lines = bars("x", downloading(), {.columns = 80, .rows = 24, .color = true});
  EXPECT_NE(lines[1].find("\033[32m["), std::string::npos);
  EXPECT_NE(lines[1].find("]\033[0m"), std::string::npos);
  EXPECT_EQ(lines[2].find('\033'), std::string::npos);
}

TEST(PullBars, ThoseAtWorkComeFirstWhereNotAllFit) {
  PullState pull;
  Json items = Json::array();
  for (int i = 0; i < 100; ++i)
    items.push_back(item(digest(i), i < 50 ? "unpacked" : i == 70 ? "downloading" : "waiting", i == 70 ? 5 : 0, 10));
  pull.change({{"Stage", "downloading"}, {"Items", items}}, kStart);
  auto lines = bars("x", pull, {.columns = 80, .rows = 10, .color = false});
  ASSERT_EQ(lines.size(), 7U);
  EXPECT_NE(lines[1].find("5 B of 10 B"), std::string::npos) << lines[1];
  EXPECT_NE(lines[2].find("waiting"), std::string::npos) << lines[2];
  EXPECT_EQ(lines[6], "... 95 more layers; 50 of 100 are done");
}

TEST(PullBars, ForeignTextCannotMoveTheCursor) {
  PullState pull;
  pull.change({{"Stage", "\033[2J"}, {"Items", Json::array({item("sha256:\033]0;x\a", "waiting", 0, 1)})}}, kStart);
  for (const auto& line : bars("\033[31mred\n", pull, {}))
    EXPECT_EQ(line.find_first_of("\033\n\a"), std::string::npos) << line;
  for (const auto& line : Lines().news(pull)) EXPECT_EQ(line.find_first_of("\033\n\a"), std::string::npos) << line;
}

TEST(PullRedraw, GoesBackOverWhatItHasDrawn) {
  Redraw redraw;
  EXPECT_EQ(redraw.over({"one", "two"}, 80), "\rone\033[K\ntwo\033[K\n\033[J");
  EXPECT_EQ(redraw.over({"one"}, 80), "\r\033[2Aone\033[K\n\033[J");
  EXPECT_EQ(redraw.over({std::string(50, 'x'), "\033[32mgreen\033[0m", ""}, 80).substr(0, 5), "\r\033[1A");
  // The window has become narrower: the first line stands on three lines of it now.
  EXPECT_EQ(redraw.over({"x"}, 20).substr(0, 5), "\r\033[5A");
}

TEST(PullLines, EachStageAndLayerOnce) {
  Lines lines;
  PullState pull;
  using Texts = std::vector<std::string>;
  pull.change({{"Stage", ""}}, kStart);
  EXPECT_EQ(lines.news(pull), Texts{});
  pull.change({{"Stage", "resolving"}}, kStart);
  EXPECT_EQ(lines.news(pull), Texts{"resolving"});
  EXPECT_EQ(lines.news(pull), Texts{});
  pull.change({{"Stage", "downloading"}, {"Items", Json::array({item(digest('b'), "downloading", 1, 20)})}}, kStart);
  EXPECT_EQ(lines.news(pull), Texts{"downloading"});
  pull.change({{"Stage", "committing"}, {"Items", Json::array({item(digest('b'), "unpacked", 20, 20)})}}, kStart);
  EXPECT_EQ(lines.news(pull), (Texts{"layer bbbbbbbbbbbb: 20 B", "committing"}));
  pull.interrupted();
  EXPECT_EQ(lines.news(pull), Texts{"canceling"});
  EXPECT_EQ(lines.news(pull), Texts{});
}

TEST(PullJson, HasWhatTheJobSays) {
  auto shown = progressJson(downloading());
  EXPECT_EQ(shown["stage"], "downloading");
  EXPECT_EQ(shown["done"], 4'000'000);
  EXPECT_EQ(shown["rate"], 1'000'000);
  EXPECT_EQ(shown["layers"][1],
            Json({{"digest", digest('c')}, {"state", "downloading"}, {"done", 2'000'000}, {"total", 6'000'000}}));
  EXPECT_EQ(progressJson(PullState())["layers"], Json::array());
}

}  // namespace
}  // namespace userpod::ctl
