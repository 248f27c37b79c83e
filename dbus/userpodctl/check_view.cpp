#include "dbus/userpodctl/check_view.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "dbus/userpodctl/output.hpp"

namespace userpod::ctl {
namespace {

using Severity = Finding::Severity;
constexpr const char* kEndColor = "\033[0m";

struct Group {
  const char* title;
  std::vector<std::string_view> kinds;  // none: all others
};

const std::vector<Group>& groups() {
  static const std::vector<Group> all = {{"Images", {"image", "layer"}},
                                         {"Pods and containers", {"pod", "container", "record", "cgroup", "mount"}},
                                         {"Network", {"network", "link", "port"}},
                                         {"Files", {}}};
  return all;
}

std::size_t groupOf(const Finding& finding) {
  for (std::size_t i = 0; i < groups().size(); ++i) {
    const auto& kinds = groups()[i].kinds;
    if (kinds.empty() || std::find(kinds.begin(), kinds.end(), finding.kind) != kinds.end()) return i;
  }
  return groups().size() - 1;
}

const char* findingColor(const Finding& finding) {
  if (finding.repaired) return "\033[32m";
  switch (finding.severity) {
    case Severity::Info:
      return "\033[34m";
    case Severity::Warning:
      return "\033[33m";
    default:
      return "\033[1;31m";
  }
}

std::string findingText(const Finding& finding, bool color) {
  std::string text = fmt::format("  {}{:<8}{}  {}  {}\n", color ? findingColor(finding) : "",
                                 finding.repaired ? "repaired" : severityName(finding.severity), color ? kEndColor : "",
                                 printable(finding.code), printable(finding.id));
  text += fmt::format("            {}\n", printable(finding.text));
  if (finding.repaired) return text;
  if (!finding.failure.empty()) text += fmt::format("            not repaired: {}\n", printable(finding.failure));
  if (!finding.mend.empty()) text += fmt::format("            -> {}\n", printable(finding.mend));
  return text;
}

std::string amount(std::size_t count, std::string_view one) {
  return fmt::format("{} {}{}", count, one, count == 1 ? "" : "s");
}

std::string findingField(const Json& row, const char* name) {
  auto found = row.find(name);
  return found != row.end() && found->is_string() ? found->get<std::string>() : std::string();
}

bool findingFlag(const Json& row, const char* name) {
  auto found = row.find(name);
  return found != row.end() && found->is_boolean() && found->get<bool>();
}

}  // namespace

Findings findingsOf(const Json& result) {
  Findings found;
  auto rows = result.find("findings");
  if (rows == result.end() || !rows->is_array()) return found;
  for (const auto& row : *rows) {
    if (!row.is_object()) continue;
    std::string severity = findingField(row, "severity");
    // One that a later daemon has added is taken for the worst.
    auto grave = severity == "info" ? Severity::Info : severity == "warning" ? Severity::Warning : Severity::Error;
    found.push_back({findingField(row, "code"), grave, findingField(row, "kind"), findingField(row, "id"),
                     findingField(row, "text"), findingField(row, "mend"), findingFlag(row, "repairable"),
                     findingFlag(row, "repaired"), findingField(row, "failure")});
  }
  return found;
}

Json findingsJson(const Findings& findings) {
  Json list = Json::array();
  for (const auto& finding : findings)
    list.push_back({{"code", finding.code},
                    {"severity", severityName(finding.severity)},
                    {"kind", finding.kind},
                    {"id", finding.id},
                    {"text", finding.text},
                    {"mend", finding.mend},
                    {"repairable", finding.repairable},
                    {"repaired", finding.repaired},
                    {"failure", finding.failure}});
  return list;
}

std::string findingsText(const Findings& findings, bool color) {
  std::string text;
  for (std::size_t group = 0; group < groups().size(); ++group) {
    std::string part;
    for (const auto& finding : findings)
      if (groupOf(finding) == group) part += findingText(finding, color);
    if (!part.empty()) text += fmt::format("{}\n{}\n", groups()[group].title, part);
  }
  if (findings.empty()) return "Everything that userpod knows of is there, and nothing else.\n";
  auto count = [&](Severity severity) {
    return static_cast<std::size_t>(
        std::count_if(findings.begin(), findings.end(), [&](auto& one) { return one.severity == severity; }));
  };
  auto repaired =
      static_cast<std::size_t>(std::count_if(findings.begin(), findings.end(), [](auto& one) { return one.repaired; }));
  std::string sum =
      fmt::format("{}, {}", amount(count(Severity::Error), "error"), amount(count(Severity::Warning), "warning"));
  if (count(Severity::Info) > 0) sum += fmt::format(", {}", amount(count(Severity::Info), "note"));
  if (repaired > 0) sum += fmt::format("; {} repaired", repaired);
  if (repairable(findings) > 0) sum += fmt::format("; userpodctl check --repair mends {}", repairable(findings));
  return text + sum + "\n";
}

std::size_t repairable(const Findings& findings) {
  return static_cast<std::size_t>(std::count_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.repairable && !finding.repaired && finding.failure.empty();
  }));
}

std::size_t left(const Findings& findings) {
  return static_cast<std::size_t>(std::count_if(findings.begin(), findings.end(), [](const Finding& finding) {
    return finding.severity != Severity::Info && !finding.repaired;
  }));
}

}  // namespace userpod::ctl
