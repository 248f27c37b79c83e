// What a running pull looks like: as bars, as lines, as JSON. Made from the properties of its job; draws nothing
// itself.
#pragma once

#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "daemon/sys/rate.hpp"

namespace userpod::ctl {

using Json = nlohmann::ordered_json;

// Properties of the job: those that changed lately over those that were known.
class PullState {
 public:
  using Clock = RateWindow::Clock;

  void change(const Json& properties, Clock::time_point now);
  void interrupted() { canceling_ = true; }

  struct Layer {
    std::string digest;
    std::string state;
    std::uint64_t done = 0;
    std::uint64_t total = 0;
    std::uint64_t rate = 0;  // bytes a second; 0: not known, or it does not move
    bool finished() const { return state == "unpacked"; }
  };
  const std::vector<Layer>& layers() const { return layers_; }
  std::string stage() const;  // "canceling" once that was asked for
  std::uint64_t done() const { return number("Done"); }
  std::uint64_t total() const { return number("Total"); }
  std::uint64_t rate() const { return number("Rate"); }

 private:
  std::uint64_t number(const char* name) const { return properties_.value(name, std::uint64_t{0}); }

  Json properties_ = Json::object();
  std::vector<Layer> layers_;
  std::map<std::string, RateWindow> rates_;  // by digest
  bool canceling_ = false;
};

struct Screen {
  std::size_t columns = 80;
  std::size_t rows = 24;
  bool color = false;
};

// The pull now: a title, a bar for each layer that fits (those that are at work before those that are done or wait),
// and the sum. No line is wider than the screen, none has a line feed.
std::vector<std::string> bars(const std::string& image, const PullState& pull, const Screen& screen);

// Bytes for the terminal that show `lines` in place of those that were shown before. What was shown is remembered with
// its width: a terminal that has become narrower since has folded those lines.
class Redraw {
 public:
  std::string over(const std::vector<std::string>& lines, std::size_t columns);

 private:
  std::vector<std::size_t> widths_;
};

// For what is no terminal: a line for each stage and each layer that is done, once.
class Lines {
 public:
  std::vector<std::string> news(const PullState& pull);

 private:
  std::string stage_;
  std::map<std::string, bool> told_;
};

Json progressJson(const PullState& pull);

}  // namespace userpod::ctl
