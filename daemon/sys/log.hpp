// Logging: native journal entries with fields when standard error is the journal, else "<N>text" lines or plain text.
// Nothing here waits for a journal that takes nothing: see journal.hpp.
#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "daemon/sys/error.hpp"

namespace userpod {

enum class Level { Error = 3, Warning = 4, Notice = 5, Info = 6, Debug = 7 };  // numbers of syslog(3)

// By the name in userpod.toml: error, warning, notice, info, debug; of any other, Info.
Level levelNamed(std::string_view name);

// Fields are journal fields: POD_ID, CONTAINER_ID, IMAGE, USERPOD_ERROR... userpodd(8) lists them. Values may hold any
// bytes. Any thread.
using LogField = std::pair<std::string_view, std::string_view>;
using LogFields = std::vector<LogField>;
void logMessage(Level level, std::string_view text, const LogFields& fields = {});
// With the fields of the error: USERPOD_ERROR, and ERRNO if the kernel said one. `before`: "before: text of the error".
void logFailure(Level level, const Error& error, const LogFields& fields = {}, std::string_view before = {});
void setLogLevel(Level highest);
Level logLevel();
// Whether messages go to the journal; else to standard error.
bool logsToJournal();

// An argument of a message that is a field as well: logInfo("pod {} is ready", ofPod(id)).
struct Named {
  std::string_view field;
  std::string_view value;
};
inline Named ofPod(std::string_view id) {
  return {"POD_ID", id};
}
inline Named ofContainer(std::string_view id) {
  return {"CONTAINER_ID", id};
}
inline Named ofImage(std::string_view id) {
  return {"IMAGE", id};
}

// What the arguments of a message say in fields.
class ArgumentFields {
 public:
  template <typename... Args>
  explicit ArgumentFields(const Args&... args) {
    (add(args), ...);
  }
  const LogFields& fields() const { return fields_; }

 private:
  template <typename T>
  void add(const T&) {}
  void add(const Named& named) { fields_.emplace_back(named.field, named.value); }
  void add(const Error& error);

  LogFields fields_;
  std::string number_;  // that a field shows
};

}  // namespace userpod

template <>
struct fmt::formatter<userpod::Named> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  template <typename Context>
  auto format(const userpod::Named& named, Context& context) const {
    return std::copy(named.value.begin(), named.value.end(), context.out());
  }
};
template <>
struct fmt::formatter<userpod::Error> {
  constexpr auto parse(format_parse_context& context) { return context.begin(); }
  template <typename Context>
  auto format(const userpod::Error& error, Context& context) const {
    return std::copy(error.text().begin(), error.text().end(), context.out());
  }
};

namespace userpod {

// Arguments that are an Error or Named become fields too.
template <typename... Args>
void logAt(Level level, fmt::format_string<Args...> format, Args&&... args) {
  if (level > logLevel()) return;
  ArgumentFields fields(args...);
  logMessage(level, fmt::format(format, std::forward<Args>(args)...), fields.fields());
}
template <typename... Args>
void logError(fmt::format_string<Args...> format, Args&&... args) {
  logAt(Level::Error, format, std::forward<Args>(args)...);
}
template <typename... Args>
void logWarning(fmt::format_string<Args...> format, Args&&... args) {
  logAt(Level::Warning, format, std::forward<Args>(args)...);
}
template <typename... Args>
void logNotice(fmt::format_string<Args...> format, Args&&... args) {
  logAt(Level::Notice, format, std::forward<Args>(args)...);
}
template <typename... Args>
void logInfo(fmt::format_string<Args...> format, Args&&... args) {
  logAt(Level::Info, format, std::forward<Args>(args)...);
}
template <typename... Args>
void logDebug(fmt::format_string<Args...> format, Args&&... args) {
  logAt(Level::Debug, format, std::forward<Args>(args)...);
}

}  // namespace userpod
