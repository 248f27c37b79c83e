// What a check has found, for people and for scripts.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "daemon/sys/finding.hpp"

namespace userpod::ctl {

using Json = nlohmann::ordered_json;

// Of the result of the job: unknown fields are left alone, missing ones are empty.
Findings findingsOf(const Json& result);
Json findingsJson(const Findings& findings);

// Grouped by what they are about, the gravest first, with a line that sums up.
std::string findingsText(const Findings& findings, bool color);
std::size_t repairable(const Findings& findings);  // of those that are not repaired yet
std::size_t left(const Findings& findings);        // errors and warnings that are not repaired

}  // namespace userpod::ctl
