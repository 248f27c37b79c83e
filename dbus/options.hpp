// Options and filters of a call: an a{sv} read with checks. Options nobody asks for are ignored, as promised in the
// documents; one of the wrong type is an error that names it.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "dbus/compat.hpp"
#include "dbus/paths.hpp"

namespace userpod::bus {

// The D-Bus type of an option, for messages.
template <typename T>
constexpr std::string_view typeName() {
  if constexpr (std::is_same_v<T, bool>) return "b (boolean)";
  if constexpr (std::is_same_v<T, std::uint32_t>) return "u (unsigned, 32 bits)";
  if constexpr (std::is_same_v<T, std::uint64_t>) return "t (unsigned, 64 bits)";
  if constexpr (std::is_same_v<T, std::string>) return "s (string)";
  if constexpr (std::is_same_v<T, sdbus::ObjectPath>) return "o (object path)";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "as (strings)";
  if constexpr (std::is_same_v<T, std::map<std::string, std::string>>) return "a{ss} (strings by strings)";
}

// The value of an option, nothing when absent, InvalidArgument when it has another type.
template <typename T>
Result<std::optional<T>> option(const VariantMap& options, const std::string& name) {
  auto found = options.find(name);
  if (found == options.end()) return std::optional<T>();
  if (!found->second.containsValueOfType<T>())
    return Error(Code::InvalidArgument, fmt::format("option \"{}\" has D-Bus type {}, it must be {}", name,
                                                    cleanText(found->second.peekValueType()), typeName<T>()));
  return std::optional<T>(found->second.get<T>());
}

// A flag: false when absent.
inline Result<bool> flag(const VariantMap& options, const std::string& name) {
  USERPOD_TRY(value, option<bool>(options, name));
  return value.value_or(false);
}

// What a List call asks for.
struct Filter {
  std::optional<std::vector<std::string>> fields;
  std::string state;
  std::map<std::string, std::string> labels;
  std::string pod;  // object path

  // `names`: the properties there are. `states`: the values of State, empty where there is no such filter.
  static Result<Filter> parse(const VariantMap& options, const std::vector<std::string>& names,
                              const std::vector<std::string>& states) {
    auto unknown = [](const std::string& value, const std::vector<std::string>& list) {
      return std::find(list.begin(), list.end(), value) == list.end();
    };
    Filter filter;
    USERPOD_TRY(fields, option<std::vector<std::string>>(options, "fields"));
    for (const auto& field : fields.value_or(std::vector<std::string>()))
      if (unknown(field, names))
        return Error(Code::InvalidArgument, fmt::format("\"fields\" names {}, which is no property", field));
    filter.fields = std::move(fields);
    USERPOD_TRY(labels, option<std::map<std::string, std::string>>(options, "labels"));
    if (labels) filter.labels = std::move(*labels);
    if (states.empty()) return filter;
    USERPOD_TRY(state, option<std::string>(options, "state"));
    if (state && unknown(*state, states))
      return Error(Code::InvalidArgument,
                   fmt::format("\"state\" is {}, it must be one of {}", *state, fmt::join(states, ", ")));
    filter.state = state.value_or("");
    return filter;
  }

  bool wants(const char* property) const {
    return !fields || std::find(fields->begin(), fields->end(), property) != fields->end();
  }
  template <typename View>
  bool fitsLabels(const View& view) const {
    return std::all_of(labels.begin(), labels.end(), [&](const auto& wanted) {
      auto found = view.labels.find(wanted.first);
      return found != view.labels.end() && found->second == wanted.second;
    });
  }
};

}  // namespace userpod::bus
