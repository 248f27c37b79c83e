// top as lines of a terminal.
#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "dbus/userpodctl/output.hpp"
#include "dbus/userpodctl/top_view.hpp"

namespace userpod::ctl {
namespace {

constexpr double kHighPressure = 10;  // percent: below nobody needs to look
constexpr double kPercent = 100;
constexpr double kBusy = 0.8;  // of a core, or of the memory's limit
constexpr std::size_t kLeastName = 12;
constexpr std::size_t kWidestName = 60;
constexpr const char* kAbsent = "-";
constexpr const char* kBoldText = "\033[1m";
constexpr const char* kInverseText = "\033[7m";
constexpr const char* kYellowText = "\033[33m";
constexpr const char* kNoColor = "\033[0m";

std::string percentText(const std::optional<double>& cpu) {
  return cpu ? fmt::format("{:.1f}", *cpu * kPercent) : kAbsent;
}

std::string bytesText(const std::optional<std::uint64_t>& bytes) {
  return bytes ? sizeText(*bytes) : kAbsent;
}

std::string rateText(const std::optional<double>& rate) {
  return rate ? sizeText(static_cast<std::uint64_t>(*rate)) : kAbsent;
}

std::string memoryText(const TopRow& row) {
  std::string text = bytesText(row.memory);
  return row.memoryLimit ? text + " / " + sizeText(*row.memoryLimit) : text;
}

std::string pressureText(const TopRow& row) {
  return row.pressure >= kHighPressure ? fmt::format("{} {:.0f}%", row.pressureOf, row.pressure) : "";
}

struct Column {
  const char* title;
  std::size_t width;
  int priority;  // the lowest goes last when there is no room
  std::string (*text)(const TopRow&);
  TopSort sort;
  bool sortable = true;
};

constexpr std::array kColumns = {
    Column{"CPU%", 7, 0, [](const TopRow& row) { return percentText(row.cpu); }, TopSort::Cpu},
    Column{"MEMORY", 19, 1, memoryText, TopSort::Memory},
    Column{"PIDS", 6, 2, [](const TopRow& row) { return row.tasks ? std::to_string(*row.tasks) : kAbsent; },
           TopSort::Pids},
    Column{"RX/s", 9, 4, [](const TopRow& row) { return rateText(row.received); }, TopSort::Net},
    Column{"TX/s", 9, 4, [](const TopRow& row) { return rateText(row.sent); }, TopSort::Net},
    Column{"IO/s", 9, 6, [](const TopRow& row) { return rateText(row.io); }, TopSort::Io},
    Column{"DISK", 9, 3, [](const TopRow& row) { return bytesText(row.disk); }, TopSort::Name, false},
    Column{"PRESSURE", 11, 5, pressureText, TopSort::Name, false},
};

struct Layout {
  std::size_t name = 0;
  std::vector<const Column*> columns;
};

std::size_t widestName(const std::vector<TopRow>& pods) {
  std::size_t width = kLeastName;
  for (const auto& pod : pods) {
    width = std::max(width, displayWidth(pod.name));
    for (const auto& container : pod.containers) width = std::max(width, displayWidth(container.name) + 2);
  }
  return std::min(width, kWidestName);
}

Layout layoutFor(const std::vector<TopRow>& pods, TopSort by, std::size_t columns) {
  Layout layout;
  layout.name = std::min(widestName(pods), columns);
  // Asked for only when it is sorted by: it takes the daemon longer to read.
  for (const auto& column : kColumns)
    if (column.sort != TopSort::Io || by == TopSort::Io) layout.columns.push_back(&column);
  auto width = [&](std::size_t name) {
    std::size_t all = name;
    for (const auto* column : layout.columns) all += 1 + column->width;
    return all;
  };
  while (!layout.columns.empty() && width(kLeastName) > columns) {
    auto last = std::max_element(layout.columns.begin(), layout.columns.end(),
                                 [](auto* a, auto* b) { return a->priority < b->priority; });
    layout.columns.erase(last);
  }
  std::size_t rest = width(0);
  if (layout.name + rest > columns) layout.name = columns > rest ? columns - rest : 0;
  return layout;
}

std::string rightAligned(std::string text, std::size_t width) {
  std::size_t used = displayWidth(text);
  return used >= width ? fitted(text, width) : std::string(width - used, ' ') + std::move(text);
}

std::string tableLine(const Layout& layout, const std::string& name, const TopRow& row, bool color) {
  std::string line = fitted(name, layout.name);
  for (const auto* column : layout.columns) line += " " + rightAligned(column->text(row), column->width);
  bool full =
      row.memory && row.memoryLimit && static_cast<double>(*row.memory) > kBusy * static_cast<double>(*row.memoryLimit);
  if (color && (full || row.pressure >= kHighPressure)) return kYellowText + line + kNoColor;
  return line;
}

std::string titleLine(const Layout& layout, TopSort by, bool color) {
  std::string line = fitted(by == TopSort::Name ? "NAME*" : "NAME", layout.name);
  for (const auto* column : layout.columns) {
    bool sorted = column->sortable && column->sort == by;
    line += " " + rightAligned(column->title + std::string(sorted ? "*" : ""), column->width);
  }
  return color ? kInverseText + line + kNoColor : line;
}

std::vector<std::string> header(const TopSample& sample, const TopScreen& screen) {
  auto time = timeText(sample.time);
  std::string clock = time.size() > 8 ? time.substr(time.size() - 8) : time;
  std::string first = fmt::format("userpod {}  {}  {}  {} pods, {} containers, {} running", sample.version,
                                  sample.state, clock, sample.pods.size(), sample.containers, sample.running);
  const TopRow& total = sample.total;
  std::string second = fmt::format("cpu {}%  memory {}  pids {}  rx {}/s  tx {}/s  disk {}", percentText(total.cpu),
                                   bytesText(total.memory), total.tasks ? std::to_string(*total.tasks) : kAbsent,
                                   rateText(total.received), rateText(total.sent), bytesText(total.disk));
  std::vector<std::string> lines = {fitted(first, screen.columns), fitted(second, screen.columns)};
  if (!sample.problem.empty()) lines.push_back(fitted(sample.problem, screen.columns));
  if (screen.color) lines.front() = kBoldText + lines.front() + kNoColor;
  if (screen.color && !sample.problem.empty()) lines.back() = kYellowText + lines.back() + kNoColor;
  return lines;
}

}  // namespace

std::vector<std::string> topLines(const TopSample& sample, TopSort by, const TopScreen& screen) {
  auto pods = sample.pods;
  sortRows(pods, by);
  Layout layout = layoutFor(pods, by, screen.columns);
  auto lines = header(sample, screen);
  lines.push_back(titleLine(layout, by, screen.color));
  std::vector<std::string> notes;
  for (const auto& note : sample.notes) notes.push_back(fitted(note, screen.columns));
  std::vector<std::string> table;
  for (const auto& pod : pods) {
    table.push_back(tableLine(layout, pod.name, pod, screen.color));
    for (const auto& container : pod.containers)
      table.push_back(tableLine(layout, "  " + container.name, container, screen.color));
  }
  if (screen.rows > 0) {
    // The figures before the notes, of which one at least is shown.
    std::size_t room = screen.rows > lines.size() ? screen.rows - lines.size() : 0;
    std::size_t kept = std::min(notes.size(), room > table.size() ? room - table.size() : std::size_t{room > 2});
    notes.resize(kept);
    room -= kept;
    if (table.size() > room) {
      std::size_t more = table.size() - (room > 0 ? room - 1 : 0);
      table.resize(room);
      if (room > 0) table.back() = fitted(fmt::format("... {} more lines", more), screen.columns);
    }
  }
  lines.insert(lines.end(), table.begin(), table.end());
  lines.insert(lines.end(), notes.begin(), notes.end());
  if (screen.rows > 0 && lines.size() > screen.rows) lines.resize(screen.rows);
  return lines;
}

}  // namespace userpod::ctl
