// What top shows: figures of two moments made into rates, sorted, and drawn as lines. Draws nothing itself.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace userpod::ctl {

using Json = nlohmann::ordered_json;

// Of a pod, or of a container in it. Absent: not available, or not known before a second look.
struct TopRow {
  std::string id;
  std::string name;
  std::string state;                    // of the object: "ready", "running"
  std::optional<double> cpu;            // of one core: 1.5 is one and a half
  std::optional<std::uint64_t> memory;  // working set, bytes
  std::optional<std::uint64_t> memoryLimit;
  std::optional<std::uint64_t> tasks;
  std::optional<double> received, sent;  // bytes a second; of pods
  std::optional<double> io;              // bytes a second, read and written
  std::optional<std::uint64_t> disk;     // bytes of the writable layer
  double pressure = 0;                   // percent of the last 10 s, the highest of them
  std::string pressureOf;                // "cpu", "memory", "io"
  std::vector<TopRow> containers;
};

struct TopSample {
  std::uint64_t time = 0;  // microseconds since the epoch
  std::string version, state;
  std::string problem;  // why there are no figures now; then the rest is of before
  std::size_t containers = 0, running = 0;
  std::vector<std::string> notes;  // conditions that are not met, and what is missing therefore
  std::vector<TopRow> pods;
  TopRow total;
};

// What the daemon answers at one moment.
struct TopAnswers {
  std::uint64_t time = 0;                 // microseconds since the epoch
  Json manager, pods, containers, stats;  // properties; [properties...]; {object: figures}
};

// Remembers counters from one moment to the next. Whatever the daemon sends makes a sample, at worst an empty one.
class TopHistory {
 public:
  TopSample add(const TopAnswers& answers);

 private:
  std::optional<double> rate(const std::string& key, std::uint64_t value, std::uint64_t time);
  TopRow row(const Json& object, const Json& stats);

  struct Counter {
    std::uint64_t value = 0;
    std::uint64_t time = 0;
    bool seen = false;
  };
  std::map<std::string, Counter> counters_;
};

enum class TopSort { Cpu, Memory, Name, Pids, Io, Net };
std::optional<TopSort> topSort(std::string_view name);
void sortRows(std::vector<TopRow>& rows, TopSort by);  // and those within

struct TopScreen {
  std::size_t columns = 80;
  std::size_t rows = 24;  // 0: as many as it takes
  bool color = false;
};
// Header, table, notes: no line wider than the screen, no more lines than it has, no control character.
std::vector<std::string> topLines(const TopSample& sample, TopSort by, const TopScreen& screen);
Json topJson(const TopSample& sample);

// Columns that the text takes on a terminal; of malformed bytes and of control characters one each, as fitted() shows
// them. LC_CTYPE must be one of UTF-8.
std::size_t displayWidth(std::string_view text);
// The text in exactly that many columns: cut with "~" at its end, or filled up. What would move the cursor or turn the
// line around is shown as "?".
std::string fitted(std::string_view text, std::size_t width);

}  // namespace userpod::ctl
