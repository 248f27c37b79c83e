// What conmon and OCI runtimes write for userpod to read. Containers have a hand in some of it: pure functions of
// untrusted bytes, any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace userpod::oci {

// The words of crun, runc or conmon without time stamps, prefixes and JSON around them, on one line of UTF-8, cut at
// 4 KiB.
std::string plainMessage(std::string_view text);

// conmon's answer on its sync pipe (--api-version 1): {"data": pid}, or {"data": -1, "message": "the runtime's words"}.
struct MonitorAnswer {
  pid_t pid = 0;      // of the container's process; 0: it was not made
  std::string words;  // why not, as plainMessage() has it; may be empty
};
std::optional<MonitorAnswer> parseMonitorAnswer(std::string_view text);  // nullopt: no answer at all

// A decimal number with white space around it, as in exit files and pid files.
std::optional<std::int32_t> parseNumber(std::string_view text);

}  // namespace userpod::oci
