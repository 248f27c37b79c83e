#include "dbus/userpodctl/pull_view.hpp"

#include <fmt/core.h>

#include <algorithm>

#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

constexpr std::size_t kName = 12;     // of a layer, as elsewhere
constexpr std::size_t kFigures = 32;  // " 123.4 MB of 567.8 MB  12.3 MB/s"
constexpr std::size_t kLeastBar = 6;  // narrower tells nothing
constexpr std::size_t kWidestBar = 50;
constexpr const char* kGreen = "\033[32m";
constexpr const char* kPlain = "\033[0m";

// Characters, not bytes; colours take no room.
std::size_t shownWidth(const std::string& line) {
  std::size_t width = 0;
  bool escape = false;
  for (char c : line) {
    if (c == '\033') escape = true;
    if (!escape && (static_cast<unsigned char>(c) & 0xc0) != 0x80) ++width;
    if (escape && c == 'm') escape = false;
  }
  return width;
}

std::string cut(const std::string& text, std::size_t width) {
  std::size_t end = 0;
  for (std::size_t shown = 0; end < text.size(); ++end) {
    if ((static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) continue;
    if (shown++ == width) break;
  }
  return text.substr(0, end);
}

std::string bar(std::uint64_t done, std::uint64_t total, std::size_t width) {
  std::size_t inner = width - 2;
  auto part = total > 0 ? static_cast<double>(std::min(done, total)) / static_cast<double>(total) : 0.0;
  auto full = static_cast<std::size_t>(part * static_cast<double>(inner));
  std::string text = "[" + std::string(full, '=');
  if (full < inner) text += (done > 0 ? '>' : ' ') + std::string(inner - full - 1, ' ');
  return text + "]";
}

// "NAME [====>   ]  1.2 MB of 3.4 MB  5.6 MB/s", each part as far as there is room.
std::string line(const std::string& name, const PullState::Layer& layer, const Screen& screen) {
  std::size_t columns = screen.columns - 1;  // the last column makes some terminals begin a new line
  std::string figures = layer.total > 0 ? fmt::format("{} of {}", sizeText(layer.done), sizeText(layer.total)) : "";
  std::string right = layer.finished()           ? sizeText(layer.total)
                      : layer.rate > 0           ? fmt::format("{}  {}/s", figures, sizeText(layer.rate))
                      : layer.state == "waiting" ? "waiting"
                                                 : figures;
  std::string text = name + std::string(kName - std::min(kName, shownWidth(name)), ' ');
  if (columns >= kName + 1 + kLeastBar + kFigures) {
    std::string drawn = bar(layer.finished() ? 1 : layer.done, layer.finished() ? 1 : layer.total,
                            std::min(kWidestBar, columns - kName - 1 - kFigures));
    text += " " + (screen.color && layer.finished() ? kGreen + drawn + kPlain : drawn);
  }
  text += "  " + right;
  return shownWidth(text) <= columns ? text : cut(name + "  " + right, columns);
}

}  // namespace

void PullState::change(const Json& properties, Clock::time_point now) {
  for (const auto& [name, value] : properties.items()) properties_[name] = value;
  if (!properties.contains("Items")) return;
  layers_.clear();
  for (const auto& item : properties["Items"]) {
    if (!item.is_array() || item.size() < 4) continue;
    Layer layer{item[0].get<std::string>(), item[1].get<std::string>(), item[2].get<std::uint64_t>(),
                item[3].get<std::uint64_t>()};
    RateWindow& rate = rates_[layer.digest];
    rate.add(now, layer.done);
    layer.rate = rate.rate(now);
    layers_.push_back(std::move(layer));
  }
}

std::string PullState::stage() const {
  return canceling_ ? "canceling" : properties_.value("Stage", std::string());
}

std::vector<std::string> bars(const std::string& image, const PullState& pull, const Screen& screen) {
  std::vector<std::string> lines = {cut(printable(fmt::format("{} {}", pull.stage(), image)), screen.columns - 1)};
  std::vector<const PullState::Layer*> order;
  for (const auto& layer : pull.layers()) order.push_back(&layer);
  std::size_t room = screen.rows > 5 ? screen.rows - 5 : 1;  // title, what is left out, the sum, the cursor, the prompt
  if (order.size() > room) {
    auto rank = [](const PullState::Layer* layer) { return layer->finished() ? 2 : layer->state == "waiting" ? 1 : 0; };
    std::stable_sort(order.begin(), order.end(), [&](auto* a, auto* b) { return rank(a) < rank(b); });
    order.resize(room);
  }
  for (const auto* layer : order) lines.push_back(line(shortId(printable(layer->digest)), *layer, screen));
  if (order.size() < pull.layers().size()) {
    auto finished = std::count_if(pull.layers().begin(), pull.layers().end(), [](auto& one) { return one.finished(); });
    lines.push_back(cut(fmt::format("... {} more layers; {} of {} are done", pull.layers().size() - order.size(),
                                    finished, pull.layers().size()),
                        screen.columns - 1));
  }
  if (pull.total() > 0)
    lines.push_back(
        line("total", {"", pull.stage() == "done" ? "unpacked" : "", pull.done(), pull.total(), pull.rate()}, screen));
  return lines;
}

std::string Redraw::over(const std::vector<std::string>& lines, std::size_t columns) {
  std::size_t rows = 0;
  for (auto width : widths_) rows += width == 0 ? 1 : (width + columns - 1) / columns;
  std::string text = "\r";
  if (rows > 0) text += fmt::format("\033[{}A", rows);
  widths_.clear();
  for (const auto& one : lines) {
    text += one + "\033[K\n";
    widths_.push_back(shownWidth(one));
  }
  return text + "\033[J";
}

std::vector<std::string> Lines::news(const PullState& pull) {
  std::vector<std::string> lines;
  auto layers = [&] {
    for (const auto& layer : pull.layers())
      if (layer.finished() && !std::exchange(told_[layer.digest], true))
        lines.push_back(fmt::format("layer {}: {}", shortId(printable(layer.digest)), sizeText(layer.total)));
  };
  // A layer that came with the news of a later stage was done before it.
  if (stage_ == "downloading") layers();
  if (std::string stage = pull.stage(); stage != stage_) {
    stage_ = stage;
    if (!stage.empty()) lines.push_back(printable(stage));
  }
  layers();
  return lines;
}

Json progressJson(const PullState& pull) {
  Json layers = Json::array();
  for (const auto& layer : pull.layers())
    layers.push_back({{"digest", layer.digest}, {"state", layer.state}, {"done", layer.done}, {"total", layer.total}});
  return {{"stage", pull.stage()},
          {"done", pull.done()},
          {"total", pull.total()},
          {"rate", pull.rate()},
          {"layers", std::move(layers)}};
}

}  // namespace userpod::ctl
