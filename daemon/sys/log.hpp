// Logging: native journal entries with fields when standard error is the journal, else "<N>text" lines or plain text.
#pragma once

#include <fmt/core.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>

#include "daemon/sys/error.hpp"

namespace userpod {

enum class Level { Error = 3, Warning = 4, Notice = 5, Info = 6, Debug = 7 };  // numbers of syslog(3)

// Fields are journal fields: POD_ID, CONTAINER_ID, IMAGE, USERPOD_ERROR... Values may hold any bytes. Any thread.
using LogField = std::pair<std::string_view, std::string_view>;
void logMessage(Level level, std::string_view text, std::initializer_list<LogField> fields = {});
void setLogLevel(Level highest);
Level logLevel();

template <typename... Args>
void logError(fmt::format_string<Args...> format, Args&&... args) {
  logMessage(Level::Error, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void logWarning(fmt::format_string<Args...> format, Args&&... args) {
  logMessage(Level::Warning, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void logInfo(fmt::format_string<Args...> format, Args&&... args) {
  logMessage(Level::Info, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
void logDebug(fmt::format_string<Args...> format, Args&&... args) {
  if (logLevel() >= Level::Debug) logMessage(Level::Debug, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace userpod
