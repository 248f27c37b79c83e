// Kinds of values of userpod.toml: how each is read, checked and copied.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "policy/settings_keys.hpp"

namespace userpod::types {

// The part of a Key that its kind of value decides.
struct Value {
  std::string type;
  std::function<void(const Reading&, const toml::node&, Settings&)> read;
  std::function<nlohmann::json(const Settings&)> value;
  std::function<void(const Settings& from, Settings& to)> copy;
};

struct Range {
  std::int64_t least;
  std::int64_t most;
  bool orNone = false;  // 0 too: no limit
};

Value flag(bool Settings::* field);
Value number(std::int64_t Settings::* field, Range range, std::string unit);
Value choice(std::string Settings::* field, std::vector<std::string> allowed);
Value subnet(std::string Settings::* field);
Value subnet6(std::string Settings::* field);
Value program(std::string Settings::* field);            // an absolute path, or empty
Value name(std::string Settings::* field, bool orNone);  // as of a runtime handler or a CNI network
Value directories(std::vector<std::string> Settings::* field, bool orNone);
Value imagePatterns(std::vector<std::string> Settings::* field);
Value fileLimit();
Value runtimes();

}  // namespace userpod::types
