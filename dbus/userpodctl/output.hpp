// Tables and figures for people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace userpod::ctl {

// Columns padded to their widest cell, two spaces between; the first row is the heading.
std::string table(const std::vector<std::vector<std::string>>& rows);
std::string shortId(const std::string& id);        // 12 digits, without "sha256:"
std::string sizeText(std::uint64_t bytes);         // "12.3 MB", powers of 1000
std::string timeText(std::uint64_t microseconds);  // local time, "-" when 0
// The text with control characters of the terminal replaced: names and messages come from elsewhere.
std::string printable(std::string text);

// Asks on standard output and reads the answer from standard input.
bool confirmed(const std::string& question);
bool colorWanted();  // NO_COLOR does not forbid it

}  // namespace userpod::ctl
